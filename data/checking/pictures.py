"""Pictures of records: as they are, and as training sees them."""

import math
import tempfile
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence

import matplotlib
import mxnet as mx
import numpy as np

from data.formats.images import decode
from data.formats.recordfile import Found, unpacked
from data.inspect import short_sides
from data.iterators import EpochIter

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def draw(
    shown: Sequence[Found],
    names: Optional[Sequence[str]],
    augmented_args: Callable[[Optional[int]], Dict[str, Any]],
    prefix: Path,
) -> List[Path]:
    """Write the pictures PREFIX-samples.png, the records of `shown` with their labels, and
    PREFIX-augmented.png, the same as training sees them.

    augmented_args : called with the short side of the images, None if they differ, returns the
    arguments of ImageRecordIter for training. Return the paths of the pictures.
    """
    labels, samples = [], []
    with tempfile.TemporaryDirectory() as folder:
        rec = str(Path(folder, "shown.rec"))
        writer = mx.recordio.MXRecordIO(rec, "w")
        for found in shown:
            label, _, image = unpacked(found.content)
            labels.append(f"{label} {names[label]}" if names and label < len(names) else str(label))
            samples.append(decode(image)[:, :, ::-1])
            writer.write(found.content)
        writer.close()
        in_order = {"path_imgrec": rec, "batch_size": len(shown), "shuffle": False}
        batch = EpochIter({**augmented_args(short_sides(samples).common), **in_order}).next()
        augmented = batch.data[0].asnumpy().transpose(0, 2, 3, 1).clip(0, 255).astype(np.uint8)
    paths: List[Path] = []
    for kind, pictures in (("samples", samples), ("augmented", augmented)):
        paths.append(prefix.with_name(f"{prefix.name}-{kind}.png"))
        _contact_sheet(pictures, labels, paths[-1])
    return paths


def _contact_sheet(pictures: Sequence[np.ndarray], labels: Sequence[str], path: Path) -> None:
    columns = math.ceil(math.sqrt(len(pictures)))
    rows = math.ceil(len(pictures) / columns)
    figure, axes = plt.subplots(
        rows, columns, squeeze=False, figsize=(2 * columns, 2.2 * rows), layout="constrained"
    )
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, picture, label in zip(axes.flat, pictures, labels):
        axis.imshow(picture)
        # No TeX in a name.
        axis.set_title(label.replace("$", r"\$"), fontsize="small")
    figure.savefig(path, dpi=100)
    plt.close(figure)
