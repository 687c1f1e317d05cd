"""The checkpoint that a conversion from another format writes."""

import argparse
import os
import platform
import time
from dataclasses import dataclass
from typing import Any, Dict, Union

import numpy as np

from data import DataError
from data.formats.classes import read_class_names
from log.command import Outcome
from model import ModelError
from model.checkpoint import Checkpoints, Place
from model.network.params import check_params
from symbol_xception import get_xception_symbol


@dataclass(frozen=True)
class Source:
    """What was read from another format.

    path : where it was.
    params : entries of a checkpoint, ``arg:NAME`` and ``aux:NAME``, float32. Without
        ``arg:fc1_bias`` the network ends in its features.
    arguments : of get_xception_symbol, but for the classes.
    from_keras : whether its images had pixels from -1 to 1.
    epoch : of the checkpoint to write.
    """

    path: Union[str, "os.PathLike[str]"]
    params: Dict[str, np.ndarray]
    arguments: Dict[str, Any]
    from_keras: bool
    epoch: int = 0


def check_free(prefix: str) -> None:
    """Raise ModelError where `prefix` has checkpoints."""
    if Checkpoints(prefix).places():
        raise ModelError(f"{prefix} has checkpoints: another PREFIX, or delete them")


def write(source: Source, args: argparse.Namespace, outcome: Outcome) -> str:
    """Write the checkpoint; return the name of its .params file. All that can fail but for the
    writing comes first."""
    arguments = dict(source.arguments)
    if "arg:fc1_bias" in source.params:
        arguments["num_classes"] = len(source.params["arg:fc1_bias"])
    else:
        arguments["features"] = True
    symbol = get_xception_symbol(**arguments)
    check_params(source.params, symbol, source.path)
    run = {
        "settings": _settings(source, args, arguments.get("num_classes", 0)),
        "converted_from": str(source.path),
        # What is not known of the run that made these weights.
        **dict.fromkeys(("lr", "lr_epoch", "batches", "figures", "validation", "best")),
        "versions": {"python": platform.python_version()},
        "saved": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    outcome.begun()
    checkpoints, place = Checkpoints(args.prefix), Place(source.epoch)
    checkpoints.save(place, symbol.tojson(), source.params, {}, run)
    return str(checkpoints.params_file(place))


def _settings(source: Source, args: argparse.Namespace, num_classes: int) -> Dict[str, Any]:
    classes = read_class_names(args.classes) if args.classes else None
    if classes and len(classes) != num_classes:
        raise DataError(
            f"{args.classes}: {len(classes)} names, the network has {num_classes} classes"
        )
    size = args.image_size or (299 if source.from_keras else 224)
    # Keras' network takes pixels from -1 to 1, the 2017 script's took them as they are.
    mean, std = (127.5, 127.5) if source.from_keras else (0, 1)
    return {
        "image_shape": [3, size, size],
        "rgb_mean": [mean] * 3,
        "rgb_std": [std] * 3,
        "short_side": args.short_side or round(size * 8 / 7),
        "classes": classes,
    }
