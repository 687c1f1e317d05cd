"""CIFAR-10 as records.

    python -m data.cifar10.prepare cifar-10-python.tar.gz

takes the published archive, python version, as it was downloaded, and writes train.rec (50,000
images) and val.rec (the 10,000 of its test batch), each with its index, and classes.txt beside this
file. The pixels are stored as they are (PNG). A record file that is finished is not made again.
"""

import io
import pickle
import sys
from pathlib import Path

import numpy as np

from data import DataError
from data.formats.classes import write_class_names
from data.packing.archives import open_tar
from data.packing.writer import encode_png, write_records
from log.command import OneLineParser

_TRAINING = tuple(f"data_batch_{i}" for i in range(1, 6))
_NAMES = "batches.meta"
#: What a damaged pickle, or one of something else, ends in.
_UNREADABLE = (
    pickle.UnpicklingError, AttributeError, EOFError, ImportError, IndexError, KeyError, TypeError,
    ValueError,
)  # fmt: skip


class _ArrayUnpickler(pickle.Unpickler):
    """Reads the archive's pickles and nothing else: a pickle may name any function to be called,
    these have to do with numpy arrays alone."""

    _ALLOWED = frozenset(
        (
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("_codecs", "encode"),
        )
    )

    def find_class(self, module, name):
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"names {module}.{name}")
        return super().find_class(module, name)


def read_batch(batch: dict) -> tuple:
    """Return (images, labels) of an archive's batch: (N, 32, 32, 3) uint8 RGB, N whole numbers."""
    images, labels = batch[b"data"], batch[b"labels"]
    if images.dtype != np.uint8 or images.shape != (len(labels), 3 * 32 * 32):
        raise ValueError(f"its data is {images.dtype} {images.shape}")
    return images.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels


def read_archive(archive: Path) -> tuple:
    """Return ({batch name: (images, labels)}, names of the classes). Raises DataError."""
    wanted = {name: read_batch for name in (*_TRAINING, "test_batch")}
    wanted[_NAMES] = lambda meta: [name.decode() for name in meta[b"label_names"]]
    found = {}
    with open_tar(archive) as tar:
        for member in tar:
            name = Path(member.name).name
            if name in wanted and member.isfile():
                content = io.BytesIO(tar.extractfile(member).read())
                try:
                    found[name] = wanted[name](_ArrayUnpickler(content, encoding="bytes").load())
                except _UNREADABLE as error:
                    raise DataError(
                        f"{archive}: not the CIFAR-10 archive, python version: {name}: {error}"
                    ) from None
    missing = [name for name in wanted if name not in found]
    if missing:
        raise DataError(
            f"{archive}: not the CIFAR-10 archive, python version: no {missing[0]} in it"
        )
    return found, found.pop(_NAMES)


def main(argv=None) -> int:
    parser = OneLineParser(
        prog="python -m data.cifar10.prepare", description="Make the records of CIFAR-10."
    )
    parser.add_argument("archive", type=Path, help="cifar-10-python.tar.gz")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent, help="folder for the records"
    )
    args = parser.parse_args(argv)
    try:
        # All is read before anything is written.
        batches, names = read_archive(args.archive)
        for name, parts in (("train", _TRAINING), ("val", ("test_batch",))):
            images = np.concatenate([batches[part][0] for part in parts])
            labels = [label for part in parts for label in batches[part][1]]
            # OpenCV wants blue, green, red.
            items = ((label, encode_png(rgb[:, :, ::-1])) for rgb, label in zip(images, labels))
            write_records(args.out / f"{name}.rec", items, total=len(labels))
        write_class_names(args.out, names)
    except DataError as error:
        print(f"data.cifar10.prepare: error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
