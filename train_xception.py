"""Train Xception on image records.

    python -u train_xception.py --gpus=0,1,2,3
    python -u train_xception.py --gpus=0,1,2,3 --retrain

The command line becomes a plan, the plan a run, and the run is fitted:

    argv --Plan.of--> Plan --resolve--> Run --Module.fit--> checkpoints, log
           (pure)     frozen (disk,     frozen (callbacks)
                             devices,
                             workers)

Exit code 0: trained; 2: the arguments can't be used; 1: the run failed; 130, 143: stopped by
SIGINT, SIGTERM.
"""

import sys
from typing import TYPE_CHECKING, Optional, Sequence

from log.command import Outcome, command
from log.lines import check_log, errors_in_log, open_log
from model.job.joining import joined
from model.plan import Plan, Task

if TYPE_CHECKING:
    import mxnet as mx

    from log.report import Report
    from model.job.cluster import Cluster
    from model.training.batches import ValidationImages
    from model.training.run import Run

# mxnet takes seconds to load, and reads the environment then. `joined` imports it after the
# arguments are checked; modules that need it are imported in the functions that run after that.


def main(argv: Optional[Sequence[str]] = None) -> int:
    with command("train_xception.py", writes_files=True) as outcome:
        plan = Plan.of(argv)
        with joined(plan.devices, plan.task is Task.BENCHMARK_INPUT) as cluster:
            if plan.task is Task.TRAIN:
                train(plan, cluster, outcome)
            elif plan.task is Task.SUMMARY:
                summarize(plan)
            else:
                benchmark(plan, cluster)
    return outcome.code


def train(plan: Plan, cluster: "Cluster", outcome: Outcome) -> None:
    """Resolve the plan and train. A dry run only prints what training would start with."""
    from log.board import summary_writer
    from model.training.batches import iterators
    from model.training.reporting import command_line, open_report
    from model.training.resolve import resolve

    if plan.output.tensorboard is not None:
        summary_writer()  # whether it is installed, before anything takes its time
    run = resolve(plan, cluster)
    train_iter, validation = iterators(run, cluster)
    if plan.output.dry_run:
        return show(run, train_iter)
    # The other workers of a job have their own log file, and print nothing else.
    quiet = plan.output.quiet or not run.checkpoints
    log = open_log(run.log_file, anew=plan.saving.overwrite, quiet=quiet)
    with open_report(run) as report, errors_in_log(log):
        outcome.begun()  # from here on, errors are those of a failed run
        log.info("%s", command_line())
        run.notices.write(log)
        summary = fit(run, train_iter, validation, cluster, report)
    log.info("trained: %s", summary)


def show(run: "Run", train_iter: "mx.io.DataIter") -> None:
    """Print what the run begins with, its first batch read; write nothing."""
    check_log(run.log_file)
    if run.start.place.epoch < run.plan.training.num_epochs:
        train_iter.next().data[0].wait_to_read()
    for notice in run.notices:
        if not run.plan.output.quiet:
            print(notice)
        elif notice.is_warning:
            print(notice, file=sys.stderr)
    if not run.plan.output.quiet:
        print(f"dry run: ready for {run.start.place}; nothing was written")


def fit(
    run: "Run",
    train_iter: "mx.io.DataIter",
    validation: "ValidationImages",
    cluster: "Cluster",
    report: "Report",
) -> str:
    """Train from `run.start` to the last epoch. Return a line about the result."""
    import mxnet as mx

    from model.training.callbacks import callbacks_of
    from model.training.module import module_of

    method, start, schedule, updates = run.method, run.start, run.schedule, run.updates
    if run.plan.devices.gc_type != "none":
        cluster.compress_gradients(run.plan.devices.gc_type, run.plan.devices.gc_threshold)
    module = module_of(run, cluster)
    callbacks = callbacks_of(run, module, train_iter, validation, cluster, report)
    with callbacks.around_fit():
        mx.random.seed(run.plan.training.seed)
        module.fit(
            callbacks.batches,
            eval_metric=callbacks.metric,
            kvstore=cluster.kvstore,
            optimizer=method.optimizer,
            optimizer_params={
                **method.optimizer_params(),
                "learning_rate": schedule.lr,
                "lr_scheduler": schedule.scheduler(updates.per_epoch, start.first_update),
                "begin_num_update": updates.before(start.place) - start.first_update,
            },
            # The initializer of the 2017 script.
            initializer=mx.init.Xavier(rnd_type="gaussian", factor_type="in", magnitude=2),
            arg_params=start.arg_params,
            aux_params=start.aux_params,
            allow_missing=start.is_pretrained,
            batch_end_callback=callbacks.after_batch,
            epoch_end_callback=callbacks.after_epoch,
            begin_epoch=start.place.epoch,
            num_epoch=callbacks.last_epoch,
        )
    return callbacks.summary()


def summarize(plan: Plan) -> None:
    """Print the network as a table."""
    from model.network.cost import table
    from model.training.origin import build_network, origin_of

    network = build_network(plan, plan.data.num_classes or 1000, origin_of(plan, None))
    print(table(network.symbol, plan.data.image_shape))


def benchmark(plan: Plan, cluster: "Cluster") -> None:
    """Print how fast this machine trains, or reads records."""
    from model.training.speed import input_speed, training_speed

    if plan.task is Task.BENCHMARK_INPUT:
        print(input_speed(plan, cluster))
    else:
        print(training_speed(plan, cluster, fit))


if __name__ == "__main__":
    sys.exit(main())
