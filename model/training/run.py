"""A run: the plan, with the values resolved from disk, devices, checkpoints and workers."""

from dataclasses import dataclass
from typing import Any, Dict, Optional, Tuple

import mxnet as mx

from data.inspect import Images
from log.notices import Notices
from model.plan import Plan
from model.training.average import AveragedCheckpoints
from model.training.optimizers import Method
from model.training.origin import Origin
from model.training.schedule import Schedule, Updates
from model.training.start import Start


@dataclass(frozen=True)
class Run:
    """All that training needs, resolved.

    batches : per epoch, equal on all workers. updates : how updates are counted.
    checkpoints : None for a worker that writes none.
    log_file : of this worker. settings : what each checkpoint keeps about the run.
    """

    plan: Plan
    contexts: Tuple[mx.Context, ...]
    dtype: str
    images: Images
    origin: Origin
    symbol: mx.sym.Symbol
    start: Start
    method: Method
    schedule: Schedule
    updates: Updates
    batches: int
    checkpoints: Optional[AveragedCheckpoints]
    log_file: str
    settings: Dict[str, Any]
    notices: Notices
