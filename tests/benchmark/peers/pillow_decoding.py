"""How fast Pillow decodes JPEG files, on one thread.

python -m tests.benchmark.peers.pillow_decoding FOLDER
"""

import argparse
import io
import json
import statistics
import time
from pathlib import Path

PASSES = 5  # over the files


def decoding_alone(paths, decode) -> float:
    """Return images/s of `decode(content)`, the files in memory."""
    files = [Path(path).read_bytes() for path in paths]
    speeds = []
    for _ in range(PASSES):
        began = time.perf_counter()
        for file in files:
            decode(file)
        speeds.append(len(files) / (time.perf_counter() - began))
    return statistics.median(speeds)


def main():
    from PIL import Image

    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    paths = parser.parse_args().folder.glob("*.jpg")
    speed = decoding_alone(paths, lambda file: Image.open(io.BytesIO(file)).load())
    print(json.dumps({"images_s": speed}))


if __name__ == "__main__":
    main()
