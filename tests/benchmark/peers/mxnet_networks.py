"""Xception in MXNet: this project's, MXNet as it comes, and the network that the 2017 script built.

Without OMP_NUM_THREADS in the environment, `plain` and `sliced` leave the threads to MXNet.
"""

from tests.benchmark.peers import worker


def main():
    args = worker.arguments(
        variants=("project", "plain", "sliced"), dtypes=("float32", "bfloat16", "int8")
    )
    if args.variant == "project":
        from model.devices import import_mxnet

        import_mxnet()
    import mxnet as mx

    import symbol_xception

    shape = (args.batch, 3, args.size, args.size)
    if args.variant == "sliced":
        from tests.network_of_2017 import network_of_2017

        symbol = network_of_2017(worker.NUM_CLASSES, args.filters)
    else:
        symbol = symbol_xception.get_xception_symbol(worker.NUM_CLASSES, args.filters)
    batch = mx.io.DataBatch([mx.nd.random.uniform(0, 255, shape)], [mx.nd.zeros(args.batch)])
    batch.seed = 0
    make = training_module if args.mode == "training" else inference_module
    module = make(args, symbol, shape)

    def train():
        module.forward_backward(batch)
        module.update()
        mx.nd.waitall()

    def infer():
        module.forward(batch, is_train=False)
        module.get_outputs()[0].wait_to_read()

    worker.report(train if args.mode == "training" else infer, args.seconds)


def training_module(args, symbol, shape):
    import mxnet as mx

    if args.variant == "project":
        from model.training.module import ResumableModule

        module = ResumableModule(symbol, [mx.cpu()], args.dtype)
    else:
        module = mx.mod.Module(symbol)
    module.bind([("data", shape)], [("softmax_label", shape[:1])])
    module.init_params(mx.init.Xavier())
    recipe = {
        "learning_rate": worker.LEARNING_RATE,
        "momentum": worker.MOMENTUM,
        "wd": worker.WEIGHT_DECAY,
    }
    # As train_xception.py calls it, which is as the 2017 script did.
    module.init_optimizer(kvstore="device", optimizer="nag", optimizer_params=recipe)
    return module


def inference_module(args, symbol, shape):
    import mxnet as mx

    if args.variant == "project":
        from model.inference.int8 import quantize
        from model.network.inference import bind_for_inference
        from model.network.loading import Network
        from model.network.params import initial_params

        network = (symbol, *initial_params(symbol, mx.init.Xavier()))
        if args.dtype == "int8":
            images = mx.nd.random.uniform(0, 255, (8, *shape[1:]))
            network = quantize(Network(*network), mx.io.NDArrayIter(images, batch_size=8))
            return bind_for_inference(*network, shape, [mx.cpu()])
        return bind_for_inference(*network, shape, [mx.cpu()], args.dtype)
    module = mx.mod.Module(symbol)
    module.bind([("data", shape)], [("softmax_label", shape[:1])], for_training=False)
    module.init_params(mx.init.Xavier())
    return module


if __name__ == "__main__":
    main()
