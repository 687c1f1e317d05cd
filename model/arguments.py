"""Arguments of the training script about devices, network, training and checkpoints."""

import argparse
import math
from pathlib import Path

from data.arguments import by_data_type
from log.command import numbers, positive, whole

KVSTORES = ("local", "device", "nccl", "dist_sync", "dist_device_sync", "dist_async")


# Types of arguments


def gpu_ids(text):
    ids = numbers(text, "GPU numbers as in 0,1,2,3", whole(0))
    if len(set(ids)) != len(ids):
        raise argparse.ArgumentTypeError(f"names a GPU twice: {text}")
    return ids


def epochs(text):
    steps = numbers(text, "epochs as in 20,40,60", whole(1))
    if list(steps) != sorted(set(steps)):
        raise argparse.ArgumentTypeError(f"must be in rising order, not {text}")
    return steps


def checkpoint(text):
    prefix, _, epoch = text.rpartition(",")
    if not prefix:
        raise argparse.ArgumentTypeError(f"must be PREFIX,EPOCH, not {text!r}")
    return prefix, whole(0)(epoch)


# The groups of --help


def add_device_args(parser):
    group = parser.add_argument_group("devices")
    group.add_argument(
        "--gpus",
        type=gpu_ids,
        metavar="IDS",
        help="GPUs to train on, as in 0,1,2,3; empty (--gpus=) for the CPU "
        "(default: 0 where there is one, else the CPU)",
    )
    group.add_argument(
        "--cpus",
        type=whole(1),
        metavar="N",
        help="train data-parallel on N CPU contexts, as on N GPUs (default: not)",
    )
    group.add_argument("--kv-store", choices=KVSTORES, default="device", help="type of the kvstore")
    group.add_argument(
        "--gc-type",
        choices=("none", "2bit"),
        default="none",
        help="compression of the gradients that the workers of --kv-store dist_* send",
    )
    group.add_argument(
        "--gc-threshold",
        type=positive,
        default=0.5,
        metavar="X",
        help="what --gc-type 2bit sends of a gradient, summed over a batch: X, -X or 0; the rest "
        "is added to that of the next batch",
    )
    group.add_argument(
        "--stall-timeout",
        type=positive,
        default=600,
        metavar="SECONDS",
        help="with --kv-store dist_*, how long to wait for the other roles to gather, and then for "
        "the next batch, before the process ends",
    )
    group.add_argument(
        "--memonger",
        action="store_true",
        help="less memory, more time: keep only the blocks' outputs for the backward pass",
    )
    group.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16", "auto"),
        default="float32",
        help="what convolutions are computed in; parameters, BatchNorm statistics and classifier "
        "stay in float32; bfloat16 is for CPUs, float16 for GPUs; auto takes bfloat16 where a "
        "short measurement at the start finds it faster, and with --retrain what the run had",
    )
    group.add_argument(
        "--workspace",
        type=whole(1),
        default=512,
        metavar="MB",
        help="scratch memory of a convolution on a GPU",
    )


def add_network_args(parser):
    group = parser.add_argument_group("network")
    group.add_argument(
        "--filters",
        choices=("reduced", "original"),
        help="numbers of filters: those of the 2017 script, or of the paper (default: reduced; "
        "those of the network that the run starts or goes on from)",
    )
    group.add_argument(
        "--padding",
        choices=("half", "keras", "torch"),
        help="of the stem's convolutions and of max-pooling: as in 2017, in Keras, or in PyTorch's "
        "legacy_xception (default: half; that of the network that the run starts or goes on from)",
    )
    group.add_argument("--dropout", type=float, default=0.2, help="before the classifier")
    group.add_argument("--bn-mom", type=float, default=0.9, help="momentum of BatchNorm")


def add_finetuning_args(parser):
    group = parser.add_argument_group("fine-tuning")
    group.add_argument(
        "--pretrained",
        type=checkpoint,
        metavar="PREFIX,EPOCH",
        help="checkpoint to start from; its classifier is kept where it has as many classes "
        "(default: none, random weights)",
    )
    group.add_argument(
        "--freeze",
        choices=("none", "entry", "all-but-head"),
        default="none",
        help="what keeps the weights and moving statistics that it starts from: the entry flow, or "
        "everything but the classifier",
    )
    group.add_argument(
        "--head-lr-mult",
        type=positive,
        default=1.0,
        metavar="X",
        help="the classifier's learning rate is that of the others times X",
    )


def add_training_args(parser):
    group = parser.add_argument_group("training")
    group.add_argument(
        "--batch-size",
        type=whole(1),
        default=256,
        metavar="N",
        help="images a batch, over all devices of a worker; see --accumulate",
    )
    group.add_argument(
        "--num-epochs",
        type=whole(1),
        metavar="N",
        help="epochs, counted from the start of the run "
        + by_data_type(lambda data: data.num_epochs),
    )
    group.add_argument(
        "--lr",
        type=positive,
        metavar="X",
        help="learning rate (default: that of the recipe, 0.1 in 2017; with another --optimizer, "
        "0.001 for rmsprop, adam and lamb; with --retrain, the one that the run had)",
    )
    group.add_argument(
        "--lr-steps",
        type=epochs,
        metavar="N,N,...",
        help="epochs at whose start the learning rate is multiplied by --lr-factor; with --retrain "
        "and --lr, those already begun are dropped "
        + by_data_type(lambda data: ",".join(map(str, data.lr_steps))),
    )
    group.add_argument(
        "--lr-factor",
        type=positive,
        metavar="X",
        help="what each decay of the learning rate multiplies it by (default: step: 0.1, "
        "exponential: 0.94)",
    )
    group.add_argument("--mom", type=float, default=0.9, help="momentum; see --optimizer")
    group.add_argument("--wd", type=float, default=0.0001, help="weight decay")
    group.add_argument("--seed", type=whole(0), default=0, metavar="N", help="of all randomness")


def add_checkpoint_args(parser):
    group = parser.add_argument_group("checkpoints and log")
    group.add_argument(
        "--model-prefix",
        metavar="PREFIX",
        help="of the checkpoint files (default: model/xception-<data type>-0-0)",
    )
    group.add_argument(
        "--retrain",
        nargs="?",
        const="always",
        choices=("always", "auto"),
        help="go on from the newest checkpoint, or from that of --model-load-epoch; auto, for "
        "supervisors that repeat a command: where there is none, start anew, and an --lr that is "
        "the one that the run began with changes nothing (default: not)",
    )
    group.add_argument(
        "--model-load-epoch",
        type=whole(0),
        default=0,
        metavar="N",
        help="what --retrain goes on from: the checkpoint of N epochs; 0 for the newest",
    )
    group.add_argument(
        "--overwrite",
        action="store_true",
        help="start anew where there are checkpoints; the first new one deletes them",
    )
    group.add_argument(
        "--checkpoint-epochs", type=whole(1), default=1, metavar="N", help="one every N epochs"
    )
    group.add_argument(
        "--checkpoint-batches",
        type=whole(1),
        metavar="N",
        help="within an epoch, one every N batches; the next one replaces it (default: none)",
    )
    group.add_argument(
        "--keep",
        type=whole(1),
        metavar="N",
        help="checkpoints to keep: the newest N and the best (default: all)",
    )
    group.add_argument(
        "--frequent", type=whole(1), default=50, metavar="N", help="batches between two log lines"
    )
    group.add_argument(
        "--log-file", metavar="FILE", help="(default: log/<name of the model prefix>.log)"
    )


def add_benchmark_args(parser):
    group = parser.add_argument_group("benchmark")
    group.add_argument(
        "--benchmark",
        nargs="?",
        const="training",
        choices=("training", "input"),
        help="print how fast it is, and write nothing; training: on random pixels, without files; "
        "input: the records read, decoded, augmented, and not trained on (default: not)",
    )
    group.add_argument(
        "--benchmark-batches",
        type=whole(1),
        default=20,
        metavar="N",
        help="batches that are measured; of training, after 3 that are not",
    )


def check_model_args(parser, args):
    """End with a line that says which arguments don't go together, if any; fill in the names of
    files."""
    if args.model_load_epoch and not args.retrain:
        parser.error(f"--model-load-epoch={args.model_load_epoch} needs --retrain")
    if args.retrain and args.overwrite:
        parser.error("--retrain goes on, --overwrite starts anew: give one of them")
    if args.freeze != "none" and not (args.pretrained or args.retrain):
        parser.error(f"--freeze {args.freeze} needs --pretrained")
    if args.model_prefix is not None and not Path(args.model_prefix + "x").name[:-1]:
        parser.error(f"--model-prefix: {args.model_prefix!r} has no name after the folder")
    if args.gc_type != "none" and "dist" not in args.kv_store:
        parser.error(f"--gc-type {args.gc_type} is for --kv-store dist_*, not {args.kv_store}")
    if args.gpus and args.cpus:
        parser.error("--gpus and --cpus: give one of them")
    if not 0 <= args.dropout < 1:
        parser.error(f"--dropout: must be in [0, 1), not {args.dropout}")
    if not 0 <= args.bn_mom < 1:
        parser.error(f"--bn-mom: must be in [0, 1), not {args.bn_mom}")
    if args.lr_factor > 1:
        parser.error(f"--lr-factor: must be at most 1, not {args.lr_factor}")
    if not 0 <= args.mom < 1:
        parser.error(f"--mom: must be in [0, 1), not {args.mom}")
    if not 0 <= args.wd < math.inf:
        parser.error(f"--wd: must be a number from 0 up, not {args.wd}")
    if args.dry_run and args.skip_bad_records:
        parser.error("--dry-run writes nothing, --skip-bad-records copies records: give one")
    args.model_prefix = args.model_prefix or f"model/xception-{args.data_type}-0-0"
    args.log_file = args.log_file or f"log/{Path(args.model_prefix).name}.log"
