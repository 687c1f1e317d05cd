"""Train Xception on image records.

    python -u train_xception.py --gpus=0,1,2,3
    python -u train_xception.py --gpus=0,1,2,3 --retrain

Arguments -> network -> data -> devices -> fit, in this order. Exit code 0: trained; 2: the
arguments can't be used; 1: the run failed; 130, 143: stopped by SIGINT, SIGTERM.
"""

import argparse
import contextlib
import hashlib
import json
import logging
import math
import shlex
import signal
import sys
import time
from pathlib import Path

from data import DataError
from data.arguments import add_data_args, complete_data_args
from data.augmentation import add_augmentation_args, augmentation_of, complete_augmentation
from data.datasets import DATASETS
from log import LogError
from log.arguments import add_log_args
from log.command import Defaults, OneLineParser
from log.lines import check_log, open_log
from model import Interrupted, ModelError
from model.arguments import (
    add_benchmark_args,
    add_checkpoint_args,
    add_device_args,
    add_finetuning_args,
    add_network_args,
    add_training_args,
    check_model_args,
)
from model.devices import import_mxnet
from model.job.cluster import JobError, join, role_of_this_process, serve
from model.recipes import (
    BEFORE_RECIPES,
    add_recipe_args,
    complete_recipe,
    method_of,
    parse_with_recipe,
    recipe_line,
    schedule_args,
)

# mxnet takes seconds to load, and reads its environment when it does: what imports it is imported
# where it is needed, when the arguments are known to be good.


def make_parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="train_xception.py",
        description="Train Xception on image records (.rec files).",
        formatter_class=Defaults,
    )
    add_device_args(parser)
    add_data_args(parser)
    add_augmentation_args(parser)
    add_network_args(parser)
    add_finetuning_args(parser)
    add_training_args(parser)
    add_recipe_args(parser)
    add_checkpoint_args(parser)
    add_log_args(parser)
    add_benchmark_args(parser)
    return parser


def parse_arguments(argv) -> argparse.Namespace:
    """Return the arguments, those of the data set filled in where they were not given."""
    parser = make_parser()
    args = parse_with_recipe(parser, argv)
    check_model_args(parser, args)
    complete_data_args(args)
    complete_augmentation(parser, args)
    complete_recipe(parser, args)
    return args


# From the arguments to the run


def choose_devices(args, say) -> list:
    """Return the contexts to train on."""
    import mxnet as mx

    from model import devices

    found, has_cuda = devices.gpus(), devices.has_cuda()
    wanted = args.gpus
    if wanted is None and not args.cpus:
        wanted = (0,) if found and has_cuda else ()
        if not found:
            say("no GPU here: training on the CPU")
        elif not has_cuda:
            say("this mxnet is built without CUDA (requirements.txt has the other one): CPU")
    if not wanted:
        return divided(args, [mx.cpu(i) for i in range(args.cpus or 1)])
    devices.check_gpus(wanted, found)
    return divided(args, [mx.gpu(i) for i in wanted])


def divided(args, contexts):
    if args.batch_size % len(contexts):
        raise DataError(
            f"--batch-size {args.batch_size} can't be divided over {len(contexts)} devices"
        )
    return contexts


def choose_dtype(args, contexts, symbol, generation, say) -> str:
    """Return what the network runs in."""
    from model import devices

    on_gpu = contexts[0].device_type == "gpu"
    if args.dtype == "float16":
        if not on_gpu:
            raise ModelError("--dtype float16: MXNet 1.9.1 has it for GPUs only")
        if "dist" in args.kv_store:
            raise ModelError("--dtype float16: not with --kv-store dist_*: its loss scale is local")
    if args.dtype == "bfloat16" and on_gpu:
        raise ModelError("--dtype bfloat16: MXNet 1.9.1 has it for CPUs only")
    if args.dtype == "bfloat16" and not devices.has_bfloat16():
        say("--dtype bfloat16: this CPU has no instructions for it: float32")
        return "float32"
    if args.dtype != "auto":
        return args.dtype
    if on_gpu or not devices.has_bfloat16():
        say(f"--dtype auto: float32: no bfloat16 on {'GPUs' if on_gpu else 'this CPU'}")
        return "float32"
    if generation:
        dtype = generation.run["settings"].get("dtype")
        if dtype in ("float32", "bfloat16"):
            say(f"--dtype auto: {dtype}, as in the checkpoint")
            return dtype
    from model.training.benchmark import seconds_per_step

    # A batch that fills the vectors, and does not take long.
    batch = len(contexts) * min(8, args.batch_size // len(contexts))
    speeds = {}
    for dtype in ("float32", "bfloat16"):
        shape = (batch, *args.image_shape)
        speeds[dtype] = batch / seconds_per_step(symbol, contexts, shape, dtype, args.memonger)
    fastest = max(speeds, key=speeds.get)
    measured = ", ".join(f"{dtype} {speed:.1f} images/s" for dtype, speed in speeds.items())
    say(f"--dtype auto: {fastest}: {measured}, at batch {batch}")
    return fastest


def choose_records(args, say) -> list:
    """Return the training and, if there is one, the validation file, to be read in this run."""
    from data.inspect import require

    paths = [path for path in (args.data_train, args.data_val) if path]
    data = DATASETS[args.data_type]
    of_the_data_set = {data.train_records[args.aug_level], data.val_records}
    for path in paths:
        known = Path(path).name in of_the_data_set
        require(path, data.prepare if known else None)
    if args.skip_bad_records:
        from data.checking.records import without_bad_records

        for i, path in enumerate(paths):
            paths[i], bad = without_bad_records(path, args.data_nthreads)
            if bad:
                say(f"{path}: {len(bad)} bad records left out, the first {bad[0]}: {paths[i]}")
    return paths


def look_at_records(args, paths, say) -> tuple:
    """Return (training images, validation images, classes), counted, and the short side of the
    validation images in pixels, None where that is not known. Every label is checked."""
    from data import inspect
    from data.formats.recordfile import scan

    scanned = [scan(path) for path in paths]
    training = scanned[0]
    if args.num_examples not in (None, training.num_images):
        raise DataError(
            f"{training.path} holds {training.num_images} images, not {args.num_examples}: "
            "leave out --num-examples"
        )
    highest = int(training.labels.max())
    num_classes = args.num_classes or highest + 1
    for each in scanned:
        inspect.check_labels(each, num_classes)
    short_sides = [inspect.check_sample(each) for each in scanned]
    for validation in scanned[1:]:
        inspect.check_pair(training, validation)
    if highest + 1 < num_classes:
        say(f"{training.path}: labels up to {highest} only, of {num_classes} classes")
    num_val = sum(each.num_images for each in scanned[1:])
    return training.num_images, num_val, num_classes, short_sides[1] if num_val else None


def record_args(args, path, batch_size) -> dict:
    """Return what an ImageRecordIter needs to read `path`."""
    from data import iterators

    return iterators.record_args(
        path, args.image_shape, batch_size, args.rgb_mean, args.rgb_std, args.data_nthreads
    )


def training_images(args, path, start, batches, workers=1, rank=0):
    """Return the batches of this worker from `path`, from the place `start` on."""
    from data.iterators import EpochIter, training_args

    drawn = augmentation_of(args, path)
    arguments = training_args(record_args(args, path, args.batch_size), drawn)
    shard = {"num_parts": workers, "part_index": rank}
    return EpochIter({**arguments, **shard}, args.seed, start.epoch, start.batch, batches)


def validation_images(args, path, parts, rank, devices):
    """Return the batches of this worker's part of `path`, None where that is empty. parts : the
    images in each part."""
    from data.iterators import EpochIter, fitting_batch_size

    if not parts[rank]:
        return None
    arguments = record_args(args, path, fitting_batch_size(args.batch_size, parts[rank], devices))
    return EpochIter({**arguments, "num_parts": len(parts), "part_index": rank})


def names_of_classes(path, num_classes, say):
    """Return the names of the classes, None where they are not known."""
    from data.formats.classes import CLASSES, class_names

    classes = class_names(path)
    if classes is not None and len(classes) != num_classes:
        say(f"{len(classes)} names in {CLASSES} for {num_classes} classes: not kept")
        return None
    return classes


def check_crop(image_shape, short_side, say):
    """Warn where validation sees less than half of an image from side to side: then the records
    were packed for larger ones. short_side : that of the validation images, None for not known."""
    height, width = image_shape[1:]
    least = min(height, width)
    if short_side and short_side > 2 * least:
        # What data.pack's sizes are to 224.
        fitting = (max(least + 1, round(least * side / 224)) for side in (480, 256))
        say(
            f"warning: validation sees the middle {height}x{width} pixels of images whose short "
            f"side is {short_side}, and training pieces of that size: to see more, pack with "
            "--resize {} --val-resize {}".format(*fitting)
        )


def build_network(args, num_classes, before):
    """Return the symbol: as `before`, the one that the run starts or goes on from, if any, in what
    the arguments don't say; fill in these."""
    from model.network.layers import architecture
    from symbol_xception import ORIGINAL_FILTERS, REDUCED_FILTERS, get_xception_symbol

    filters = {"reduced": REDUCED_FILTERS, "original": ORIGINAL_FILTERS}
    made = {"filter_list": REDUCED_FILTERS, "padding": "half", "bn_eps": 2e-5}
    if before is not None:
        made = architecture(before)
    filter_list = filters[args.filters] if args.filters else made["filter_list"]
    names = {numbers: name for name, numbers in filters.items()}
    args.filters = names.get(filter_list, filter_list)
    args.padding = args.padding or made["padding"]
    args.bn_eps = made["bn_eps"]
    return get_xception_symbol(
        num_classes=num_classes,
        filter_list=filter_list,
        padding=args.padding,
        dropout=args.dropout,
        bn_mom=args.bn_mom,
        bn_eps=args.bn_eps,
        workspace=args.workspace,
    )


def find_generation(args, checkpoints, say):
    """Return the generation to go on from, None for a run that starts anew."""
    from model.checkpoint import Place
    from model.convert.sliced import is_sliced

    places = checkpoints.places()
    if not args.retrain:
        if places and not args.overwrite:
            raise ModelError(
                f"{args.model_prefix} has checkpoints, the last of {places[-1]}: "
                "--retrain goes on from them, --overwrite starts anew"
            )
        return None
    if args.retrain == "auto" and all(map(checkpoints.is_unfinished, places)):
        left = ", ".join(f"{args.model_prefix}-{place.stem}" for place in places)
        passing = f", and passes over what was never finished: {left}" if left else ""
        say(f"no checkpoint yet: starts anew{passing}")
        return None
    if not places:
        raise ModelError(f"{args.model_prefix} has no checkpoint: leave out --retrain")
    last = Place(args.model_load_epoch) if args.model_load_epoch else places[-1]
    params_file = checkpoints.params_file(last)
    if not params_file.with_suffix(".json").exists() and is_sliced(params_file):
        raise ModelError(
            f"{params_file} is of a network with a convolution for each channel, such as the 2017 "
            f"script's; convert it: python -m model.convert sliced {args.model_prefix} "
            f"{last.epoch} NEW_PREFIX"
        )
    if args.model_load_epoch:
        place = Place(args.model_load_epoch)
        checkpoints.check_there(place)
        generation = checkpoints.load(place)
    else:
        generation, passed_over = checkpoints.newest()
        for error in passed_over:
            say(f"passed over {error}")
        if generation is None:
            reasons = "; ".join(passed_over)
            raise ModelError(f"{args.model_prefix}: no checkpoint of it can be used: {reasons}")
    later = [place for place in places if place > generation.place]
    if later:
        say(f"the checkpoints up to {later[-1]} are replaced as this run comes to them")
    say(f"goes on from {checkpoints.params_file(generation.place)}, {generation.place}")
    return generation


def starting_point(args, generation):
    """Return (the network of --pretrained, None where the run goes on; the symbol that the run
    starts or goes on from, None for none). Fill in what the arguments don't say about pixels."""
    import mxnet as mx

    from model.network.loading import load_network

    network = before = None
    mean, std = (0, 0, 0), (1, 1, 1)
    if generation:
        saved = generation.run["settings"]
        before = mx.sym.load_json(generation.symbol_json)
        mean, std = saved["rgb_mean"], saved["rgb_std"]
        args.pretrained = args.pretrained or saved.get("pretrained")
    elif args.pretrained:
        network = load_network(*args.pretrained)
        before, mean, std = network.symbol, network.mean, network.std
    args.rgb_mean = args.rgb_mean or tuple(mean)
    args.rgb_std = args.rgb_std or tuple(std)
    return network, before


#: The arguments that decide what a run computes. A checkpoint keeps them.
SETTINGS = (
    "data_type", "data_train", "data_val", "image_shape", "aug_level", "augmentation",
    "rgb_mean", "rgb_std", "filters", "padding", "dropout", "bn_mom", "bn_eps", "pretrained",
    "freeze", "head_lr_mult", "batch_size", "lr_steps", "lr_factor", "mom", "wd", "seed",
    "recipe", "optimizer", "epsilon", "lr_schedule", "warmup_epochs", "lr_min", "decay_epochs",
    "lr_end", "label_smoothing", "no_bias_decay", "clip_gradient", "accumulate", "ema",
    "kv_store", "skip_bad_records",
)  # fmt: skip


def settings_of(args, **more) -> dict:
    """Return what decides what the run computes, as JSON holds it."""
    values = {name: getattr(args, name) for name in SETTINGS}
    values = {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}
    return {**values, **more}


def short(value) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def compress_gradients(args, cluster):
    """Have gradients sent as --gc-type says."""
    if args.gc_type != "none":
        cluster.compress_gradients(args.gc_type, args.gc_threshold)


def say_what_a_job_does(args, cluster, say):
    """Say what training on several workers means for the figures of the command line."""
    images = args.batch_size * cluster.workers
    say(
        f"{args.kv_store}: worker {cluster.rank} of {cluster.workers}; "
        + (
            f"each batch of {args.batch_size} images is an update of its own at the servers, which "
            "keep the momentum: a resumed run starts without it, and is not exact"
            if cluster.updates_on_servers
            else f"a batch is {cluster.workers} x {args.batch_size} images, by which gradients are "
            f"divided: {images}; --lr is not changed by that"
        )
    )
    if args.gc_type != "none":
        say(
            f"--gc-type {args.gc_type}: what it holds back of the gradients is not in checkpoints: "
            "a resumed run is not exact"
        )


def shared_generation(args, checkpoints, cluster, say) -> tuple:
    """Return (the generation to go on from, the same for all workers, None for a run that starts
    anew; the rank of the worker that has it, and writes the next ones)."""
    from model.checkpoint import Generation

    found, problem, notices = None, None, []
    if cluster.rank == 0 or args.retrain:
        try:
            found = find_generation(args, checkpoints, notices.append)
        except ModelError as error:
            problem = str(error)
    digest = hashlib.sha256(found.to_bytes()).hexdigest() if found and cluster.workers > 1 else ""
    offer = {"count": found.count if found else -1, "problem": problem, "digest": digest}
    offers = [json.loads(each) for each in cluster.gather(json.dumps(offer).encode())]
    newest = max(each["count"] for each in offers)
    if newest < 0:
        problems = [each["problem"] for each in offers if each["problem"]]
        if problems:
            raise JobError(problems[0])
        for line in notices:
            say(line)
        return None, 0
    writer = [each["count"] for each in offers].index(newest)
    if cluster.rank == writer:
        for line in notices:
            say(line)
    else:
        say(f"goes on from worker {writer}'s checkpoint")
    if len({each["digest"] for each in offers}) > 1:
        content = found.to_bytes() if cluster.rank == writer else None
        found = Generation.from_bytes(cluster.broadcast(content, writer))
    return found, writer


def check_alike(cluster, **settings):
    """Raise JobError where a worker was told something else than worker 0, or has other files."""
    own_places = ("data_train", "data_val", "pretrained")
    mine = {name: value for name, value in settings.items() if name not in own_places}
    told = [json.loads(each) for each in cluster.gather(json.dumps(mine).encode())]
    for rank, theirs in enumerate(told):
        for name, value in told[0].items():
            if theirs[name] != value:
                raise JobError(
                    f"{name} is {short(value)} for worker 0, and {short(theirs[name])} for worker "
                    f"{rank}: all need the same command and the same files"
                )


def digest_of(network) -> str:
    """Return a checksum of the parameters of a network (model.network.Network)."""
    from model.network.loading import numpy_params

    digest = hashlib.sha256()
    for name, array in sorted(numpy_params(network.arg_params, network.aux_params).items()):
        digest.update(name.encode() + array.tobytes())
    return digest.hexdigest()


def check_memory(args, symbol, contexts, dtype, arrays, say):
    """Say what memory training will need. Raise ModelError where that can't be had.

    arrays : of each parameter's size in a checkpoint.
    """
    import mxnet as mx

    from model.training import memory

    shape = (args.batch_size, *args.image_shape)
    need = memory.needed(symbol, contexts, shape, dtype, arrays, args.memonger, bool(args.data_val))
    total, free = memory.host_memory()
    on_device, of_gpus = None, ""
    if need.on_device:
        on_device = min(mx.context.gpu_memory_info(gpu.device_id)[0] for gpu in contexts)
        of_gpus = f", and of each GPU {need.on_device >> 20} MB, {on_device >> 20} MB are free"
    warning = memory.check(need, total, free, on_device)
    say(f"needs about {need.peak >> 20} MB of memory, {free >> 20} MB are free{of_gpus}")
    if warning:
        say(warning)


def where_to_go_on(args, generation, settings, batches, say) -> tuple:
    """Return (place, learning rate, epoch from which the rate holds)."""
    from model.checkpoint import Place

    if not generation:
        return Place(0), args.lr or args.first_lr, 0
    start, saved = generation.place, generation.run
    then = {**BEFORE_RECIPES, "augmentation": {}, **saved["settings"]}
    for name, value in settings.items():
        if then.get(name, value) != value:
            say(f"changed since that checkpoint: {name} {short(then[name])} -> {short(value)}")
    if start.batch and saved["batches"] != batches:
        start = Place(start.epoch, start.batch * batches // saved["batches"])
        say(f"{saved['batches']} batches an epoch then, {batches} now: goes on at {start}")
    if start.epoch >= args.num_epochs:
        say(f"{start.epoch} epochs are done, --num-epochs is {args.num_epochs}: nothing to train")
    # Without --lr the schedule goes on; with it, it begins here.
    if saved["lr"] is None and not args.lr:
        raise ModelError(
            f"{args.model_prefix} was converted: the learning rate of its run is not known: "
            "give --lr"
        )
    if then["optimizer"] != args.optimizer and not args.lr:
        raise ModelError(
            f"--optimizer {args.optimizer} at the rate of {then['optimizer']}, which the run had "
            f"(--recipe {then['recipe']}): give the same, or --lr"
        )
    if args.lr and not (args.retrain == "auto" and args.lr == saved["lr"]):
        began = f"; the run began with {saved['lr']:g}" if saved["lr"] else ""
        say(f"--lr: {args.lr:g} from epoch {start.epoch} on{began}")
        return start, args.lr, start.epoch
    return start, saved["lr"], saved["lr_epoch"]


def begin(checkpoints, method, dry_run):
    """Keep other runs off the checkpoints; with `dry_run`, only look whether that can be done."""
    if dry_run:
        checkpoints.check_lock()
        return
    checkpoints.lock()
    if method.ema:
        checkpoints.begin_averages()


def prepare(args, cluster) -> tuple:
    """Check what can be checked before the first batch; write nothing but the lock.

    Return (trainer, the arguments of its fit, lines to say).
    """
    import mxnet as mx

    from data.iterators import part_sizes
    from model.network.loading import check_params, parameter_shapes
    from model.training.average import AveragedCheckpoints
    from model.training.finetune import starting_params
    from model.training.trainer import Housekeeping, Schedule, Trainer

    notices = []
    say = notices.append
    if args.list_dir != "./":
        say("--list-dir is not used, and was not in 2017")

    contexts = choose_devices(args, say)
    paths = choose_records(args, say)
    num_examples, num_val, num_classes, short_side = look_at_records(args, paths, say)
    rank, workers = cluster.rank, cluster.workers
    if workers > 1:
        say_what_a_job_does(args, cluster, say)
    if num_examples < args.batch_size * workers:
        of_all = f", times {workers} workers," if workers > 1 else ""
        raise DataError(
            f"--batch-size {args.batch_size}{of_all} is more than the {num_examples} training "
            "images: give a smaller one"
        )
    batches = math.ceil(num_examples / (args.batch_size * workers))
    if args.checkpoint_batches and args.checkpoint_batches >= batches:
        say(f"--checkpoint-batches {args.checkpoint_batches}: an epoch has only {batches}")

    checkpoints = AveragedCheckpoints(args.model_prefix)
    method = method_of(args)
    if rank == 0:
        begin(checkpoints, method, args.dry_run)
    else:
        log_file = Path(args.log_file)
        args.log_file = str(log_file.with_name(f"{log_file.stem}-{rank}{log_file.suffix}"))
    generation, writer = shared_generation(args, checkpoints, cluster, say)
    if rank == writer != 0:
        begin(checkpoints, method, args.dry_run)
    network, before = starting_point(args, generation)
    symbol = build_network(args, num_classes, before)
    arrays = method.arrays_in_a_checkpoint()
    checkpoint_size = arrays * 4 * sum(map(math.prod, parameter_shapes(symbol).values()))
    if rank == writer:
        checkpoints.check_free(checkpoint_size)
    pretrained = (None, None)
    if generation:
        check_params(generation.params, symbol, checkpoints.params_file(generation.place))
    elif network:
        *pretrained, line = starting_params(network, symbol, ",".join(map(str, args.pretrained)))
        say(line)
    dtype = choose_dtype(args, contexts, symbol, generation, say)
    if args.dtype == "auto" and len(set(cluster.gather(dtype.encode()))) > 1:
        dtype = "float32"
        say("--dtype auto: float32, which is what all workers can do best")
    check_crop(args.image_shape, short_side, say)
    settings = settings_of(
        args,
        num_classes=num_classes,
        classes=names_of_classes(paths[0], num_classes, say),
        short_side=short_side,
        devices=len(contexts),
        workers=workers,
        dtype=dtype,
    )
    say(recipe_line(args))
    check_alike(
        cluster,
        starts_from=digest_of(network) if network and workers > 1 else None,
        num_examples=num_examples,
        num_val=num_val,
        lr=args.lr,
        num_epochs=args.num_epochs,
        checkpoint_batches=args.checkpoint_batches,
        checkpoint_epochs=args.checkpoint_epochs,
        frequent=args.frequent,
        gc_type=args.gc_type,
        gc_threshold=args.gc_threshold,
        mxnet=mx.__version__,
        **settings,
    )
    check_memory(args, symbol, contexts, dtype, arrays, say)
    if rank == writer:
        free = checkpoints.free_bytes() >> 20
        say(f"each checkpoint takes {checkpoint_size >> 20} MB on disk, {free} MB are free")
    start, lr, since = where_to_go_on(args, generation, settings, batches, say)

    images = training_images(args, paths[0], start, batches, workers, rank)
    validation, validation_batches = None, 0
    # Workers that can't add up their figures leave validation to the first one.
    alone = cluster.updates_on_servers
    if args.data_val and (rank == 0 or not alone):
        parts = part_sizes(paths[1], 1 if alone else workers)
        validation_batches = max(math.ceil(part / args.batch_size) for part in parts)
        validation = validation_images(args, paths[1], parts, rank, len(contexts))

    compress_gradients(args, cluster)
    trainer = Trainer(
        symbol=symbol,
        contexts=contexts,
        cluster=cluster,
        checkpoints=checkpoints if rank == writer else None,
        settings=settings,
        num_classes=num_classes,
        batches=batches,
        batch_size=args.batch_size,
        schedule=Schedule(lr, since, **schedule_args(args)),
        method=method,
        housekeeping=Housekeeping(
            args.checkpoint_epochs, args.checkpoint_batches, args.keep, args.frequent
        ),
        memonger=args.memonger,
        dtype=dtype,
        freeze=args.freeze,
        head_lr_mult=args.head_lr_mult,
    )
    say(
        f"{num_examples} images of {num_classes} classes, {batches} batches an epoch; "
        f"{', '.join(map(str, contexts))}; {dtype}; lr {trainer.schedule.rate_at(start.epoch):g}"
    )
    if args.accumulate > 1:
        say(
            f"--accumulate {args.accumulate}: {args.accumulate * args.batch_size * workers} images "
            f"an update, {trainer.updates.per_epoch} updates an epoch"
        )
    fit = {
        "images": images,
        "validation": validation,
        "num_epochs": args.num_epochs,
        "seed": args.seed,
        "start": start,
        "generation": generation,
        "overwrite": args.overwrite,
        "pretrained": pretrained,
        "validation_batches": validation_batches,
    }
    return trainer, fit, notices


def benchmark(args, cluster):
    """Measure what --benchmark names, and print it."""
    import numpy as np

    from data.iterators import SyntheticIter
    from model.checkpoint import Place
    from model.training.benchmark import peak_megabytes
    from model.training.trainer import Housekeeping, Schedule, Trainer

    say = (lambda line: None) if args.quiet else print
    _, before = starting_point(args, None)
    shape = "x".join(map(str, (args.batch_size, *args.image_shape)))
    if args.benchmark == "input":
        paths = choose_records(args, say)
        num_images, *_ = look_at_records(args, paths, say)
        an_epoch = math.ceil(num_images / args.batch_size)
        began = time.perf_counter()
        images = training_images(args, paths[0], Place(0), an_epoch)
        for number in range(args.benchmark_batches):
            if number and number % an_epoch == 0:
                images.reset()
            images.next().data[0].wait_to_read()
        # Decoding goes ahead of what is asked for: only the whole time tells.
        seconds = (time.perf_counter() - began) / args.benchmark_batches
        what = f"input, {paths[0]}, {args.data_nthreads} threads, {shape}"
    else:
        warm_up = 3
        contexts = choose_devices(args, say)
        num_classes = args.num_classes or 1000
        symbol = build_network(args, num_classes, before)
        dtype = choose_dtype(args, contexts, symbol, None, say)
        batches = warm_up + args.benchmark_batches
        compress_gradients(args, cluster)
        images = SyntheticIter(args.batch_size, args.image_shape, num_classes, batches + 1)
        trainer = Trainer(
            symbol=symbol,
            contexts=contexts,
            cluster=cluster,
            checkpoints=None,
            settings={},
            num_classes=num_classes,
            batches=batches + 1,
            batch_size=args.batch_size,
            schedule=Schedule(args.lr or args.first_lr, 0, (), 1),
            method=method_of(args),
            housekeeping=Housekeeping(frequent=args.frequent),
            memonger=args.memonger,
            dtype=dtype,
            freeze=args.freeze,
            head_lr_mult=args.head_lr_mult,
        )
        trainer.fit(images, None, num_epochs=1, seed=args.seed, start=Place(0))
        seconds = np.median(np.diff(images.times)[warm_up:])
        what = f"training, {dtype}, {shape}, {', '.join(map(str, contexts))}"
    print(
        f"{what}: {args.batch_size / seconds:.1f} images/s, {1000 * seconds:.1f} ms a batch of "
        f"{args.benchmark_batches}, peak memory {peak_megabytes()} MB"
    )


def summarize(args):
    """Print the network as a table."""
    from model.network.cost import table

    _, before = starting_point(args, None)
    print(table(build_network(args, args.num_classes or 1000, before), args.image_shape))


def dry_run(args, fit, notices):
    """Say what the run would begin with, its first batch read."""
    check_log(args.log_file)
    if fit["start"].epoch < args.num_epochs:
        fit["images"].next().data[0].wait_to_read()
    if args.quiet:
        for line in notices:
            if line.startswith("warning:"):
                print(line, file=sys.stderr)
    else:
        print("\n".join([*notices, f"dry run: ready for {fit['start']}; nothing was written"]))


def open_report(args, trainer, fit):
    """Return what the trainer tells its run to, a context manager; None's for a worker that leaves
    this to another."""
    from log.config import write_start
    from log.metrics import MetricsFile
    from log.report import Report, beside
    from model.training.memory import resident

    if not trainer.checkpoints:
        return contextlib.nullcontext()
    # Beside a text log that goes to no file, such as /dev/null, no file can be.
    log_file = Path(args.log_file)
    if not log_file.is_file():
        log_file = Path("log", f"{trainer.checkpoints.prefix.name}.log")
    generation, start = fit["generation"], fit["start"]
    place, run = start, {"batches": trainer.batches, "validation": None}
    if generation:
        place, run = generation.place, generation.run
    metrics = MetricsFile(
        beside(log_file, "metrics.jsonl"), place.epoch, place.batch,
        run.get("batches", trainer.batches), validated=bool(run["validation"]),
    )  # fmt: skip
    write_start(
        beside(log_file, "config.json"),
        anew=not generation,
        command=" ".join(map(shlex.quote, sys.argv)),
        epoch=start.epoch,
        batch=start.batch,
        arguments=vars(args),
        settings=trainer.settings,
    )
    images = args.batch_size * trainer.settings["workers"]
    others = []
    if sys.stdout.isatty() and not args.quiet:
        from log.progress import Progress

        others.append(Progress(args.num_epochs, trainer.batches, images))
    if args.tensorboard is not None:
        from log.board import Board

        folder = args.tensorboard or Path(log_file.parent, "tensorboard", log_file.stem)
        others.append(Board(folder, metrics.kept))
    return Report(metrics, trainer.batches, images, resident, others)


def main(argv=None) -> int:
    args = parse_arguments(argv)
    try:
        role = role_of_this_process(args.kv_store)
        if role in ("scheduler", "server"):
            serve(role, args.kv_store, args.stall_timeout)
        import_mxnet(args.cpus or 1)
        cluster = join(args.kv_store, args.stall_timeout)
    except ModelError as error:
        print(f"train_xception.py: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    try:
        code = train(args, cluster)
    except Exception:
        cluster.abort()
        raise
    cluster.close()
    return code


def train(args, cluster) -> int:
    """Do what the arguments say. Return the exit code."""
    code = 2
    try:
        if args.summary:
            summarize(args)
            return 0
        if args.benchmark:
            benchmark(args, cluster)
            return 0
        if args.tensorboard is not None:
            from log.board import summary_writer

            summary_writer()  # before anything takes its time
        trainer, fit, notices = prepare(args, cluster)
        if args.dry_run:
            dry_run(args, fit, notices)
            return 0
        # The other workers of a job have their own log file, and say nothing else.
        quiet = args.quiet or not trainer.checkpoints
        log = open_log(args.log_file, anew=args.overwrite, quiet=quiet)
        report = open_report(args, trainer, fit)
        code = 1
        log.info("%s", " ".join(map(shlex.quote, sys.argv)))
        for line in notices:
            log.log(logging.WARNING if line.startswith("warning:") else logging.INFO, "%s", line)
        with report as told:
            trainer.fit(**fit, report=told)
    except (DataError, LogError, ModelError) as error:
        if code == 1:
            log.error("error: %s", error)
        print(f"train_xception.py: error: {error}", file=sys.stderr)
        if not isinstance(error, JobError):
            cluster.fail(str(error))
        return code
    except Interrupted as stop:
        return 128 + stop.signal
    except KeyboardInterrupt:  # before the training began
        cluster.fail("stopped by SIGINT")
        return 128 + signal.SIGINT
    log.info("trained: %s", trainer.summary())
    return 0


if __name__ == "__main__":
    sys.exit(main())
