"""How long the check of all labels before training takes, for a file of ImageNet's shape.

    python -m tests.benchmark.scan [--records 1281167] [FOLDER]

The file has a header every 110,000 bytes and holes between: 141 GB that take up 5 GB of the disk.
Read twice from the page cache and once without, with an index and without one.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import mxnet as mx

from data.formats.recordset import scan
from data.inspect import check_labels

LENGTH = 110_000


def make(rec, count):
    whole = rec.with_suffix(".one")
    writer = mx.recordio.MXRecordIO(str(whole), "w")
    writer.write(mx.recordio.pack(mx.recordio.IRHeader(0, 7.0, 0, 0), bytes(LENGTH - 32)))
    writer.close()
    head = whole.read_bytes()[:32]
    with open(rec, "wb") as file:
        for i in range(count):
            os.pwrite(file.fileno(), head, i * LENGTH)
        file.truncate(count * LENGTH)
    rec.with_suffix(".idx").write_text("".join(f"{i}\t{i * LENGTH}\n" for i in range(count)))


def seconds(rec, cold) -> float:
    os.utime(rec)  # or else the run's own memory of its last scan would answer
    if cold:
        os.sync()
        with open(rec, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    began = time.perf_counter()
    check_labels(scan(rec), 1000)
    return time.perf_counter() - began


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--records", type=int, default=1281167)
    parser.add_argument("folder", nargs="?", help="where to write (default: a temporary folder)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        rec = Path(folder, "x.rec")
        make(rec, args.records)
        for index in (True, False):
            if not index:
                rec.with_suffix(".idx").unlink()
            times = [seconds(rec, cold) for cold in (False, False, True)]
            print(
                f"{args.records} records, {'an' if index else 'no'} index: {times[1]:.1f} s from "
                f"the page cache, {times[2]:.1f} s from the disk"
            )


if __name__ == "__main__":
    main()
