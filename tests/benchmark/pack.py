"""What packing costs: data.pack against im2rec's own command line, the same images and settings.

    python -m tests.benchmark.pack [--images 1000] [FOLDER]

Images per second of wall-clock time, the start of Python included, A B A B, medians. FOLDER has
folders of images; without it, photograph-sized JPEGs of noise are made. Before the figures, the
records of both are compared: labels and images are the same, byte for byte.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import mxnet as mx
import numpy as np

from log.machine import usable_cores

IM2REC = Path(mx.__file__).with_name("tools") / "im2rec.py"


def make_images(folder, count):
    """JPEGs of ImageNet's usual sizes, in 4 folders: smooth colours with some grain."""
    rng = np.random.RandomState(0)
    for i in range(count):
        height, width = rng.randint(333, 500), rng.randint(400, 640)
        coarse = rng.randint(0, 256, (height // 16, width // 16, 3)).astype(np.uint8)
        picture = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).astype(int)
        picture = (picture + rng.randint(-12, 12, picture.shape)).clip(0, 255).astype(np.uint8)
        path = folder / f"{i % 4}" / f"{i}.jpg"
        path.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(path), picture)


def ours(source, out, threads):
    return ["-m", "data.pack", source, out, "--val-fraction=0", "--num-thread", threads]


def theirs(source, out, threads):
    return [IM2REC, out / "train", source, "--resize=480", "--quality=90", "--num-thread", threads]


def seconds(command) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, *map(str, command)], check=True, capture_output=True)
    return time.perf_counter() - began


def images_of(rec) -> dict:
    reader = mx.recordio.MXRecordIO(str(rec), "r")
    unpacked = map(mx.recordio.unpack, iter(reader.read, None))
    return {header.id: (header.label, image) for header, image in unpacked}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("folder", nargs="?", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        source = args.folder or Path(work, "images")
        if not args.folder:
            source.mkdir()
            make_images(source, args.images)
        times = {"data.pack": [], "im2rec": []}
        records = {}
        for _ in range(args.rounds):
            for name, command in (("data.pack", ours), ("im2rec", theirs)):
                out = Path(work, name)
                listed = Path(work, "data.pack", "train.lst")
                if name == "im2rec":
                    out.mkdir()
                    shutil.copy(listed, out)
                else:
                    shutil.rmtree(out, ignore_errors=True)
                times[name].append(seconds(command(source, out, args.threads)))
                records[name] = images_of(out / "train.rec")
            shutil.rmtree(Path(work, "im2rec"))
        count = len(records["im2rec"])
        same = records["data.pack"] == records["im2rec"]
        print(f"{count} images, {args.threads} threads; the same records: {same}")
        medians = {name: statistics.median(each) for name, each in times.items()}
        for name, median in medians.items():
            print(f"{name:9} {count / median:7.1f} images/s  ({median:.2f} s)")
        print(f"ratio     {medians['im2rec'] / medians['data.pack']:7.2f}")


if __name__ == "__main__":
    main()
