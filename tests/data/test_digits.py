"""data.digits.prepare: the records are the images of scikit-learn."""

from collections import Counter

import cv2
import numpy as np
from sklearn.datasets import load_digits

from data.digits import prepare as digits_prepare
from data.formats import classes
from tests.data.files import files_in, read_all


def test_digits_records_are_the_images_of_scikit_learn(digits):
    train, val = (read_all(digits / f"{name}.rec") for name in ("train", "val"))
    assert (len(train), len(val)) == (1437, 360)
    pixels, labels = load_digits(return_X_y=True)
    expected = Counter()
    for image, label in zip(pixels, labels):
        grey = (image.reshape(8, 8) * (255 / 16)).round().astype(np.uint8)
        expected[(label, np.dstack([cv2.resize(grey, (32, 32))] * 3).tobytes())] += 1
    assert Counter((label, image.tobytes()) for _, label, image in train + val) == expected
    assert {image.shape for _, _, image in train + val} == {(32, 32, 3)}


def test_digits_split_is_stratified(digits):
    counts = Counter(label for _, label, _ in read_all(digits / "val.rec"))
    for label, count in Counter(load_digits().target).items():
        assert abs(counts[label] - count * 360 / 1797) < 1


def test_digits_records_are_always_the_same(digits, tmp_path):
    digits_prepare.main(["--out", str(tmp_path / "again")])
    names = {"train.rec", "train.idx", "val.rec", "val.idx", "classes.txt"}
    assert set(files_in(digits)) == names
    assert classes.class_names(digits / "train.rec") == list("0123456789")
    assert files_in(tmp_path / "again") == files_in(digits)
