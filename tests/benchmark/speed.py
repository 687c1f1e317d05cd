"""How fast this project is beside its peers: training and inference, images/s.

    python -m tests.benchmark.speed [--quick] [--rows TEXT] [--out FILE.json]

Makes an environment for each peer under .venv-peers/ (once), measures everything in turn, A B A B,
each time in a process of its own, and prints the medians as Markdown tables. What another process
has disturbed is measured again, and said where it can't be helped. Every row is this
project against one peer in the same type, unless it says otherwise. Each has all usable cores,
but for "plain MXNet", which has what it takes. Then the share of the machine's own ceiling:
the FLOP/s of a training step against those of the best matrix product measured in the same run.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from log.machine import usable_cores
from model.devices import import_mxnet
from tests.benchmark.peers.environments import INHERITED, ROOT, PeerError, last_line, python_of

TIME_LIMIT = 900  # seconds for one measurement, the compiler's time included
# The share of the machine that other processes may take before a measurement is repeated.
DISTURBED, ATTEMPTS = 0.02, 3


@dataclass(frozen=True)
class Workload:
    """What is measured. size : height and width of an image."""

    mode: str
    filters: str
    size: int
    batch: int

    def __str__(self):
        return f"{self.mode}, {self.filters} filters, {self.size}x{self.size}, batch {self.batch}"


@dataclass(frozen=True)
class Contestant:
    """Who is measured. environment : under .venv-peers/, None for this project's own.

    variables : environment variables; None unsets one. ours : what it is compared with.
    """

    name: str
    worker: str
    environment: str = None
    variant: str = None
    dtype: str = "float32"
    variables: dict = field(default_factory=dict, hash=False)

    def __str__(self):
        return f"{self.name}, {self.dtype}"


# The flags of CPUs that have instructions for it.
BFLOAT16 = {"avx512_bf16", "amx_bf16"}
NO_AMX = {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"}


def project(dtype):
    return Contestant("this project", "mxnet_networks", None, "project", dtype)


def torch(variant, dtype, **more):
    name = f"PyTorch {variant}" + (" without AMX" if more else "")
    return Contestant(name, "pytorch", "torch", variant, dtype, **more)


def keras(dtype, **more):
    name = "Keras on TensorFlow" + (" without AMX" if more else "")
    return Contestant(name, "tensorflow_keras", "tensorflow", None, dtype, **more)


PLAIN = Contestant(
    "plain MXNet", "mxnet_networks", None, "plain", variables={"OMP_NUM_THREADS": None}
)
# The network of 2017 does not run on oneDNN in MXNet 1.9.1.
SLICED = Contestant(
    "the network of the 2017 script", "mxnet_networks", None, "sliced",
    variables={"MXNET_MKLDNN_ENABLED": "0", "MXNET_STORAGE_FALLBACK_LOG_VERBOSE": "0"},
)  # fmt: skip
ONNX = Contestant("ONNX Runtime", "onnx_runtime", "onnx")

WORKLOADS = (
    Workload("training", "reduced", 224, 1),
    Workload("training", "reduced", 224, 2),
    Workload("training", "reduced", 224, 16),
    Workload("training", "reduced", 224, 64),
    Workload("training", "original", 299, 8),
    Workload("inference", "reduced", 224, 1),
    Workload("inference", "reduced", 224, 16),
    Workload("inference", "reduced", 224, 64),
    Workload("inference", "original", 299, 1),
    Workload("inference", "original", 299, 8),
)


def contestants(work: Workload, flags: set) -> list:
    """Return who is measured in `work`, this project first, on a CPU with `flags`."""
    if work == Workload("training", "reduced", 224, 2):
        return [project("float32"), SLICED]
    eager = [torch("eager", "float32"), torch("eager", "bfloat16")]
    found = [project("float32"), project("bfloat16"), *eager]
    if "amx_bf16" in flags:
        # oneDNN 2.4 in MXNet 1.9.1 has no AMX that works; this is how a CPU without it compares.
        found.append(torch("eager", "bfloat16", variables=NO_AMX))
    if work.batch < 64:
        found += [keras("float32"), PLAIN]
    if work.batch in (8, 16):
        # Compilers take a minute for each shape: these stand for the others.
        found += [torch("compiled", "float32"), torch("compiled", "bfloat16"), keras("bfloat16")]
    if work.mode == "inference":
        found += [ONNX, project("int8")]
    if not BFLOAT16 & flags:
        found = [who for who in found if who.dtype != "bfloat16"]
    return found


def measure(who: Contestant, work: Workload, filters: dict, seconds: float) -> dict:
    """Return the median {"seconds", "peak_mb"} of a step. Raises PeerError."""
    if who.variant == "compiled" and not shutil.which(os.environ.get("CXX", "g++")):
        raise PeerError("no C++ compiler")
    python = python_of(who.environment) if who.environment else sys.executable
    command = [
        python, "-m", f"tests.benchmark.peers.{who.worker}", "--mode", work.mode,
        "--dtype", who.dtype, "--filters", ",".join(map(str, filters[work.filters])),
        "--size", str(work.size), "--batch", str(work.batch), "--seconds", str(seconds),
    ]  # fmt: skip
    if who.variant:
        command += ["--variant", who.variant]
    return run(command, who.variables)


def run(command, variables=None) -> dict:
    """Return what a worker prints on its last line, JSON. Raises PeerError."""
    environment = {**INHERITED, "OMP_NUM_THREADS": str(usable_cores()), **(variables or {})}
    environment = {name: value for name, value in environment.items() if value is not None}
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=TIME_LIMIT
        )
    except subprocess.TimeoutExpired:
        raise PeerError(f"more than {TIME_LIMIT} s") from None
    if done.returncode:
        raise PeerError(last_line(done))
    return json.loads(done.stdout.splitlines()[-1])


def undisturbed(measurement) -> dict:
    """Return what `measurement()` does, with "others": the share of the machine's time that other
    processes took meanwhile. Of several attempts, the one with the smallest."""
    attempts = []
    while not attempts or (attempts[-1]["others"] > DISTURBED and len(attempts) < ATTEMPTS):
        began, ours, all_of_it = time.perf_counter(), children_seconds(), busy_seconds()
        found = measurement()
        others = busy_seconds() - all_of_it - (children_seconds() - ours)
        whole = (time.perf_counter() - began) * os.cpu_count()
        attempts.append({**found, "others": round(max(0, others / whole), 3)})
    return min(attempts, key=lambda attempt: attempt["others"])


def busy_seconds() -> float:
    """CPU time that the machine has spent so far: all of /proc/stat but idle and iowait."""
    with open("/proc/stat") as stat:
        user, nice, system, _, _, irq, softirq, steal = map(int, stat.readline().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure_all(work, whos, filters, rounds, seconds) -> list:
    """Return a dict for each of `whos`: its figures' medians, or "error"."""
    times = {who: [] for who in whos}
    errors = {}
    for number in range(rounds):
        for who in whos:
            if who in errors:
                continue
            try:
                times[who].append(undisturbed(lambda who=who: measure(who, work, filters, seconds)))
            except PeerError as error:
                errors[who] = str(error)
            last = times[who][-1:] or errors[who]
            print(f"[{number + 1}/{rounds}] {work}: {who}: {last}", file=sys.stderr)
    found = []
    for who in whos:
        result = {**asdict(work), "who": who.name, "dtype": who.dtype}
        if who in errors:
            result["error"] = errors[who]
        else:
            result["all_seconds"] = [each["seconds"] for each in times[who]]
            result["images_s"] = work.batch / statistics.median(result["all_seconds"])
            result["others"] = max(each["others"] for each in times[who])
            result["peak_mb"] = statistics.median(each["peak_mb"] for each in times[who])
        found.append(result)
    return found


def table(work, results) -> str:
    """Return the workload's Markdown table, and who its fastest peer is."""
    ours = {r["dtype"]: r for r in results if r["who"] == "this project"}
    lines = [
        f"### {work}", "",
        "| peer | type | this project, images/s | peer, images/s | ratio | peak MB, this : peer |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]  # fmt: skip
    ratios = []
    for peer in results:
        mine = ours[peer["dtype"]]
        if peer is mine:
            if mine["dtype"] == "int8" and "error" not in mine:
                # None of the peers is quantized; what it gains is told beside the own float32.
                speeds = [ours[dtype]["images_s"] for dtype in ("int8", "float32")]
                lines.append(
                    f"| this project, float32 | int8 | {speeds[0]:.1f} | {speeds[1]:.1f} | "
                    f"{speeds[0] / speeds[1]:.2f} | |"
                )
            elif "error" in mine:
                lines.append(f"| - | {mine['dtype']} | not run: {mine['error']} | | | |")
        elif "error" in peer:
            lines.append(f"| {peer['who']} | {peer['dtype']} | | not run: {peer['error']} | | |")
        elif "error" not in mine:
            ratio = mine["images_s"] / peer["images_s"]
            ratios.append((ratio, peer))
            lines.append(
                f"| {peer['who']} | {peer['dtype']} | {mine['images_s']:.1f} | "
                f"{peer['images_s']:.1f} | {ratio:.2f} | "
                f"{mine['peak_mb']:.0f} : {peer['peak_mb']:.0f} |"
            )
    for dtype in ours:
        of_type = [pair for pair in ratios if pair[1]["dtype"] == dtype]
        if of_type:
            ratio, peer = min(of_type, key=lambda pair: pair[0])
            lines += ["", f"{ratio:.2f} of the fastest {dtype} peer, {peer['who']}."]
    others = max((result.get("others", 0) for result in results), default=0)
    if others > DISTURBED:
        lines += ["", f"Disturbed: other processes took up to {others:.0%} of the CPU meanwhile."]
    return "\n".join([*lines, ""])


def ceiling(results, symbols, flags) -> tuple:
    """Return (Markdown, GFLOP/s by type) of the training rows against the best matrix product."""
    from model.network.cost import training_flops

    runs = [("", {})] + [(" without AMX", NO_AMX)] * ("amx_bf16" in flags)
    script = ["-m", "tests.benchmark.peers.matrix_product"]
    best = undisturbed(lambda: run([sys.executable, *script, "numpy"]))
    found = {"float32": [best["float32"]], "bfloat16": []}
    notes = []
    for label, variables in runs:
        try:
            command = [python_of("torch"), *script, "torch"]
            best = undisturbed(lambda command=command, variables=variables: run(command, variables))
        except PeerError as error:
            notes.append(f"PyTorch's matrix products{label}: not run: {error}")
            continue
        found["float32"].append(best["float32"])
        if label:
            found["bfloat16 without AMX"] = [best["bfloat16"]]
        else:
            found["bfloat16"].append(best["bfloat16"])
    best = {dtype: max(values) for dtype, values in found.items() if values}
    lines = [
        "### Share of the machine's ceiling", "",
        "Best matrix products, GFLOP/s: "
        + ", ".join(f"{dtype} {value:.0f}" for dtype, value in best.items()) + ".",
        *notes, "",
        "| training | type | GFLOP/s | share |", "| --- | --- | ---: | ---: |",
    ]  # fmt: skip
    for r in results:
        if r["mode"] == "training" and r["who"] == "this project" and "error" not in r:
            flops = training_flops(symbols[r["filters"]], r["size"]) * r["images_s"] / 1e9
            work = f"{r['filters']} filters, {r['size']}x{r['size']}, batch {r['batch']}"
            for dtype, value in best.items():
                if dtype.split()[0] == r["dtype"]:
                    lines.append(f"| {work} | {dtype} | {flops:.0f} | {flops / value:.2f} |")
    return "\n".join([*lines, ""]), best


def cpu() -> tuple:
    """Return (the CPU's name, its flags)."""
    lines = [line.split(":") for line in Path("/proc/cpuinfo").read_text().splitlines()]
    fields = {key.strip(): value[0].strip() for key, *value in lines if value}
    return fields.get("model name", "unknown CPU"), set(fields.get("flags", "").split())


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmark.speed", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--quick", action="store_true", help="one round of the batch-16 rows")
    parser.add_argument(
        "--rows", default="", metavar="TEXT", help="only what has this in its name, as 'batch 8'"
    )
    parser.add_argument("--rounds", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=3, help="of steps a measurement, at least")
    parser.add_argument("--out", metavar="FILE", help="all figures, JSON")
    args = parser.parse_args()
    works = [w for w in WORKLOADS if args.rows in str(w) and (not args.quick or w.batch == 16)]
    if not works:
        names = "; ".join(map(str, WORKLOADS))
        parser.exit(2, f"{parser.prog}: error: --rows: no name has {args.rows!r} in it: {names}\n")

    import_mxnet()
    import symbol_xception

    filters = {
        "reduced": symbol_xception.REDUCED_FILTERS,
        "original": symbol_xception.ORIGINAL_FILTERS,
    }
    symbols = {name: symbol_xception.get_xception_symbol(1000, f) for name, f in filters.items()}
    name, flags = cpu()
    isa = [flag for flag in ("avx512f", *sorted(BFLOAT16)) if flag in flags]
    print(f"{name}, {usable_cores()} cores, {' '.join(isa) or 'no AVX-512'}\n")
    out = {"cpu": name, "isa": isa, "cores": usable_cores(), "results": []}
    for work in works:
        rounds = 1 if args.quick else args.rounds
        results = measure_all(work, contestants(work, flags), filters, rounds, args.seconds)
        print(table(work, results), flush=True)
        out["results"] += results
        write(args.out, out)
    if any(work.mode == "training" for work in works):
        text, out["matrix_products"] = ceiling(out["results"], symbols, flags)
        print(text)
        write(args.out, out)
    return 0


def write(path, out):
    if path:
        Path(path).write_text(json.dumps(out, indent=1))


if __name__ == "__main__":
    sys.exit(main())
