"""One run of a network on one image, in a process that MXNet may crash (`checking.check_runs`).

python -m model.network.trial '[1, 3, 224, 224]' < symbol.json
"""

import json
import sys

from model import ModelError
from model.devices import import_mxnet


def main() -> int:
    mx = import_mxnet()
    from model.network.checking import REFUSED
    from model.network.errors import mxnet_errors
    from model.network.inference import bind_as_it_is

    shape = json.loads(sys.argv[1])
    try:
        with mxnet_errors("MXNet"):
            symbol = mx.sym.load_json(sys.stdin.read())
            module = bind_as_it_is(symbol, tuple(shape), [mx.cpu()])
            module.forward(mx.io.DataBatch([mx.nd.zeros(shape)]), is_train=False)
            for output in module.get_outputs():
                output.wait_to_read()
    except ModelError as error:
        print(error)
        return REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main())
