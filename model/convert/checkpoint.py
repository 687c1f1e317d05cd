"""The checkpoint that a conversion from another format writes."""

import argparse
import os
import platform
import time
from dataclasses import dataclass
from typing import Any, Dict, List, NamedTuple, Optional, Tuple, Union

import numpy as np

from data import DataError
from data.formats.classes import read_class_names
from log.command import Outcome, print_notices
from log.notices import Notices
from model import ModelError
from model.checkpoint import Checkpoints, Place
from model.network.params import check_params
from symbol_xception import get_xception_symbol


class Images(NamedTuple):
    """The images that a network takes, as far as its file says it.

    shape : (3, height, width). mean, std : by colour, as Network's.
    usual_size, usual_mean, usual_std : what is assumed if the file does not say it, and which part
    of an image's short side is cut out.
    """

    shape: Optional[Tuple[int, int, int]] = None
    mean: Optional[Tuple[float, ...]] = None
    std: Optional[Tuple[float, ...]] = None
    usual_size: int = 224
    usual_mean: float = 0
    usual_std: float = 1
    usual_crop: float = 7 / 8


@dataclass(frozen=True)
class Source:
    """What was read from another format.

    path : where it was.
    params : entries of a checkpoint, ``arg:NAME`` and ``aux:NAME``, float32. Without
        ``arg:fc1_bias`` the network ends in its features.
    arguments : of get_xception_symbol, except the classes.
    epoch : of the checkpoint to write.
    assumed : what `path` does not say about the network.
    """

    path: Union[str, "os.PathLike[str]"]
    params: Dict[str, np.ndarray]
    arguments: Dict[str, Any]
    images: Images
    epoch: int = 0
    assumed: Tuple[str, ...] = ()


def check_free(prefix: str) -> None:
    """Raise ModelError where `prefix` has checkpoints."""
    if Checkpoints(prefix).places():
        raise ModelError(f"{prefix} has checkpoints: another PREFIX, or delete them")


def write(source: Source, args: argparse.Namespace, outcome: Outcome) -> str:
    """Write the checkpoint; return the name of its .params file. All that can fail, except the
    writing, comes first."""
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
    notices, assumed = Notices(), assumptions(source, args)
    if assumed:
        notices.warn(f"not in {source.path}, assumed: {'; '.join(assumed)}")
    print_notices("model.convert", notices)
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
    images = source.images
    # What the command line says is done to the pixels before the network's own layers.
    unscaled = images.mean is None
    outer_mean = args.rgb_mean or (images.usual_mean if unscaled else 0,) * 3
    outer_std = args.rgb_std or (images.usual_std if unscaled else 1,) * 3
    inner = zip(images.mean or (0,) * 3, images.std or (1,) * 3)
    scaling = [(m + d * mean, d * std) for m, d, (mean, std) in zip(outer_mean, outer_std, inner)]
    return {
        "image_shape": list(_image_shape(images, args)),
        "rgb_mean": [_number(mean) for mean, _ in scaling],
        "rgb_std": [_number(std) for _, std in scaling],
        "short_side": _short_side(images, args),
        "classes": classes,
    }


def _image_shape(images: Images, args: argparse.Namespace) -> Tuple[int, int, int]:
    size = args.image_size or images.usual_size
    return images.shape if images.shape and not args.image_size else (3, size, size)


def _short_side(images: Images, args: argparse.Namespace) -> int:
    return args.short_side or round(min(_image_shape(images, args)[1:]) / images.usual_crop)


def _number(value: float) -> float:
    """`value` without the last digits, in which 1 / (1 / 127.5) differs from 127.5."""
    return float(f"{value:.10g}")


def assumptions(source: Source, args: argparse.Namespace) -> List[str]:
    """Return what neither the source nor the command line says, and how to say it."""
    assumed: List[str] = []
    images = source.images
    if images.mean is None and not (args.rgb_mean and args.rgb_std):
        low, high = ((pixel - images.usual_mean) / images.usual_std for pixel in (0, 255))
        assumed.append(f"pixels from {low:g} to {high:g} (--rgb-mean, --rgb-std)")
    if images.shape is None and not args.image_size:
        size = images.usual_size
        assumed.append(f"images of {size}x{size} pixels (--image-size)")
    if assumed and not args.short_side:
        side = _short_side(images, args)
        assumed.append(f"cut out of images with a short side of {side} (--short-side)")
    return [*source.assumed, *assumed]
