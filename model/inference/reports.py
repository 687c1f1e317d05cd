"""Scores as tables and pictures."""

import csv
from pathlib import Path

import numpy as np

from model.network.scores import Scores


def class_table(scores: Scores, names: list) -> list:
    """Return rows (class, images, right, recall, precision), None where it is 0 of 0."""
    right = np.diag(scores.confusion)
    there, taken = scores.confusion.sum(axis=1), scores.confusion.sum(axis=0)
    return [
        (name, int(n), int(r), r / n if n else None, r / t if t else None)
        for name, n, r, t in zip(names, there, right, taken)
    ]


def print_table(scores: Scores, names: list):
    """Print the rows of `class_table`, the class that is recognized worst first."""
    width = max(map(len, names))
    print(f"{'class':{width}}  images   right  recall  precision")
    rows = class_table(scores, names)
    for name, images, right, *shares in sorted(rows, key=lambda row: (row[3] is None, row[3] or 0)):
        recall, precision = ("-" if share is None else f"{share:.4f}" for share in shares)
        print(f"{name:{width}}  {images:6}  {right:6}  {recall:>6}  {precision:>9}")


def write_report(scores: Scores, names: list, prefix: Path) -> list:
    """Write PREFIX-classes.csv, PREFIX-confusion.csv and PREFIX-confusion.png; return their paths.

    Rows of the confusion matrix are the classes that images are of, columns what they were taken
    for.
    """
    prefix.parent.mkdir(parents=True, exist_ok=True)
    endings = ("classes.csv", "confusion.csv", "confusion.png")
    paths = [prefix.with_name(f"{prefix.name}-{ending}") for ending in endings]
    table = [("class", "images", "right", "recall", "precision"), *class_table(scores, names)]
    matrix = [["", *names], *([name, *row] for name, row in zip(names, scores.confusion.tolist()))]
    for path, rows in zip(paths, (table, matrix)):
        with open(path, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows)
    _draw_confusion(scores.confusion, names, paths[2])
    return paths


def _draw_confusion(confusion, names, path, most_names=40):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    size = 3 + 0.35 * min(len(names), most_names)
    figure, axis = plt.subplots(figsize=(size + 1, size), layout="constrained")
    picture = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    figure.colorbar(picture, label="share of the class's images")
    axis.set_xlabel("taken for")
    axis.set_ylabel("class")
    if len(names) <= most_names:
        # No TeX in a name.
        plain = [name.replace("$", r"\$") for name in names]
        axis.set_xticks(range(len(names)), plain, rotation=90)
        axis.set_yticks(range(len(names)), plain)
        for row, column in zip(*np.nonzero(confusion)):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axis.text(column, row, confusion[row, column], color=colour, ha="center", va="center",
                      fontsize="small")  # fmt: skip
    figure.savefig(path, dpi=120)
    plt.close(figure)
