"""How fast Pillow decodes JPEG files, on one thread.

python -m tests.benchmark.peers.pillow_decoding FOLDER
"""

import argparse
import io
import json
import time
from pathlib import Path


def decoding_alone(paths, decode) -> float:
    """Return images/s of `decode(content)`, the files in memory."""
    files = [Path(path).read_bytes() for path in paths]
    began = time.perf_counter()
    for file in files:
        decode(file)
    return len(files) / (time.perf_counter() - began)


def main():
    from PIL import Image

    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    paths = parser.parse_args().folder.glob("*.jpg")
    speed = decoding_alone(paths, lambda file: Image.open(io.BytesIO(file)).convert("RGB"))
    print(json.dumps({"images_s": speed}))


if __name__ == "__main__":
    main()
