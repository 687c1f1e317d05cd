"""Scores as tables and pictures."""

import csv
import io
from pathlib import Path
from typing import Any, List, Optional, Sequence, Tuple

import numpy as np

from log.files import write_whole
from model.network.scores import Scores

#: Class, images, correct ones, recall, precision; the last two None where they are 0 of 0.
Row = Tuple[str, int, int, Optional[float], Optional[float]]


def class_table(scores: Scores, names: Sequence[str]) -> List[Row]:
    """Return a row for each class."""
    correct = np.diag(scores.confusion)
    images, predicted = scores.confusion.sum(axis=1), scores.confusion.sum(axis=0)
    return [
        (name, int(n), int(c), c / n if n else None, c / p if p else None)
        for name, n, c, p in zip(names, images, correct, predicted)
    ]


def print_table(scores: Scores, names: Sequence[str]) -> None:
    """Print the rows of `class_table`, the class of the lowest recall first."""
    width = max(map(len, names))
    print(f"{'class':{width}}  images  correct  recall  precision")
    rows = class_table(scores, names)
    for name, images, correct, *shares in sorted(rows, key=lambda r: (r[3] is None, r[3] or 0)):
        recall, precision = ("-" if share is None else f"{share:.4f}" for share in shares)
        print(f"{name:{width}}  {images:6}  {correct:7}  {recall:>6}  {precision:>9}")


def write_report(scores: Scores, names: Sequence[str], prefix: Path) -> List[Path]:
    """Write PREFIX-classes.csv, PREFIX-confusion.csv and PREFIX-confusion.png, each whole or not at
    all; return their paths. Raises OSError.

    A row of the confusion matrix is a class, a column what its images were predicted to be.
    """
    prefix.parent.mkdir(parents=True, exist_ok=True)
    endings = ("classes.csv", "confusion.csv", "confusion.png")
    paths = [prefix.with_name(f"{prefix.name}-{ending}") for ending in endings]
    table = [("class", "images", "correct", "recall", "precision"), *class_table(scores, names)]
    matrix = [["", *names], *([name, *row] for name, row in zip(names, scores.confusion.tolist()))]
    tables: List[List[Any]] = [table, matrix]
    for path, rows in zip(paths, tables):
        text = io.StringIO(newline="")
        csv.writer(text).writerows(rows)
        write_whole(path, text.getvalue().encode())
    _draw_confusion(scores.confusion, names, paths[2])
    return paths


def _draw_confusion(
    confusion: np.ndarray, names: Sequence[str], path: Path, most_names: int = 40
) -> None:
    from log.pictures import new_figure, without_tex, write_figure  # matplotlib takes its time

    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    size = 3 + 0.35 * min(len(names), most_names)
    figure = new_figure((size + 1, size))
    axis = figure.subplots()
    picture = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    figure.colorbar(picture, label="share of the class's images")
    axis.set_xlabel("predicted class")
    axis.set_ylabel("true class")
    if len(names) <= most_names:
        labels = list(map(without_tex, names))
        axis.set_xticks(range(len(names)), labels, rotation=90)
        axis.set_yticks(range(len(names)), labels)
        for row, column in zip(*np.nonzero(confusion)):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axis.text(column, row, confusion[row, column], color=colour, ha="center", va="center",
                      fontsize="small")  # fmt: skip
    write_figure(figure, path, dpi=120)
