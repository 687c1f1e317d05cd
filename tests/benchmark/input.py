"""The input pipeline: JPEG images into augmented batches, beside PyTorch's DataLoader with Pillow.

    python -m tests.benchmark.input [--images 320] [--out FILE.json]

Makes photo-like JPEG images with a short side of 480 pixels at quality 90 and packs them. Then, in
a process of its own each time, medians: reading, decoding and augmenting them (ImageNet's levels),
on one core and on all, beside decoding alone; and training on them beside training on pixels in
memory, the reduced filters at 224x224.
"""

import argparse
import contextlib
import json
import math
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
from data.parts import PART_BYTES
from log.machine import usable_cores
from model.devices import has_bfloat16, import_mxnet
from tests.benchmark.peers.environments import INHERITED, ROOT, PeerError, last_line, python_of
from tests.benchmark.peers.pillow_decoding import decoding_alone
from tests.benchmark.speed import undisturbed

BATCH = 16
#: Seconds of decoding, and several parts of each reader.
BATCHES = 400

#: Name, flags, level of the DataLoader that does the same. Level 2 scales the whole image and then
#: crops it; the peer, as torchvision does, cuts out a piece of that size and resizes it.
SETTINGS = (
    ("1", ("--aug-level", 1), 1),
    ("2", ("--aug-level", 2), 2),
    (
        "2, cut out and resized",
        ("--aug-level", 2, "--random-resized-crop", 1, "--min-random-area", 0.16,
         "--max-random-area", 0.57),
        2,
    ),
    ("3", ("--aug-level", 3), None),
)  # fmt: skip


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


def pack_images(folder: Path, count: int) -> tuple:
    """Make `count` images and pack them; return their paths and the record file."""
    paths, rec = make_images(folder, count), folder / "once.rec"
    items = [(number % 1000, str(path), path.read_bytes) for number, path in enumerate(paths)]
    with contextlib.redirect_stdout(sys.stderr):
        pack_files(rec, items, resize=480, quality=90, num_thread=usable_cores())
    return paths, rec


def output_of(command, cores=None) -> str:
    """Return what a process on the first `cores` cores prints."""
    usable = sorted(os.sched_getaffinity(0))[:cores]
    environment = {name: value for name, value in INHERITED.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=ROOT,
        env={**environment, "PYTHONPATH": str(ROOT)},
        preexec_fn=lambda: os.sched_setaffinity(0, usable),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise PeerError(last_line(done))
    return done.stdout


def ours(rec, *more):
    return [
        sys.executable, "-u", ROOT / "train_xception.py", "--gpus=", "--data-type", "custom",
        "--data-train", rec, "--data-val=", "--num-classes", 1000, "--batch-size", BATCH, *more,
    ]  # fmt: skip


def medians(measurement, rounds) -> dict:
    """Return the median of each figure that `measurement()` gives."""
    found = [undisturbed(measurement) for _ in range(rounds)]
    return {name: statistics.median(each[name] for each in found) for name in found[0]}


def input_on(cores, flags, rec, rounds) -> dict:
    """Return images/s and the seconds to the first batch, on that many cores."""
    reader = ours(
        rec, "--benchmark", "input", "--benchmark-batches", BATCHES, "--data-nthreads", cores,
        *flags,
    )  # fmt: skip

    def once() -> dict:
        line = output_of(reader, cores).splitlines()[-1]
        speed = float(re.search(r": ([\d.]+) images/s,", line)[1])
        return {"speed": speed, "first": float(re.search(r"batch after ([\d.]+) s", line)[1])}

    return medians(once, rounds)


def pillow_on(cores, rounds, python, worker, *arguments) -> float:
    """Return the images/s that a worker of the DataLoader's environment prints."""
    command = [python, "-m", f"tests.benchmark.peers.{worker}", *arguments]

    def once() -> dict:
        return json.loads(output_of(command, cores).splitlines()[-1])

    return medians(once, rounds)["images_s"]


def loader_on(cores, level, folder, python, rounds) -> float:
    """Return images/s of the DataLoader with as many processes."""
    return pillow_on(
        cores, rounds, python, "pillow_input", folder, "--workers", cores,
        "--batch", BATCH, "--batches", BATCHES, "--level", level,
    )  # fmt: skip


def decoders() -> dict:
    """Return name -> function that decodes a file: the libjpeg-turbo in OpenCV and in MXNet."""
    cv2.setNumThreads(1)
    mxnet = import_mxnet()
    return {
        "OpenCV": lambda file: cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR),
        "MXNet": lambda file: mxnet.image.imdecode(file).wait_to_read(),
    }


def training_in(dtype, rec, folder, rounds) -> dict:
    """Return images/s of training on pixels in memory and on records."""
    synthetic = ours(rec, "--dtype", dtype, "--benchmark", "--benchmark-batches", 10)
    real = ours(
        rec, "--dtype", dtype, "--num-epochs", 1, "--frequent", 4, "--overwrite",
        "--model-prefix", folder / "x", "--log-file", folder / "x.log",
    )  # fmt: skip
    found = {"synthetic": [], "records": []}
    for _ in range(rounds):
        line = output_of(synthetic)
        found["synthetic"].append(float(re.search(r": ([\d.]+) images/s,", line)[1]))
        # The first line of an epoch has the start of everything in it.
        _, *speeds = re.findall(r"Speed: ([\d.]+) samples", output_of(real))
        found["records"].append(statistics.median(map(float, speeds)))
    return {name: statistics.median(values) for name, values in found.items()}


def input_table(rec, folder, python, paths, rounds, out) -> None:
    """Print images/s of each core."""
    decoding = out["decoding alone"] = {
        name: decoding_alone(paths, decode) for name, decode in decoders().items()
    }
    decoding["Pillow"] = pillow_on(1, rounds, python, "pillow_decoding", folder)
    alone = decoding["OpenCV"]
    each = ", ".join(f"{name} {speed:.0f}" for name, speed in decoding.items())
    print(f"decoding alone, images/s of one core: {each}\n")
    print(
        "| cores | level | this project, images/s a core | of decoding alone | "
        "DataLoader, Pillow | ratio | first batch after, s |"
    )
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
    for cores in sorted({1, usable_cores()}):
        peers = out[f"loader, cores {cores}"] = {
            level: loader_on(cores, level, folder, python, rounds) for level in (1, 2)
        }
        for name, flags, like in SETTINGS:
            found = out[f"input, cores {cores}, level {name}"] = input_on(cores, flags, rec, rounds)
            mine, beside = found["speed"] / cores, " | "
            if like:
                beside = f"{peers[like] / cores:.0f} | {found['speed'] / peers[like]:.2f}"
            print(
                f"| {cores} | {name} | {mine:.0f} | {mine / alone:.2f} | {beside} | "
                f"{found['first']:.1f} |"
            )


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
    out = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths, once = pack_images(folder, args.images)
        rec = folder / "train.rec"
        content = once.read_bytes()
        # As many times as make enough for two readers that take more than one part each.
        rec.write_bytes(content * math.ceil(4 * PART_BYTES / len(content)))
        size = len(content) / args.images / 1000
        print(f"{args.images} images, 480x640, quality 90, {size:.0f} kB each, many times over\n")
        try:
            input_table(rec, folder, python_of("torch"), paths, args.rounds, out)
            print("\n| training | in memory, images/s | from records | share kept |")
            print("| --- | ---: | ---: | ---: |")
            for dtype in ("float32", "bfloat16") if has_bfloat16() else ("float32",):
                found = training_in(dtype, once, folder, args.rounds)
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
