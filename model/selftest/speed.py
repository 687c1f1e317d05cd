"""How fast it trains on 1, 2, 4 ... devices, how fast it reads images, and which is the limit."""

import re
from typing import Dict, List, Tuple

import cv2
import numpy as np

from data.packing.writer import write_records
from model.selftest import runs
from model.selftest.setup import Result, Setup, attempt

#: What each of N GPUs must reach of a single one's speed. Of CPU contexts, which share the cores:
#: what all of them must reach together.
SHARE = 0.5
# Photos, and how many of a small self-test.
_IMAGES, _FEW = 128, 32


def check(setup: Setup) -> List[Result]:
    """Measure with --benchmark: training on random pixels, and reading records of photo-like
    images with ImageNet's augmentation."""
    speeds: Dict[int, float] = {}
    results = []
    for devices in counts(len(setup.ids)):
        least = least_speed(setup, devices, speeds)
        name = f"speed, {devices} x {setup.batch_size} images, {_side(setup)}"
        tolerance = f"at least {least:.1f}" if least else "above 0"
        results.append(
            attempt(name, tolerance, lambda: _training(setup, devices, least, speeds))  # noqa: B023
        )
    results.append(attempt("speed, input pipeline", "above 0", lambda: _input(setup, speeds)))
    return results


def counts(devices: int) -> List[int]:
    """Return 1, 2, 4 ... and all."""
    powers = [1 << power for power in range(devices.bit_length()) if 1 << power <= devices]
    return sorted({*powers, devices})


def least_speed(setup: Setup, devices: int, speeds: Dict[int, float]) -> float:
    """Return the images per second that so many devices must reach; 0 for the first."""
    single = speeds.get(1, 0)
    if devices == 1:
        return 0
    return SHARE * single * (devices if setup.on_gpus else 1)


def _training(
    setup: Setup, devices: int, least: float, speeds: Dict[int, float]
) -> Tuple[bool, str]:
    batches = 20 if setup.on_gpus else 1 if setup.small else 4
    printed = runs.run(
        [
            "--benchmark=training", f"--benchmark-batches={batches}", *setup.flags(devices),
            f"--batch-size={setup.batch_size * devices}", "--num-classes=1000",
            f"--image-shape=3,{setup.image_size},{setup.image_size}",
        ]
    )  # fmt: skip
    speed = speeds[devices] = _images_per_second(printed)
    times = f", {speed / speeds[1]:.2f} x one device" if devices > 1 and speeds.get(1) else ""
    return speed > 0 and speed >= least, f"{speed:.1f} images/s{times}"


def _input(setup: Setup, speeds: Dict[int, float]) -> Tuple[bool, str]:
    records = photo_records(setup)
    batches = 2 if setup.small else 40
    printed = runs.run(
        [
            "--benchmark=input", f"--benchmark-batches={batches}", "--data-type=custom",
            f"--data-train={records}", "--data-val=", "--batch-size=32", *setup.flags(1),
        ]
    )  # fmt: skip
    speed = _images_per_second(printed)
    training = max(speeds.values(), default=0.0)
    if not training:
        return speed > 0, f"{speed:.1f} images/s; training has no speed to compare with"
    limit = "the input pipeline" if speed < training else "training"
    figure = f"{speed:.1f} images/s; training takes up to {training:.1f}: the limit is {limit}"
    return speed > 0, figure


def _side(setup: Setup) -> str:
    return f"{setup.image_size}x{setup.image_size}"


def _images_per_second(printed: str) -> float:
    found = re.findall(r"([\d.]+) images/s", printed)
    return float(found[-1])


def photo_records(setup: Setup) -> str:
    """Return records of JPEG images of 480 x 640 pixels, quality 90, with detail at all scales."""
    path = setup.place("photos") / "photos.rec"
    count = _FEW if setup.small else _IMAGES
    random = np.random.RandomState(0)
    write_records(path, ((number % 2, _photo(random)) for number in range(count)), count)
    return str(path)


def _photo(random: np.random.RandomState) -> bytes:
    image = random.normal(128, 3, (480, 640, 3)).astype(np.float32)
    for octave in range(1, 8):
        # Natural images have less of what is finer (Field 1987).
        noise = random.normal(0, 90 / octave**1.5, (2**octave, 2**octave, 3))
        image += cv2.resize(noise.astype(np.float32), (640, 480))
    pixels = np.clip(image, 0, 255).astype(np.uint8)
    done, code = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 90])
    assert done, "OpenCV can't write JPEG"
    return code.tobytes()
