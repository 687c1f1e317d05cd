"""The checks, in the order of the report."""

import importlib
from dataclasses import dataclass, field
from typing import Callable, Dict, List, Mapping, Tuple

from model.selftest.setup import Result, Setup

# cuDNN and cuBLAS round what float32 reads to 11 bits on the Tensor Cores of GPUs of compute
# capability 8.0 and later, unless the environment forbids it.
_EXACT = {"NVIDIA_TF32_OVERRIDE": "0"}


@dataclass(frozen=True)
class Check:
    """A check, and how its process is started.

    name : of its process. function : "module:function" in this package.
    title : what is done, for the progress line.
    each : whether each device has a process of its own.
    leaves_out : whether a device that fails it has no part in what follows, unless all fail.
    trains_here : its process computes with MXNet; else it starts the script, or only looks.
    environment : variables of its process.
    limit : seconds after which it counts as hung.
    """

    name: str
    function: str
    title: str
    each: bool = False
    trains_here: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    leaves_out: bool = False
    limit: float = 600

    def run(self, setup: Setup) -> List[Result]:
        """Run it in this process."""
        return function_of(self.function)(setup)

    def setups(self, setup: Setup) -> List[Tuple[str, Setup]]:
        """Return (name, what is to be checked) of each process."""
        if not self.each:
            return [(self.name, setup)]
        return [(f"{self.name}-{number}", setup.only(number)) for number in setup.ids]


def function_of(name: str) -> Callable[[Setup], List[Result]]:
    """Return "module:function" of this package."""
    module, _, function = name.partition(":")
    found: Callable[[Setup], List[Result]] = getattr(
        importlib.import_module(f"model.selftest.{module}"), function
    )
    return found


CHECKS: Tuple[Check, ...] = (
    Check("compute", "compute:check", "each device computes", True, True, _EXACT, True),
    Check("tf32", "compute:check_as_used", "float32 as used", True, True),
    Check("several", "several:check", "several devices as one", False, True, _EXACT),
    Check("training", "training:check", "training on the digits", limit=1800),
    Check("resuming", "resuming:check", "stop and resume", limit=1800),
    Check("memory", "memory_use:check", "memory against its prediction", False, True),
    Check("speed", "speed:check", "speed", limit=1800),
)

#: By name.
BY_NAME: Dict[str, Check] = {check.name: check for check in CHECKS}
