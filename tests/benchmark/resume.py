"""What it costs to resume within an epoch: the time to its next batch.

    python -m tests.benchmark.resume [--images 1281167] [--batch 256] [--place 4000] [FOLDER]

As many records as ImageNet has, of the images of tests.benchmark.input: one file of 1 GB, under
many names. Each time in a process of its own, with the default number of readers: the first batch
of an epoch, and of seven places up to --place. One reader decodes all images before the place
again; its speed is measured on its first batches.
"""

import argparse
import json
import math
import os
import sys
import tempfile
import time
from pathlib import Path

from data.arguments import READERS
from data.datasets import DATASETS
from data.iterators import EpochIter, record_args, training_args
from log.machine import usable_cores
from tests.benchmark.input import output_of, pack_images

IMAGENET, LEVEL = DATASETS["imagenet"], 2
IMAGES_MADE = 320
FILE_BYTES = 1 << 30
#: Batches by which one reader's speed is measured.
MEASURED = 20


def make(folder: Path, images: int) -> list:
    """Write `images` records or a few more. Return the paths of the files."""
    _, once = pack_images(folder, IMAGES_MADE)
    content, first = once.read_bytes(), folder / "0.rec"
    times = min(FILE_BYTES // len(content), math.ceil(images / IMAGES_MADE))
    first.write_bytes(content * times)
    files = [first]
    while len(files) * times * IMAGES_MADE < images:
        files.append(folder / f"{len(files)}.rec")
        os.link(first, files[-1])
    return files


def seconds_to_batch(records: str, batch: int, number: int, readers: int, more: int = 1) -> dict:
    """Return the seconds to the batch `number` of an epoch, and to `more` batches from there."""
    shape, drawn = IMAGENET.image_shape, IMAGENET.augmentation[LEVEL]
    args = record_args(records, shape, batch, (0, 0, 0), (1, 1, 1), usable_cores())
    began = time.perf_counter()
    epoch = EpochIter(training_args(args, drawn), number=number, readers=readers)
    epoch.next().data[0].wait_to_read()
    first = time.perf_counter() - began
    for _ in range(more - 1):
        epoch.next().data[0].wait_to_read()
    return {"first": first, "all": time.perf_counter() - began}


def in_a_process(*args) -> dict:
    """Return what `seconds_to_batch(*args)` does in a process of its own."""
    code = (
        "import json, os, sys; from tests.benchmark.resume import seconds_to_batch; "
        "print(json.dumps(seconds_to_batch(*json.loads(sys.argv[1]))), flush=True); os._exit(0)"
    )
    return json.loads(output_of([sys.executable, "-c", code, json.dumps(args)]))


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmark.resume", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--images", type=int, default=1281167)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--place", type=int, default=4000, help="batches before it in the epoch")
    parser.add_argument("folder", nargs="?", help="where to write (default: a temporary folder)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        files = make(Path(folder), args.images)
        records = ";".join(map(str, files))
        size = sum(os.path.getsize(file) for file in files)
        print(f"{args.images} images of 480x640, {size / 1e9:.0f} GB, batches of {args.batch}\n")
        print(f"| batches before | first batch after, s, {READERS} readers |\n| ---: | ---: |")
        for place in (0, *(args.place * part // 7 for part in range(1, 8))):
            found = in_a_process(records, args.batch, place, READERS)
            print(f"| {place} | {found['first']:.1f} |", flush=True)
        found = in_a_process(records, args.batch, 0, 1, MEASURED)
        a_batch = (found["all"] - found["first"]) / (MEASURED - 1)
        print(
            f"\none reader: {args.batch / a_batch:.0f} images/s; to decode {args.place} batches "
            f"again would take {args.place * a_batch:.0f} s"
        )


if __name__ == "__main__":
    main()
