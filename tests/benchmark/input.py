"""The input pipeline: JPEG images into augmented batches, beside PyTorch's DataLoader with Pillow.

    python -m tests.benchmark.input [--images 320] [--out FILE.json]

Makes photo-like JPEG images with a short side of 480 pixels at quality 90 and packs them. Then, in
turn, A B A B, each time in a process of its own, medians: reading, decoding and augmenting them
(ImageNet, level 2), on one core and on all; and training on them beside training on pixels in
memory, the reduced filters at 224x224.
"""

import argparse
import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np

from data.packing.writer import pack_files
from log.machine import usable_cores
from model.devices import has_bfloat16
from tests.benchmark.peers.environments import ROOT, PeerError, last_line, python_of

BATCH = 16


def picture(random) -> np.ndarray:
    """Return a (480, 640, 3) uint8 image with edges and detail at all scales, as photos have."""
    image = np.zeros((480, 640, 3), np.float32)
    for octave in range(1, 8):
        # Amplitude falls with frequency, as it does in natural images (Field 1987).
        noise = random.normal(0, 90 / octave**1.5, (2**octave, 2**octave, 3)).astype("f4")
        image += cv2.resize(noise, (640, 480), interpolation=cv2.INTER_CUBIC)
    image += 128 + random.normal(0, 3, image.shape)
    for _ in range(12):
        centre = tuple(int(random.randint(0, side)) for side in (640, 480))
        axes = tuple(int(x) for x in random.randint(10, 120, 2))
        colour = tuple(map(float, random.randint(0, 256, 3)))
        cv2.ellipse(image, centre, axes, random.randint(0, 180), 0, 360, colour, -1, cv2.LINE_AA)
    return np.clip(image, 0, 255).astype("uint8")


def make_images(folder: Path, count: int) -> list:
    """Write `count` JPEG images; return their paths."""
    random = np.random.RandomState(0)
    paths = [folder / f"{number}.jpg" for number in range(count)]
    for path in paths:
        cv2.imwrite(str(path), picture(random), [cv2.IMWRITE_JPEG_QUALITY, 90])
    return paths


def images_per_second(command, pattern=None, cores=None, take=statistics.median, cwd=ROOT):
    """Return what a process on the first `cores` cores prints, by `pattern` or as JSON."""
    usable = sorted(os.sched_getaffinity(0))[:cores]
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={**environment, "PYTHONPATH": str(ROOT)},
        preexec_fn=lambda: os.sched_setaffinity(0, usable),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise PeerError(last_line(done))
    if pattern is None:
        return json.loads(done.stdout.splitlines()[-1])["images_s"]
    return take([float(number) for number in re.findall(pattern, done.stdout)])


def ours(rec, *more):
    return [
        sys.executable, "-u", ROOT / "train_xception.py", "--gpus=", "--data-type", "custom",
        "--data-train", rec, "--data-val=", "--num-classes", 1000, "--batch-size", BATCH, *more,
    ]  # fmt: skip


def input_on(cores, rec, folder, python, batches, rounds) -> dict:
    """Return images/s of both pipelines, on that many cores with as many threads or workers."""
    loader = [
        python, "-m", "tests.benchmark.peers.pillow_input", folder, "--workers", cores,
        "--batch", BATCH, "--batches", batches,
    ]  # fmt: skip
    reader = ours(
        rec, "--benchmark", "input", "--benchmark-batches", batches, "--data-nthreads", cores
    )
    found = {"ours": [], "loader": []}
    for _ in range(rounds):
        found["ours"].append(images_per_second(reader, r": ([\d.]+) images/s,", cores))
        found["loader"].append(images_per_second(loader, cores=cores))
    return {name: statistics.median(values) for name, values in found.items()}


def training_in(dtype, rec, folder, rounds) -> dict:
    """Return images/s of training on pixels in memory and on records."""
    synthetic = ours(rec, "--dtype", dtype, "--benchmark", "--benchmark-batches", 10)
    real = ours(
        rec, "--dtype", dtype, "--num-epochs", 1, "--frequent", 4, "--overwrite",
        "--model-prefix", folder / "x", "--log-file", folder / "x.log",
    )  # fmt: skip
    found = {"synthetic": [], "records": []}
    for _ in range(rounds):
        found["synthetic"].append(images_per_second(synthetic, r": ([\d.]+) images/s,"))
        # The first line of an epoch has the start of everything in it.
        speed = images_per_second(
            real, r"Speed: ([\d.]+) samples", take=lambda lines: statistics.median(lines[1:])
        )
        found["records"].append(speed)
    return {name: statistics.median(values) for name, values in found.items()}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmark.input", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--images", type=int, default=320, help="to make (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", metavar="FILE", help="all figures, JSON")
    args = parser.parse_args()
    if args.images < 10 * BATCH:
        parser.exit(2, f"{parser.prog}: error: --images: at least {10 * BATCH}\n")
    cores = usable_cores()
    out = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = make_images(folder, args.images)
        rec = folder / "train.rec"
        items = [(number % 1000, str(path), path.read_bytes) for number, path in enumerate(paths)]
        with contextlib.redirect_stdout(sys.stderr):
            pack_files(rec, items, resize=480, quality=90, num_thread=cores)
        size = rec.stat().st_size / args.images / 1000
        print(f"{args.images} images, 480x640, quality 90, {size:.0f} kB each\n")
        try:
            python = python_of("torch")
            print("| cores | this project, images/s a core | DataLoader, Pillow | ratio |")
            print("| --- | ---: | ---: | ---: |")
            for number in sorted({1, cores}):
                found = input_on(number, rec, folder, python, 40, args.rounds)
                out[f"input, cores {number}"] = found
                mine, peer = (value / number for value in found.values())
                print(f"| {number} | {mine:.0f} | {peer:.0f} | {mine / peer:.2f} |")
            print("\n| training | in memory, images/s | from records | share kept |")
            print("| --- | ---: | ---: | ---: |")
            for dtype in ("float32", "bfloat16") if has_bfloat16() else ("float32",):
                found = training_in(dtype, rec, folder, args.rounds)
                out[f"training, {dtype}"] = found
                synthetic, real = found.values()
                print(f"| {dtype} | {synthetic:.1f} | {real:.1f} | {real / synthetic:.2f} |")
        except PeerError as error:
            print(f"{parser.prog}: error: {error}", file=sys.stderr)
            return 1
    if args.out:
        Path(args.out).write_text(json.dumps(out, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
