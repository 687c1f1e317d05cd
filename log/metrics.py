"""The figures of a run in a file, a JSON object a line, each place of the run once.

A line has, in this order:

    event        "interval", as often as the text log has one; "epoch", the averages of a whole
                 epoch; "validation"
    epoch        as in the text log, from 0
    batch        batches of that epoch that are done
    batches      of a whole epoch
    update       updates of the parameters that are done in all
    loss         cross-entropy, in nats
    top1, top5   share of the images, from 0 to 1; top5 null if there are no more than 5 classes
    lr           learning rate of the last update; null for a validation
    images_s     images per second, of all workers
    seconds      that the interval, epoch or validation took
    memory_mb    resident memory of the process then, MB

All but the last three follow from the arguments of the run alone.
"""

import contextlib
import dataclasses
import errno
import json
import os
import sys
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Iterator, List, Optional, Tuple

from log import LogError, schema
from log.files import PathLike, check_replaceable, parse_json, read_file


class Event(str, Enum):
    """What a line is about."""

    INTERVAL = "interval"
    EPOCH = "epoch"
    VALIDATION = "validation"


@dataclass(frozen=True)
class Line:
    """A line of the file."""

    event: Event
    epoch: int
    batch: int
    batches: int
    update: Optional[int] = None
    loss: Optional[float] = None
    top1: Optional[float] = None
    top5: Optional[float] = None
    lr: Optional[float] = None
    images_s: Optional[float] = None
    seconds: Optional[float] = None
    memory_mb: Optional[float] = None

    @property
    def place(self) -> float:
        """Epochs that are done."""
        return self.epoch + self.batch / self.batches

    def text(self) -> bytes:
        return json.dumps(dataclasses.asdict(self)).encode() + b"\n"

    @classmethod
    def of(cls, text: bytes) -> "Line":
        """Return the line of a text. Raises LogError if it is none."""
        values = parse_json(text, "a line", LogError, _FORM)
        known = {each.name for each in dataclasses.fields(cls)}
        of_line = {name: value for name, value in values.items() if name in known}
        return cls(**{**of_line, "event": Event(values["event"])})


_FORM = schema.entries(
    {
        "event": schema.one_of("an event", lambda value: value in list(Event)),
        "epoch": schema.whole(),
        "batch": schema.whole(),
        "batches": schema.whole(1),
    },
    dict.fromkeys(
        ("update", "loss", "top1", "top5", "lr", "images_s", "seconds", "memory_mb"),
        schema.optional(schema.number()),
    ),
)


def read_metrics(path: PathLike) -> List[Line]:
    """Return the lines of a file, without a last one that is torn. Raises LogError if another one
    is damaged or the file can't be read."""
    return [line for line, _ in _lines(path)]


def _lines(path: PathLike) -> Iterator[Tuple[Line, int]]:
    """Yield each line, and the number of the byte after it."""
    end = 0
    content = read_file(path, LogError, what="a file of figures").split(b"\n")
    # After the last newline there is nothing, or the beginning of a line.
    for number, text in enumerate(content[:-1], start=1):
        end += len(text) + 1
        try:
            line = Line.of(text)
        except LogError:
            raise LogError(f"{path}: line {number} is damaged: move the file away") from None
        yield line, end


class MetricsFile:
    """Appends lines to `path`, each at once: what was written before a crash is there after it.

    A run that resumes at (epoch, batch), of `batches` an epoch, keeps the lines up to there; it
    writes those after it again. validated : the validation right there is done too.

    Raises LogError if the file can't be used. If the disk is full later, that is printed once, and
    the run continues.
    """

    def __init__(self, path: PathLike, epoch: int, batch: int, batches: int, validated: bool):
        self.path = Path(path)
        self.kept: List[Line] = []
        self._size = 0
        self._complained = False
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            check_replaceable(self.path)
            self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115
            for line, end in _lines(self.path):
                if not _is_before(line, epoch, batch, batches, validated):
                    break
                self.kept.append(line)
                self._size = end
            # One call: there is no moment in which the file is not whole.
            self._file.truncate(self._size)
        except OSError as error:
            raise LogError(f"{path}: {error.strerror}") from None

    def write(self, line: Line) -> None:
        text = line.text()
        try:
            written = self._file.write(text)
            if written != len(text):
                raise OSError(errno.ENOSPC, "no more than a part of a line could be written")
            self._size += written
        except OSError as error:
            # Later lines can be read if the part of a line that may be there is not.
            with contextlib.suppress(OSError):
                self._file.truncate(self._size)
            if not self._complained:
                print(f"{self.path}: {error}: lines are missing", file=sys.stderr)
                self._complained = True

    def sync(self) -> None:
        """Sync the lines to the disk, so that no checkpoint exists whose lines are lost."""
        with contextlib.suppress(OSError):  # `write` has printed what the disk can't take
            os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def _is_before(line: Line, epoch: int, batch: int, batches: int, validated: bool) -> bool:
    """True if `line` was written before a checkpoint of that place."""
    # The epoch's own numbers count: it may have had other batches than now.
    done = (line.epoch, line.batch) if line.event is Event.INTERVAL else (line.epoch + 1, 0)
    if line.event is Event.VALIDATION and (epoch, batch) == done:
        return validated
    if done[0] != epoch:
        return done[0] < epoch
    return done[1] * batches <= batch * line.batches
