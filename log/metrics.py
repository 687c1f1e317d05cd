"""The figures of a run, a JSON object a line, each place of the run once.

A line has, in this order:

    event        "interval", as often as the text log has one; "epoch", the averages of a whole
                 epoch; "validation"
    epoch        as in the text log, from 0
    batch        batches of that epoch that are done
    batches      of a whole epoch
    update       updates of the parameters that are done in all
    loss         cross-entropy, in nats
    top1, top5   share of the images, from 0 to 1; top5 null where there are no more than 5 classes
    lr           learning rate of the last update; null for a validation
    images_s     images per second, of all workers
    seconds      that the interval, epoch or validation took
    memory_mb    resident memory of the process then, MB

All but the last three follow from the arguments of the run alone.
"""

import contextlib
import json
import os
import sys
from pathlib import Path

from log import LogError


def read_metrics(path) -> list:
    """Return the lines of a file; a last one that is torn is left out.

    Raises LogError where another one is none of these, OSError where the file can't be read.
    """
    return [line for line, _ in _lines(path)]


def _lines(path):
    """Yield (line, the byte behind it)."""
    end = 0
    content = Path(path).read_bytes().split(b"\n")
    # What is behind the last newline is empty, or the beginning of a line.
    for number, text in enumerate(content[:-1], start=1):
        end += len(text) + 1
        try:
            line = json.loads(text)
            line["event"], line["epoch"], line["batch"], line["batches"]
        except (ValueError, KeyError, TypeError):
            raise LogError(f"{path}: line {number} is damaged: move the file away") from None
        yield line, end


class MetricsFile:
    """Appends lines to `path`, each at once: what was written before a crash is there after it.

    A run that goes on from (epoch, batch), of `batches` an epoch, keeps the lines up to there, and
    comes to the others again; with `validated`, those of the validation right there are among the
    former. Raises LogError where the file can't be used. Later on, when the disk is full, that is
    said once, and the run goes on.
    """

    def __init__(self, path, epoch: int, batch: int, batches: int, validated: bool):
        self.path = Path(path)
        self.kept = []
        self._size = 0
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
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
        self._complained = False

    def write(self, line: dict):
        text = json.dumps(line).encode() + b"\n"
        try:
            written = self._file.write(text)
            if written != len(text):
                raise OSError("no more than a part of a line could be written")
            self._size += written
        except OSError as error:
            # Without the part of a line that may be there, later ones can be read.
            with contextlib.suppress(OSError):
                self._file.truncate(self._size)
            if not self._complained:
                print(f"{self.path}: {error}: lines are missing", file=sys.stderr)
                self._complained = True

    def sync(self):
        """Bring the lines to the disk, so that no checkpoint is there that has lost its lines."""
        with contextlib.suppress(OSError):  # a pipe; what a disk can't take, `write` has said
            os.fsync(self._file.fileno())

    def close(self):
        self._file.close()


def _is_before(line, epoch, batch, batches, validated) -> bool:
    """True where `line` was written before a checkpoint of that place."""
    # The epoch's own numbers count: it may have had other batches than now.
    done = (line["epoch"] + 1, 0) if line["event"] != "interval" else (line["epoch"], line["batch"])
    if line["event"] == "validation" and (epoch, batch) == done:
        return validated
    if done[0] != epoch:
        return done[0] < epoch
    return done[1] * batches <= batch * line["batches"]
