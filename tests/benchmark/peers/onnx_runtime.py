"""Inference of this project's network in ONNX Runtime, as python -m model.convert exports it."""

import multiprocessing
import tempfile
from pathlib import Path

from tests.benchmark.peers import worker


def export(filters, image_shape, path):
    import mxnet as mx

    import symbol_xception
    from model.convert import onnx
    from model.network.loading import Network
    from model.network.params import initial_params

    symbol = symbol_xception.get_xception_symbol(worker.NUM_CLASSES, filters)
    network = Network(symbol, *initial_params(symbol, mx.init.Xavier()))
    path.write_bytes(onnx.export(network, "softmax", image_shape))


def main():
    args = worker.arguments(dtypes=("float32",))
    image_shape = (3, args.size, args.size)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "xception.onnx")
        # In a process of its own: its memory is not the runtime's.
        spawn = multiprocessing.get_context("spawn")
        exporter = spawn.Process(target=export, args=(args.filters, image_shape, path))
        exporter.start()
        exporter.join()

        import numpy as np
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = args.threads
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
    images = np.random.uniform(0, 255, (args.batch, *image_shape)).astype("float32")
    worker.report(lambda: session.run(None, {"data": images}), args.seconds)


if __name__ == "__main__":
    main()
