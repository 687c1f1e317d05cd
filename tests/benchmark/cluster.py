"""What the parameter server costs, the bytes that a step sends, and what that means for more
machines.

    python -m tests.benchmark.cluster [--batch-size 8] [--image-size 224] [--filters reduced]

Two workers of one core each, with a server and a scheduler on the same two cores, beside one worker
of one core, and one worker with two CPU contexts (--cpus 2). Each job runs in a network namespace
of its own, whose loopback has no other traffic and counts each byte once, headers and
acknowledgements too; jobs of two lengths are compared, so that what is sent at the start does not
count. It needs Linux with `unshare` and `taskset`, and user namespaces for those who are not root.
Then the sums of the gradients alone, added by worker (which three workers or more do) beside in the
order in which they come, as MXNet does. Then a table from a model of the scaling, with its
assumptions.
"""

import argparse
import fcntl
import math
import os
import re
import socket
import struct
import subprocess
import sys
import time

from log.command import OneLineParser, numbers, positive, whole

_PORT = 9091
# Of the multiplications of a step, those for the gradients of inputs and weights.
_BACKWARD = 2 / 3


def loopback_bytes() -> int:
    """Bytes that this network namespace's loopback has received."""
    with open("/proc/net/dev") as file:
        return int(re.search(r"lo:\s*(\d+)", file.read())[1])


def loopback_up():
    siocgifflags, siocsifflags, iff_up = 0x8913, 0x8914, 1
    with socket.socket() as control:
        request = fcntl.ioctl(control, siocgifflags, struct.pack("16sh14x", b"lo", 0))
        flags = struct.unpack("16sh14x", request)[1]
        fcntl.ioctl(control, siocsifflags, struct.pack("16sh14x", b"lo", flags | iff_up))


def add_up(in_order, filters, batches):
    """Be one role of a job that adds up the gradients of the network, and does nothing else."""
    role, os.environ["DMLC_ROLE"] = os.environ["DMLC_ROLE"], "worker"
    import mxnet as mx
    import numpy as np

    from model.job import joining
    from model.job import sums as kvstore
    from model.network import params as network
    from symbol_xception import ORIGINAL_FILTERS, REDUCED_FILTERS, get_xception_symbol

    os.environ["DMLC_ROLE"] = role
    kvstore.adds_in_order = lambda *_: in_order
    if role != "worker":
        joining.serve(role, "dist_sync", 60)
    job = joining.join("dist_sync", 60)
    filter_list = {"reduced": REDUCED_FILTERS, "original": ORIGINAL_FILTERS}[filters]
    shapes = network.parameter_shapes(get_xception_symbol(filter_list=filter_list))
    gradients = {
        name: [mx.nd.ones(shape)] for name, shape in shapes.items() if name.startswith("arg:")
    }
    times = []
    for _ in range(3 + batches):
        job.exchange(0)
        began = time.perf_counter()
        job.add_up(gradients)
        mx.nd.waitall()
        times.append(time.perf_counter() - began)
    print(f"{1000 * np.median(times[3:]):.2f} ms a batch of {batches}")
    job.close()


def run_job(workers, given):
    """Print the milliseconds of a step (of the slowest worker) and the bytes of the whole job.
    To be called in a network namespace of its own."""
    loopback_up()
    command = [sys.executable, "-u", "train_xception.py", "--benchmark", *given]
    if given[0] == "--sums":
        command = [sys.executable, "-m", __spec__.name, *given]
    roles = ["worker"]
    if workers > 1:
        if given[0] != "--sums":
            command.append("--kv-store=dist_sync")
        roles = ["scheduler", "server", *["worker"] * workers]
    shared = {
        **os.environ,
        "DMLC_NUM_WORKER": str(workers),
        "DMLC_NUM_SERVER": "1",
        "DMLC_PS_ROOT_URI": "127.0.0.1",
        "DMLC_PS_ROOT_PORT": str(_PORT),
        "DMLC_NODE_HOST": "127.0.0.1",
    }
    cores = sorted(os.sched_getaffinity(0))
    processes = []
    for number, role in enumerate(roles):
        own = {**shared, "DMLC_ROLE": role} if workers > 1 else dict(os.environ)
        own["OMP_NUM_THREADS"] = "1"
        before = []
        if role == "worker" and "--cpus=2" not in given:
            before = ["taskset", "-c", str(cores[number % 2])]
        pipe = subprocess.PIPE
        processes.append(
            (role, subprocess.Popen([*before, *command], env=own, stdout=pipe, stderr=pipe))
        )
    slowest = 0
    for role, process in processes:
        out, err = process.communicate(timeout=900)
        if process.returncode:
            sys.exit(f"{role}: {err.decode().strip()}")
        if role == "worker":
            slowest = max(slowest, float(re.search(rb"([\d.]+) ms a batch", out)[1]))
    print(slowest, loopback_bytes())


def measure(workers, given, lengths=(5, 25)) -> tuple:
    """Return (milliseconds of a step, bytes of a step)."""
    times, totals = [], []
    for batches in lengths if workers > 1 else lengths[-1:]:
        command = ["unshare", "--map-root-user", "--net", sys.executable, "-m", __spec__.name,
                   "--job", str(workers), *given, f"--benchmark-batches={batches}"]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"cluster: error: {' '.join(given)}: {done.stderr.strip()}")
        step, total = done.stdout.split()[-2:]
        times.append(float(step))
        totals.append(int(total))
    sent = (totals[-1] - totals[0]) / (lengths[-1] - lengths[0])
    return times[-1], sent


def communication(machines, sent, gigabits) -> float:
    """Seconds in which a machine's link sends, and receives, what a step needs.

    sent : bytes of a step from a worker to the servers and back. Each machine has a worker and
    a server with 1/machines of the parameters: its link sends the worker's gradients for the other
    machines, and its part of the sums to the other workers; and receives as much.
    """
    return sent * (machines - 1) / machines * 8 / (gigabits * 1e9)


def print_model(step, images, sent, links, jitter):
    """step : seconds of a worker without communication. images : of a worker in a step. sent :
    bytes of a worker in a step, there and back."""
    print(
        f"\nA model, not a measurement: {1000 * step:.0f} ms a step of {images} images on each "
        f"machine; each worker\nsends and gets {sent / 1e6:.1f} MB a step.\n"
        "Assumed: as many servers as machines, one on each, parameters spread evenly; full-duplex\n"
        "links at their nominal speed, which are what saturates, not the switch, and no other\n"
        "traffic; servers add as fast as data comes; the slowest of N workers takes\n"
        f"1 + jitter x sqrt(2 ln N) times the mean, jitter {jitter:g}.\n"
        "First figure: nothing is sent before the backward pass ends. Second: gradients are sent\n"
        "during it, two thirds of a step, as far as that fits; sums come back during it between\n"
        "two machines, and behind it between more, which add up by worker.\n"
        "In parentheses: share of N times one machine."
    )
    print("\nmachines  " + "".join(f"{f'{link:g} Gbit/s':>28}" for link in links))
    for machines in (1, 2, 4, 16, 64):
        slowest = step * (1 + jitter * math.sqrt(2 * math.log(machines)))
        cells = []
        for link in links:
            taken = communication(machines, sent, link)
            after = slowest + taken
            # Half of what is sent are sums.
            behind = taken / 2 if machines > 2 else 0
            during = slowest * (1 - _BACKWARD) + max(slowest * _BACKWARD, taken - behind) + behind
            speeds = [f"{machines * images / t:.0f} ({step / t:.2f})" for t in (after, during)]
            cells.append(" - ".join(speeds))
        print(f"{machines:8}  " + "".join(f"{cell:>28}" for cell in cells))
    print("images/s of all machines")


def main():
    if sys.argv[1:2] == ["--job"]:
        run_job(int(sys.argv[2]), sys.argv[3:])
        return
    if sys.argv[1:2] == ["--sums"]:
        order, filters, batches = sys.argv[2:]
        add_up(order == "by-worker", filters, int(batches.split("=")[1]))
        return
    parser = OneLineParser(
        prog="cluster", description=__doc__.split("\n\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--batch-size", type=whole(1), default=8, help="images a worker")
    parser.add_argument("--image-size", type=whole(1), default=224, help="pixels")
    parser.add_argument("--filters", choices=("reduced", "original"), default="reduced")
    parser.add_argument("--gc-threshold", type=positive, default=0.5, help="of --gc-type 2bit")
    parser.add_argument(
        "--links", type=lambda text: numbers(text, "Gbit/s as in 1,10", positive),
        default=(1.0, 10.0, 25.0), help="Gbit/s, for the model",
    )  # fmt: skip
    parser.add_argument("--step", type=positive, help="ms a step, for the model (as measured)")
    parser.add_argument(
        "--jitter", type=float, default=0.03, help="of a step's time, for the model"
    )
    args = parser.parse_args()
    batch = args.batch_size
    common = ["--gpus=", f"--image-shape=3,{args.image_size},{args.image_size}",
              f"--filters={args.filters}"]  # fmt: skip
    one, two = [*common, f"--batch-size={batch}"], [f"--batch-size={2 * batch}", "--cpus=2"]
    compressed = ["--gc-type=2bit", f"--gc-threshold={args.gc_threshold}"]
    alone, _ = measure(1, one)
    rows = [
        ("1 worker, 1 core", 1, alone, 0),
        ("1 worker, --cpus 2", 2, measure(1, [*common[1:], *two])[0], 0),
        ("2 workers, dist_sync", 2, *measure(2, one)),
        ("2 workers, --gc-type 2bit", 2, *measure(2, [*one, *compressed])),
    ]
    print(f"{'':28}{'images/s':>10}{'ms a step':>12}{'of 2 x 1 core':>15}{'MB a step, all':>17}")
    for name, cores, step, sent in rows:
        speed = 1000 * cores * batch / step
        print(
            f"{name:28}{speed:10.1f}{step:12.0f}{cores * alone / step / 2:15.2f}{sent / 1e6:17.2f}"
        )
    print(f"\n{'sums alone':28}{'by worker':>10}{'as they come':>16}{'ratio':>9}{'MB':>9}{'MB':>9}")
    for workers in (2, 3):
        (ours, sent), (theirs, sent_by_them) = (
            measure(workers, ["--sums", order, args.filters]) for order in ("by-worker", "any")
        )
        print(
            f"{f'{workers} workers':28}{ours:7.0f} ms{theirs:13.0f} ms{ours / theirs:9.2f}"
            f"{sent / 1e6:9.2f}{sent_by_them / 1e6:9.2f}"
        )
    step = (args.step or alone) / 1000
    print_model(step, batch, rows[2][3] / 2, args.links, args.jitter)


if __name__ == "__main__":
    main()
