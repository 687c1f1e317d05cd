"""Command: python -m model.selftest --gpus 0,1. What it prints is described in README.md."""

import argparse
import contextlib
import json
import signal
import sys
import tempfile
import time
from dataclasses import replace
from types import FrameType
from typing import Callable, Iterator, List, NoReturn, Optional, Sequence, Tuple

from log.command import OneLineParser, command, whole
from log.versions import versions
from model import Interrupted, ModelError
from model.arguments import gpu_ids
from model.devices import gpus
from model.selftest import children
from model.selftest.checks import BY_NAME, CHECKS, Check
from model.selftest.report import heading, summary, table
from model.selftest.setup import Result, Setup, not_run

#: Runs a check, and calls a function while it waits: `model.selftest.children.run_in_child`.
RunCheck = Callable[[Check, Setup, Callable[[], None]], List[Result]]

# Defaults of --batch-size and --image-size.
_SIZES = {"gpu": (32, 224), "cpu": (8, 224), "small": (2, 32)}
_MACHINE_LIMIT = 120


def parse_arguments(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = OneLineParser(
        prog="python -m model.selftest",
        description="Check that training on these devices computes the same as on a CPU. Prints a "
        "report of one page; exit code 1 if something failed.",
    )
    parser.add_argument(
        "--gpus",
        type=gpu_ids,
        metavar="IDS",
        help="GPUs, as in 0,1 (default: all that the driver shows, else --cpus 1)",
    )
    parser.add_argument(
        "--cpus", type=whole(1, 64), metavar="N", help="N CPU contexts, to try the self-test itself"
    )
    parser.add_argument(
        "--only",
        type=_names,
        default=tuple(BY_NAME),
        metavar="NAMES",
        help=f"run only these checks, of {','.join(BY_NAME)} (default: all)",
    )
    parser.add_argument(
        "--batch-size",
        type=whole(1, 4096),
        metavar="N",
        help="images per device when memory and speed are measured (default: 32 on GPUs, else 8)",
    )
    parser.add_argument(
        "--image-size",
        type=whole(32, 1024),
        metavar="N",
        help="height and width of these images, in pixels (default: 224)",
    )
    parser.add_argument(
        "--small",
        action="store_true",
        help="small networks and few images, to try the self-test itself",
    )
    args = parser.parse_args(argv)
    if args.gpus and args.cpus:
        parser.error("--gpus and --cpus: give one of them")
    return args


def _names(text: str) -> Tuple[str, ...]:
    names = tuple(word.strip() for word in text.split(","))
    unknown = [name for name in names if name not in BY_NAME]
    if unknown:
        raise argparse.ArgumentTypeError(
            f"must be of {','.join(BY_NAME)}, with commas between, not {text!r}"
        )
    return names


def main(argv: Optional[Sequence[str]] = None, run_check: RunCheck = children.run_in_child) -> int:
    """run_check : runs a check; by default in a process of its own."""
    with command("model.selftest", interrupted="stopped") as outcome:
        args = parse_arguments(argv)
        kind, ids = choose_devices(args.gpus, args.cpus)
        outcome.begun()
        checks = [check for check in CHECKS if check.name in args.only]
        progress = Progress(len(checks) + 1)
        words = sys.argv[1:] if argv is None else argv
        lines = [_first_line(), ("command", f"python -m model.selftest {' '.join(words)}")]
        with cleaning_up(), tempfile.TemporaryDirectory(prefix="xception-selftest-") as folder:
            setup = setup_of(args, kind, ids, folder)
            lines += describe_machine(setup, progress)
            results = run_all(checks, setup, progress, run_check)
        progress.end()
        lines.append(("took", f"{progress.seconds:.0f} s"))
        print(heading(lines), table(results), summary(results), sep="\n\n")
        if any(result.passed is False for result in results):
            outcome.code = 1
    return outcome.code


def choose_devices(
    wanted: Optional[Sequence[int]], cpus: Optional[int]
) -> Tuple[str, Tuple[int, ...]]:
    """Return the kind of device and the numbers of those that are tried.

    GPUs that can't be used are tried as well, if they are asked for: that they fail is a result.
    Raises ModelError if none of them is there.
    """
    if cpus or wanted == ():
        return "cpu", tuple(range(cpus or 1))
    found = gpus()
    if wanted is None:
        return ("gpu", tuple(range(len(found)))) if found else ("cpu", (0,))
    if not found:
        raise ModelError(
            "the driver shows no GPU (is it loaded? nvidia-smi must list it); --cpus 1 for a CPU"
        )
    return "gpu", tuple(wanted)


def setup_of(args: argparse.Namespace, kind: str, ids: Tuple[int, ...], folder: str) -> Setup:
    """Return what the checks are given; sizes that are not given are those of the devices."""
    batch_size, image_size = _SIZES["small" if args.small else kind]
    return Setup(
        kind,
        ids,
        folder,
        args.batch_size or batch_size,
        args.image_size or image_size,
        args.small,
    )


def run_all(
    checks: Sequence[Check], setup: Setup, progress: "Progress", run_check: RunCheck
) -> List[Result]:
    """Return the results of all checks. A device that fails alone has no part in what follows."""
    results: List[Result] = []
    for check in checks:
        progress.begin(check.title)
        found = run_check(check, setup, progress.show)
        results += found
        if check.leaves_out:
            setup = without_failed(setup, found, results)
    return results


def without_failed(setup: Setup, found: List[Result], results: List[Result]) -> Setup:
    """Return `setup` without the devices that failed alone, so that the others can be tried
    together; all of them if they all failed. Add a line about it to `results`.

    found : of a check of each device.
    """
    failed = tuple(result.name for result in found if result.passed is False)
    left = tuple(
        number
        for number, name in zip(setup.ids, setup.names)
        if not any(each.startswith(f"{name} ") for each in failed)
    )
    if not left or left == setup.ids:
        return setup
    names = [name for number, name in zip(setup.ids, setup.names) if number not in left]
    results.append(not_run("what follows", f"not on {', '.join(names)}"))
    return replace(setup, ids=left)


def describe_machine(setup: Setup, progress: "Progress") -> List[Tuple[str, str]]:
    """Return the lines about the machine, (name, text); the reason if MXNet can't be loaded."""
    progress.begin("looking at the machine")
    answer = children.ask("machine", setup, "machine", {}, _MACHINE_LIMIT, progress.show)
    if answer.text is None:
        return [("machine", answer.problem)]
    return [(name, text) for name, text in json.loads(answer.text)]


def _first_line() -> Tuple[str, str]:
    commit = versions()["commit"] or "no git"
    return "xception", f"self-test {time.strftime('%Y-%m-%dT%H:%M:%S%z')}, commit {commit[:12]}"


@contextlib.contextmanager
def cleaning_up() -> Iterator[None]:
    """Let SIGTERM end the body as Ctrl-C does: with its processes, and its files."""

    def end(number: int, _frame: Optional[FrameType]) -> NoReturn:
        raise Interrupted(number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class Progress:
    """The line on standard error that says what is tried, and for how long: a live one in a
    terminal, else one for each step."""

    def __init__(self, steps: int) -> None:
        self._steps, self._step = steps, 0
        self._began = self._start = time.monotonic()
        self._title = ""
        self._is_live = sys.stderr.isatty()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def begin(self, title: str) -> None:
        self._step += 1
        self._title, self._start = title, time.monotonic()
        if not self._is_live:
            print(f"{self._step}/{self._steps} {title}", file=sys.stderr)
        self.show()

    def show(self) -> None:
        if self._is_live:
            here = time.monotonic() - self._start
            text = f"{self._step}/{self._steps} {self._title}: {here:.0f} s"
            print(f"\r\x1b[K{text}, {self.seconds:.0f} s in all", end="", file=sys.stderr)
            sys.stderr.flush()

    def end(self) -> None:
        if self._is_live:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
