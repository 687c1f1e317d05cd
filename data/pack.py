"""Images into record files (RecordIO, as MXNet's ImageRecordIter reads them).

    python -m data.pack IMAGES OUT

IMAGES is a folder with a folder of images for each class, or with train/ and val/ which are such
folders, or a .lst file of MXNet's im2rec. OUT gets train.rec and val.rec with their indexes,
train.lst and val.lst (which record is which file, as im2rec has them) and classes.txt, the names of
the classes in the order of the labels.

It does what im2rec does, with the same pixels, except: an image that is cut off or damaged is left
out, as is a file that is not an image, each with its reason; EXIF rotation of WebP is followed;
transparent pixels become white; GIFs are read; any file name will do; copies of an image are on the
same side, training or validation; and an interrupted run resumes.
"""

import argparse
import shlex
import sys
from pathlib import Path
from typing import Optional, Sequence

from data.packing import CHUNK
from log.command import OneLineParser, Outcome, add_num_thread_arg, command, whole
from log.files import naming
from log.notices import Notices


def add_packing_args(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `pack_files` that don't affect the records."""
    add_num_thread_arg(parser)
    parser.add_argument(
        "--chunk",
        type=whole(1),
        default=CHUNK,
        metavar="N",
        help="images per chunk; an interruption loses at most one chunk (default: %(default)s)",
    )


def parse_arguments(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = _parser()
    args = parser.parse_args(argv)
    if not 0 <= args.val_fraction < 1:
        parser.error(f"--val-fraction: must be in [0, 1), not {args.val_fraction}")
    if args.quality > 100:
        parser.error(f"--quality: must be at most 100, not {args.quality}")
    return args


def _parser() -> OneLineParser:
    parser = OneLineParser(
        prog="python -m data.pack",
        description="Pack images into train.rec and val.rec. The same command resumes where it was "
        "interrupted.",
    )
    parser.add_argument(
        "images",
        type=Path,
        help="folder with a folder for each class, or with train/ and val/; or a .lst file of "
        "im2rec",
    )
    parser.add_argument("out", type=Path, help="folder for the records")
    parser.add_argument(
        "--val",
        type=Path,
        metavar="IMAGES",
        help="validation images, like IMAGES (default: a part of IMAGES, --val-fraction)",
    )
    parser.add_argument(
        "--val-fraction",
        type=float,
        default=0.1,
        metavar="X",
        help="share of each class for validation; 0 for none (default: %(default)s)",
    )
    parser.add_argument(
        "--root", type=Path, help="folder of the paths in a .lst file (default: that of the file)"
    )
    _add_pixel_args(parser)
    parser.add_argument(
        "--seed",
        type=whole(0),
        default=0,
        metavar="N",
        help="seed of the split and of the order of the training images (default: %(default)s)",
    )
    add_packing_args(parser)
    return parser


def _add_pixel_args(parser: argparse.ArgumentParser) -> None:
    """Add the arguments about how images are stored."""
    parser.add_argument(
        "--resize",
        type=whole(1),
        metavar="PIXELS",
        help="short side of the training images (default: 480; less if nearly all are smaller than "
        "half of that)",
    )
    parser.add_argument(
        "--val-resize",
        type=whole(1),
        metavar="PIXELS",
        help="short side of the validation images, of which the network sees the centre (default: "
        "256; less if nearly all are small)",
    )
    parser.add_argument(
        "--no-enlarge",
        dest="enlarge",
        action="store_false",
        help="images with a smaller short side keep their size (default: they are enlarged, as "
        "im2rec does)",
    )
    parser.add_argument(
        "--balance",
        action="store_true",
        help="repeat training images of smaller classes until all classes have the same number",
    )
    parser.add_argument(
        "--quality",
        type=whole(1),
        default=90,
        metavar="N",
        help="JPEG quality, 1 to 100 (default: %(default)s)",
    )


def main(argv: Optional[Sequence[str]] = None) -> int:
    interrupted = "interrupted; the same command resumes"
    with command("data.pack", interrupted, writes_files=True) as outcome:
        args = parse_arguments(argv)
        with naming(args.out):
            pack(args, outcome)
    return outcome.code


def pack(args: argparse.Namespace, outcome: Outcome) -> None:
    """Write the records that the arguments ask for, and print what was done."""
    from data.formats.classes import write_class_names
    from data.packing.job import locked, plan, remember_job, stored_sizes
    from data.packing.writer import classes_without_images, pack_files, write_list, write_skipped

    notices = Notices()
    job = plan(args, notices)
    given = {"train": args.resize, "val": args.val_resize}
    sizes = stored_sizes(given, job.parts, args.enlarge, notices)
    args.out.mkdir(parents=True, exist_ok=True)
    with locked(args.out):
        remember_job(args, job.parts, sizes)
        write_class_names(args.out, job.classes)
        outcome.begun()
        for notice in notices:
            print(notice)
        for name, reason in job.skipped:
            print(f"left out: {name}: {reason}")
        if job.skipped:
            write_skipped(args.out / "skipped.txt", job.skipped)
        left_out = len(job.skipped)
        for part, items in job.parts.items():
            write_list(args.out / f"{part}.lst", items)
            left_out += len(
                pack_files(
                    args.out / f"{part}.rec", items, sizes[part], args.quality, args.num_thread,
                    args.chunk, enlarge=args.enlarge,
                )
            )  # fmt: skip
        for warning in classes_without_images(
            args.out / "train.rec", job.parts["train"], job.classes
        ):
            print(f"warning: {warning}")
    print(
        f"{args.out}: {len(job.classes)} classes; {left_out} files left out"
        + (f", listed in {args.out}/*skipped.txt" if left_out else "")
    )
    without = "" if "val" in job.parts else " --data-val="
    print(f"next: {training_command(args.out)}{without}")


def training_command(records: Path) -> str:
    """Return the README's command, which suits a first run of a few hundred images or more."""
    return shlex.join([
        "python", "-u", "train_xception.py", "--data-type", "custom", "--data-dir", str(records),
        "--batch-size", "32", "--lr", "0.0125", "--num-epochs", "30", "--lr-schedule", "cosine",
        "--model-prefix", f"model/{records.resolve().name}",
    ])  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
