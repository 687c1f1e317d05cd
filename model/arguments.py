"""The flags of the training script about devices, network, training and checkpoints."""

import argparse
from dataclasses import dataclass
from typing import Optional, Tuple, Union

from data.arguments import by_data_type
from log.command import from_zero, numbers, positive, whole
from log.flags import Flags, flag

KVSTORES = ("local", "device", "nccl", "dist_sync", "dist_device_sync", "dist_async")


# Types of arguments


def gpu_ids(text: str) -> Tuple[int, ...]:
    ids = numbers(text, "GPU numbers as in 0,1,2,3", whole(0))
    if len(set(ids)) != len(ids):
        raise argparse.ArgumentTypeError(f"names a GPU twice: {text}")
    return ids


def epochs(text: str) -> Tuple[int, ...]:
    steps = numbers(text, "epochs as in 20,40,60", whole(1))
    if list(steps) != sorted(set(steps)):
        raise argparse.ArgumentTypeError(f"must be in rising order, not {text}")
    return steps


def checkpoint(text: str) -> Tuple[str, int]:
    prefix, _, epoch = text.rpartition(",")
    if not prefix:
        raise argparse.ArgumentTypeError(f"must be PREFIX,EPOCH, not {text!r}")
    return prefix, whole(0)(epoch)


def epoch(text: str) -> Union[int, str]:
    return text if text == "best" else whole(0)(text)


def add_prefix_and_epoch(parser: argparse.ArgumentParser) -> None:
    """Add PREFIX and EPOCH, as `model.network.loading.load_network` takes them."""
    parser.add_argument("prefix", metavar="PREFIX", help="prefix of the checkpoint")
    parser.add_argument(
        "epoch",
        metavar="EPOCH",
        type=epoch,
        help="epoch of the checkpoint, or best: the one that PREFIX-best.params links to",
    )


def share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"invalid float value: {text!r}") from None
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"must be in [0, 1), not {value}")
    return value


# The groups of --help


@dataclass(frozen=True)
class Devices(Flags):
    """What the network runs on, and how it is computed there."""

    TITLE = "devices"

    gpus: Optional[Tuple[int, ...]] = flag(
        None,
        "GPUs to train on, as in 0,1,2,3; empty (--gpus=) for the CPU "
        "(default: 0 if there is one, else the CPU)",
        gpu_ids,
        "IDS",
    )
    cpus: Optional[int] = flag(
        None, "train data-parallel on N CPU contexts, as on N GPUs (default: off)", whole(1), "N"
    )
    kv_store: str = flag("device", "type of the kvstore", choices=KVSTORES, kept=True)
    gc_type: str = flag(
        "none",
        "compression of the gradients that the workers of --kv-store dist_* send",
        choices=("none", "2bit"),
        shared=True,
    )
    gc_threshold: float = flag(
        0.5,
        "threshold of --gc-type 2bit: each element of a batch's gradient is sent as X, -X or 0, "
        "and the rest is added to the next batch's",
        positive,
        "X",
        shared=True,
    )
    stall_timeout: float = flag(
        600,
        "with --kv-store dist_*, how long to wait for the other processes to connect, and then "
        "for each batch, before this process exits",
        positive,
        "SECONDS",
    )
    memonger: bool = flag(
        False,
        "save memory at the cost of time: keep only the blocks' outputs, and recompute the rest "
        "in the backward pass",
    )
    dtype: str = flag(
        "float32",
        "data type of the convolutions; parameters, BatchNorm statistics and classifier "
        "stay in float32; bfloat16 is for CPUs, float16 for GPUs; auto takes bfloat16 if a short "
        "measurement at the start shows that it is faster, and with --retrain the type that the "
        "run used",
        choices=("float32", "bfloat16", "float16", "auto"),
    )
    workspace: int = flag(512, "scratch memory of a convolution on a GPU", whole(1), "MB")

    @property
    def of_several_workers(self) -> bool:
        """Whether this process is one of a job's, which a parameter server connects."""
        return "dist" in self.kv_store


@dataclass(frozen=True)
class Network(Flags):
    """The network, where it is not that of a checkpoint."""

    TITLE = "network"

    filters: Optional[str] = flag(
        None,
        "numbers of filters: those of the 2017 script, or of the paper (default: reduced; "
        "those of the network that the run starts or resumes from)",
        choices=("reduced", "original"),
        kept=True,
    )
    padding: Optional[str] = flag(
        None,
        "padding of the stem's convolutions and of max-pooling: as in the 2017 script (half), "
        "Keras, or PyTorch's legacy_xception (torch) (default: half; that of the network that "
        "the run starts or resumes from)",
        choices=("half", "keras", "torch"),
        kept=True,
    )
    dropout: float = flag(0.2, "dropout rate before the classifier", share, kept=True)
    bn_mom: float = flag(0.9, "momentum of BatchNorm", share, kept=True)


@dataclass(frozen=True)
class FineTuning(Flags):
    """What a run starts from, and which layers it trains."""

    TITLE = "fine-tuning"

    pretrained: Optional[Tuple[str, int]] = flag(
        None,
        "checkpoint to start from; its classifier is kept if it has the same number of classes "
        "(default: none, random weights)",
        checkpoint,
        "PREFIX,EPOCH",
        kept=True,
        shared=False,
    )
    freeze: str = flag(
        "none",
        "layers that are not trained and keep their moving statistics: the entry flow, or all "
        "except the classifier",
        choices=("none", "entry", "all-but-head"),
        kept=True,
    )
    head_lr_mult: float = flag(
        1.0,
        "learning rate of the classifier, as a multiple of that of the other layers",
        positive,
        "X",
        kept=True,
    )


@dataclass(frozen=True)
class Training(Flags):
    """Batches, epochs, learning rate."""

    TITLE = "training"

    batch_size: int = flag(
        256,
        "images per batch, over all devices of a worker; see --accumulate",
        whole(1),
        "N",
        kept=True,
    )
    num_epochs: int = flag(
        None,
        "epochs, counted from the start of the run " + by_data_type(lambda data: data.num_epochs),
        whole(1),
        "N",
        shared=True,
    )
    patience: Optional[int] = flag(
        None,
        "end the run when N epochs in a row have not improved the validation accuracy "
        "(default: off)",
        whole(1),
        "N",
        shared=True,
    )
    lr: Optional[float] = flag(
        None,
        "learning rate (default: that of the recipe, 0.1 in 2017; with another --optimizer, "
        "0.001 for rmsprop, adam and lamb; with --retrain, the one that the run had)",
        positive,
        "X",
        shared=True,
    )
    lr_steps: Tuple[int, ...] = flag(
        None,
        "epochs at whose start the learning rate is multiplied by --lr-factor; with --retrain "
        "and --lr, those already begun are dropped "
        + by_data_type(lambda data: ",".join(map(str, data.lr_steps))),
        epochs,
        "N,N,...",
        kept=True,
    )
    lr_factor: float = flag(
        None,
        "factor of each decay of the learning rate (default: step: 0.1, exponential: 0.94)",
        positive,
        "X",
        kept=True,
    )
    mom: float = flag(0.9, "momentum; see --optimizer", share, kept=True)
    wd: float = flag(0.0001, "weight decay", from_zero, kept=True)
    seed: int = flag(0, "seed of all randomness", whole(0), "N", kept=True)


@dataclass(frozen=True)
class Saving(Flags):
    """Where and when checkpoints and log lines are written, and whether a run resumes."""

    TITLE = "checkpoints and log"

    model_prefix: str = flag(
        None,
        "prefix of the checkpoint files (default: model/xception-<data type>-0-0)",
        metavar="PREFIX",
    )
    retrain: Optional[str] = flag(
        None,
        "resume from the newest checkpoint, or from that of --model-load-epoch; auto, for jobs "
        "that restart themselves: start a new run if there is no checkpoint, and ignore an --lr "
        "equal to the one that the run started with (default: off)",
        nargs="?",
        const="always",
        choices=("always", "auto"),
    )
    model_load_epoch: int = flag(
        0,
        "which checkpoint --retrain resumes, by its number of epochs; 0 for the newest",
        whole(0),
        "N",
    )
    overwrite: bool = flag(
        False, "start again even if there are checkpoints; the first new checkpoint deletes them"
    )
    checkpoint_epochs: int = flag(
        1, "write a checkpoint every N epochs", whole(1), "N", shared=True
    )
    checkpoint_batches: Optional[int] = flag(
        None,
        "also write a checkpoint every N batches; the next one replaces it (default: none)",
        whole(1),
        "N",
        shared=True,
    )
    keep: Optional[int] = flag(
        None, "checkpoints to keep: the newest N and the best (default: all)", whole(1), "N"
    )
    frequent: int = flag(50, "batches between two log lines", whole(1), "N", shared=True)
    log_file: str = flag(
        None, "text log (default: log/<name of the model prefix>.log)", metavar="FILE"
    )


@dataclass(frozen=True)
class Benchmark(Flags):
    """Measure speed, and train nothing."""

    TITLE = "benchmark"

    benchmark: Optional[str] = flag(
        None,
        "print the speed and write nothing; training: steps on random pixels, no files needed; "
        "input: reading, decoding and augmenting records, without training (default: off)",
        nargs="?",
        const="training",
        choices=("training", "input"),
    )
    benchmark_batches: int = flag(
        20,
        "batches to measure; training first runs 3 more to warm up",
        whole(1),
        "N",
    )
