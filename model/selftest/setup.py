"""What a check is given, and what it returns."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Callable, List, Optional, Tuple

from model import mxnet_reason


@dataclass(frozen=True)
class Setup:
    """What a check is given.

    kind, ids : the devices, as of mx.Context: ``cpu`` or ``gpu``, and their numbers.
    folder : of this self-test's files. It is deleted afterwards.
    batch_size : images a device, where memory and speed are measured.
    image_size : their height and width, in pixels.
    small : networks of few filters, fewer images: to try the self-test itself.
    """

    kind: str
    ids: Tuple[int, ...]
    folder: str
    batch_size: int
    image_size: int
    small: bool = False

    def only(self, number: int) -> "Setup":
        """Return the same with a single device."""
        return replace(self, ids=(number,))

    @property
    def names(self) -> List[str]:
        """The devices as MXNet prints them."""
        return [f"{self.kind}({number})" for number in self.ids]

    @property
    def on_gpus(self) -> bool:
        return self.kind == "gpu"

    def place(self, name: str) -> Path:
        """Return a folder for files, made if it is not there."""
        path = Path(self.folder, name)
        path.mkdir(parents=True, exist_ok=True)
        return path

    def flags(self, devices: Optional[int] = None) -> List[str]:
        """Return the flags of train_xception.py for the first of these devices, default all."""
        ids = self.ids[:devices]
        if self.on_gpus:
            return [f"--gpus={','.join(map(str, ids))}"]
        return ["--gpus=", f"--cpus={len(ids)}"]

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Setup":
        values = json.loads(text)
        return cls(**{**values, "ids": tuple(values["ids"])})


class RunFailed(Exception):
    """A run of train_xception.py that has ended otherwise than it should; its last line."""


@dataclass(frozen=True)
class Result:
    """A line of the report.

    passed : None for what could not be tried here. figure : what was found. tolerance : what it
    must be.
    """

    name: str
    passed: Optional[bool]
    figure: str
    tolerance: str = ""


def not_run(name: str, reason: str) -> Result:
    return Result(name, None, f"not run: {reason}")


def attempt(name: str, tolerance: str, measure: Callable[[], Tuple[bool, str]]) -> Result:
    """Return the result of a measurement, (passed, figure); failed if it raises an exception."""
    try:
        passed, figure = measure()
    except Exception as error:
        return Result(name, False, reason_of(error), tolerance)
    return Result(name, bool(passed), figure, tolerance)


def reason_of(error: BaseException) -> str:
    """Return an exception in one line, without the stack that MXNet adds."""
    if isinstance(error, RuntimeError):  # MXNetError is one
        return mxnet_reason(error).replace("MXNetError: ", "")
    text = " ".join(str(error).split())
    return text if isinstance(error, RunFailed) else f"{type(error).__name__}: {text}"


def results_json(results: List[Result]) -> str:
    return json.dumps([asdict(result) for result in results])


def results_of(text: str) -> List[Result]:
    values: List[Any] = json.loads(text)
    return [Result(**each) for each in values]
