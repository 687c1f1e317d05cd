"""The flags of the training script about what it says."""

from dataclasses import dataclass
from typing import Optional

from log.flags import Flags, flag


@dataclass(frozen=True)
class Output(Flags):
    """What a run prints and writes besides checkpoints."""

    TITLE = "output"

    quiet: bool = flag(
        False,
        "nothing on standard output; warnings and errors on standard error; the log file has "
        "everything",
    )
    tensorboard: Optional[str] = flag(
        None,
        "write the figures for TensorBoard too, into DIR or, without DIR, "
        "log/tensorboard/<name of the log file>; needs tensorboardX (default: off)",
        metavar="DIR",
        nargs="?",
        const="",
    )
    summary: bool = flag(
        False,
        "print the network block by block, for images of --image-shape, and exit; needs no files",
    )
    dry_run: bool = flag(
        False,
        "check everything up to the first batch, print the result and exit; write nothing",
    )
