"""Inference of this project's network in ONNX Runtime, exported with MXNet."""

import multiprocessing
import tempfile
from pathlib import Path

from tests.benchmark.peers import worker


def export(filters, shape, path):
    """Write the network, with a softmax that wants no label, to `path`."""
    import mxnet as mx
    import numpy as np
    import onnx

    import symbol_xception
    from model.network import initial_params

    symbol = symbol_xception.get_xception_symbol(worker.NUM_CLASSES, filters)
    symbol = mx.sym.softmax(symbol.get_internals()["fc1_output"], name="softmax")
    arg_params, aux_params = initial_params(symbol, mx.init.Xavier())
    mx.onnx.export_model(symbol, {**arg_params, **aux_params}, [shape], np.float32, str(path))
    # MXNet's exporter lists the parameters as inputs too. What could be given anew with each call
    # is not constant, and ONNX Runtime would not fold BatchNorm into the weights.
    model = onnx.load(str(path))
    graph = model.graph
    images = [value for value in graph.input if value.name == "data"]
    del graph.input[:]
    graph.input.extend(images)
    onnx.save(model, str(path))


def main():
    args = worker.arguments(dtypes=("float32",))
    shape = (args.batch, 3, args.size, args.size)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "xception.onnx")
        # In a process of its own: its memory is not the runtime's.
        spawn = multiprocessing.get_context("spawn")
        exporter = spawn.Process(target=export, args=(args.filters, shape, path))
        exporter.start()
        exporter.join()

        import numpy as np
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = args.threads
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
    images = np.random.uniform(0, 255, shape).astype("float32")
    worker.report(lambda: session.run(None, {"data": images}), args.seconds)


if __name__ == "__main__":
    main()
