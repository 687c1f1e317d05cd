"""The images of scikit-learn's `load_digits`, split into training and validation."""

from typing import Dict, List, Tuple

import cv2
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

VALIDATION_IMAGES = 360


def digits() -> Dict[str, List[Tuple[int, np.ndarray]]]:
    """Return the (label, image) pairs of "train" and "val"; an image is (32, 32, 3) uint8."""
    pixels, labels = load_digits(return_X_y=True)
    split = train_test_split(
        np.arange(len(labels)), test_size=VALIDATION_IMAGES, stratify=labels, random_state=0
    )
    return {
        part: [(labels[i], enlarged(pixels[i])) for i in members]
        for part, members in zip(("train", "val"), split)
    }


def enlarged(pixels: np.ndarray) -> np.ndarray:
    """Return a (32, 32, 3) uint8 image of (64,) values from 0 to 16."""
    grey = (pixels.reshape(8, 8) * (255 / 16)).round().astype(np.uint8)
    return cv2.cvtColor(cv2.resize(grey, (32, 32)), cv2.COLOR_GRAY2BGR)
