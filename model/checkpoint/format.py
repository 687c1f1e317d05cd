"""The format of a checkpoint, which the code calls a generation: its files, their names, and the
description that completes it.

A generation has all that a run needs to resume from one place:

    PREFIX-symbol.json   the network, as mx.sym.load reads it (one for all generations)
    PREFIX-0003.params   parameters and moving statistics after 3 epochs, as mx.nd.load reads them
    PREFIX-0003.states   optimizer states and what else is not a parameter (model.training.state)
    PREFIX-0003.json     where the run was, and the SHA-256 of each of these files and of itself

or, within the 4th epoch after 120 batches, PREFIX-0003-000120.params and so on.
`mx.model.load_checkpoint(PREFIX, 3)` reads one too.
"""

import hashlib
import json
import os
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

import numpy as np

from log import schema
from log.files import UNFINISHED, parse_json
from model import ModelError
from model.checkpoint import ndarray_file
from model.checkpoint.forms import DESCRIPTION

#: name -> numpy array.
Arrays = Dict[str, np.ndarray]
#: What a run writes about itself: anything that JSON holds.
RunState = Dict[str, Any]

_FORMAT = 1


@dataclass(frozen=True, order=True)
class Place:
    """A place in a run: epochs done, and batches done in the next one."""

    epoch: int
    batch: int = 0

    def __str__(self) -> str:
        return f"epoch {self.epoch}" + (f", batch {self.batch}" if self.batch else "")

    @property
    def stem(self) -> str:
        return f"{self.epoch:04d}" + (f"-{self.batch:06d}" if self.batch else "")


def listed(places: Sequence[Place]) -> str:
    """Return places in the order of the run as text, three or more epochs in a row as one."""
    rows: List[List[Place]] = []
    for place in places:
        if rows and not place.batch and rows[-1][-1] == Place(place.epoch - 1):
            rows[-1].append(place)
        else:
            rows.append([place])
    return ", ".join(
        f"epochs {row[0].epoch} to {row[-1].epoch}" if len(row) > 2 else ", ".join(map(str, row))
        for row in rows
    )


@dataclass(frozen=True)
class Generation:
    """A verified, loaded generation.

    place : where the run was.
    symbol_json : the network.
    params, states : name -> numpy array.
    run : what the run wrote about itself (`Checkpoints.save`).
    count : how many generations the run had saved with this one.
    """

    place: Place
    symbol_json: str
    params: Arrays
    states: Arrays
    run: RunState
    count: int = 0

    def to_bytes(self) -> bytes:
        """Return all of it, for `from_bytes`."""
        names = [field.name for field in fields(self)]
        head = {name: getattr(self, name) for name in names if name not in ("params", "states")}
        head["place"] = [self.place.epoch, self.place.batch]
        arrays = {"head": np.frombuffer(json.dumps(head).encode(), np.uint8)}
        for kind in ("params", "states"):
            arrays.update({f"{kind} {k}": array for k, array in getattr(self, kind).items()})
        pieces: List[bytes] = []
        ndarray_file.dump(arrays, lambda piece: pieces.append(bytes(piece)))
        return b"".join(pieces)

    @classmethod
    def from_bytes(cls, content: bytes) -> "Generation":
        arrays = ndarray_file.parse(content)
        head = json.loads(arrays.pop("head").tobytes())
        head["place"] = Place(*head["place"])
        for kind in ("params", "states"):
            of_kind = [name for name in arrays if name.startswith(f"{kind} ")]
            head[kind] = {name[len(kind) + 1 :]: arrays[name] for name in of_kind}
        return cls(**head)


@dataclass(frozen=True)
class Description:
    """The .json of a generation.

    count : how many generations the run had saved with this one.
    files : "symbol", "params", "states" -> SHA-256 of the file, in hexadecimal.
    run : what the run wrote about itself.
    """

    count: int
    files: Dict[str, str]
    run: RunState

    def to_json(self) -> bytes:
        described = {"format": _FORMAT, "count": self.count, "files": self.files, "run": self.run}
        return json.dumps({**described, "sha256": _digest(described)}, indent=1).encode()

    @classmethod
    def parse(cls, content: bytes, path: Path) -> "Description":
        """Return what `to_json` gave. Raises ModelError, which names `path`."""
        described = parse_json(content, path, ModelError)
        if not isinstance(described, dict) or described.pop("sha256", None) != _digest(described):
            raise ModelError(f"{path}: damaged")
        if described.get("format") != _FORMAT:
            found = described.get("format")
            raise ModelError(f"{path}: format {found}, this script knows {_FORMAT}")
        problem = schema.problem(described, DESCRIPTION)
        if problem:
            raise ModelError(f"{path}: damaged: {problem}")
        return cls(described["count"], described["files"], described["run"])


def _digest(described: Dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


class Names:
    """The names of the files of one prefix.

    symbol : the network. lock : held by the run that writes here. best : the link to the parameters
    with the best validation accuracy.
    """

    def __init__(self, prefix: Union[str, "os.PathLike[str]"]):
        self.prefix = Path(prefix)
        self.folder = self.prefix.parent
        self.symbol = self._path("symbol.json")
        self.lock = self._path("lock")
        self.best = self._path("best.params")

    def _path(self, ending: str) -> Path:
        return self.folder / f"{self.prefix.name}-{ending}"

    def params(self, place: Place) -> Path:
        return self._path(f"{place.stem}.params")

    def states(self, place: Place) -> Path:
        return self._path(f"{place.stem}.states")

    def description(self, place: Place) -> Path:
        return self._path(f"{place.stem}.json")

    def described(self, place: Place) -> Tuple[Tuple[str, Path], ...]:
        """Return (kind in `Description.files`, path) of each file that the description vouches
        for."""
        params, states = self.params(place), self.states(place)
        return (("symbol", self.symbol), ("params", params), ("states", states))

    def places(self) -> List[Place]:
        """Return the places with any file of a generation, whole or not, in the order of the run.
        Raises ModelError if the folder can't be read."""
        pattern = re.compile(
            re.escape(self.prefix.name) + r"-(\d{4,})(?:-(\d{6,}))?\.(?:params|states|json)"
        )
        matches = (pattern.fullmatch(name) for name in self._in_folder())
        return sorted({Place(int(m[1]), int(m[2] or 0)) for m in matches if m})

    def prefixes(self) -> List[str]:
        """Return the last parts of all prefixes in this folder that have a network."""
        ending = "-symbol.json"
        return sorted(name[: -len(ending)] for name in self._in_folder() if name.endswith(ending))

    def unfinished(self) -> List[Path]:
        """Return what kills have left half written; not of PREFIX-more, which may be another
        run's."""
        pattern = re.compile(
            re.escape(self.prefix.name)
            + r"-(?:symbol\.json|best\.params|\d{4,}(?:-\d{6,})?\.(?:params|states|json))"
            + re.escape(UNFINISHED)
        )
        return [self.folder / name for name in self._in_folder() if pattern.fullmatch(name)]

    def _in_folder(self) -> List[str]:
        try:
            return os.listdir(self.folder)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise ModelError(f"{self.folder}: {error.strerror}") from None


def named_by_params(name: str) -> Optional[Tuple[str, Place]]:
    """Return (prefix, place) of a .params file of an epoch; None for other names.

    The reverse of `Names.params`.
    """
    match = re.fullmatch(r"(.+)-(\d{4,})\.params", name)
    return (match[1], Place(int(match[2]))) if match else None
