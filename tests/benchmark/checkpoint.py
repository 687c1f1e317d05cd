"""What a checkpoint costs: the time that it holds up training, and its size on the disk.

    python -m tests.benchmark.checkpoint [--filters original] [FOLDER]

A generation (parameters, momentum, description; synced, with checksums) against MXNet's own
`save_checkpoint` of the parameters alone (no momentum, not synced), A B A B in one run, medians.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import mxnet as mx

import symbol_xception
from model.checkpoint import Checkpoints, Place
from model.network.params import numpy_params
from model.training.module import ResumableModule


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--filters", choices=("reduced", "original"), default="reduced")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("folder", nargs="?", help="where to write (default: a temporary folder)")
    args = parser.parse_args()
    filters = {
        "reduced": symbol_xception.REDUCED_FILTERS,
        "original": symbol_xception.ORIGINAL_FILTERS,
    }[args.filters]
    symbol = symbol_xception.get_xception_symbol(1000, filter_list=filters)
    module = ResumableModule(symbol, [mx.cpu()])
    module.bind([("data", (2, 3, 64, 64))], [("softmax_label", (2,))])
    module.init_params(mx.init.Xavier())
    module.init_optimizer(optimizer="nag", optimizer_params={"momentum": 0.9})
    batch = mx.io.DataBatch([mx.nd.ones((2, 3, 64, 64))], [mx.nd.zeros(2)])
    batch.seed = 0

    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        checkpoints = Checkpoints(Path(folder, "x"))
        ours, theirs, sizes = [], [], None
        for _ in range(args.rounds):
            for times, save in ((ours, generation), (theirs, plain)):
                module.forward_backward(batch)
                module.update()
                mx.nd.waitall()
                began = time.perf_counter()
                save(module, symbol, checkpoints)
                times.append(time.perf_counter() - began)
        sizes = [
            sum(path.stat().st_size for path in Path(folder).glob(pattern))
            for pattern in ("x-*", "plain-*")
        ]
    ours, theirs = statistics.median(ours), statistics.median(theirs)
    print(f"{args.filters} filters, 1000 classes")
    print(f"generation       {ours * 1e3:6.0f} ms  {sizes[0] / 1e6:6.1f} MB")
    print(f"save_checkpoint  {theirs * 1e3:6.0f} ms  {sizes[1] / 1e6:6.1f} MB")
    print(f"ratio            {ours / theirs:6.2f}     {sizes[0] / sizes[1]:6.2f}")


def generation(module, symbol, checkpoints):
    params = numpy_params(*module.get_params())
    states = module.training_state(at_epoch_end=True)
    checkpoints.save(Place(1), symbol.tojson(), params, states, {"settings": {}})


def plain(module, _symbol, checkpoints):
    module.save_checkpoint(str(checkpoints.folder / "plain"), 1)


if __name__ == "__main__":
    main()
