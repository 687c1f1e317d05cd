"""The machine's own ceiling: the best matrix product, in GFLOP/s, of numpy or of PyTorch.

python -m tests.benchmark.peers.matrix_product numpy|torch
"""

import json
import sys
import time

import numpy as np


def best(product, repeat=4) -> float:
    """Return the GFLOP/s of the fastest product of `product(size)`, sizes 1024 to 4096."""
    found = 0
    for size in (1024, 2048, 3072, 4096):
        multiply = product(size)
        multiply()
        for _ in range(repeat):
            began = time.perf_counter()
            multiply()
            found = max(found, 2 * size**3 / (time.perf_counter() - began) / 1e9)
    return found


def of_numpy(size):
    a, b = np.random.rand(2, size, size).astype("float32")
    return lambda: a @ b


def of_torch(dtype):
    import torch

    def product(size):
        a, b = torch.rand(2, size, size).to(dtype)
        return lambda: a @ b

    return product


def main():
    if sys.argv[1] == "numpy":
        found = {"float32": best(of_numpy)}
    else:
        import torch

        found = {
            "float32": best(of_torch(torch.float32)),
            "bfloat16": best(of_torch(torch.bfloat16)),
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
