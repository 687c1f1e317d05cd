"""Checkpoints: written whole or not at all, verified before they are believed.

A generation is what a run needs to go on from one place, and consists of

    PREFIX-symbol.json   the network, as mx.sym.load reads it (one for all generations)
    PREFIX-0003.params   parameters and moving statistics after 3 epochs, as mx.nd.load reads them
    PREFIX-0003.states   optimizer states, in the same format
    PREFIX-0003.json     where the run was, and the SHA-256 of each of these files and of itself

or, within the 4th epoch after 120 batches, of PREFIX-0003-000120.params and so on. The .json is
written last: a generation without it does not exist. `mx.model.load_checkpoint(PREFIX, 3)` reads
one too. The .states are written before the .params, and deleted after them: parameters alone are
a checkpoint of another program, and never what a kill has left of one of these.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path

import numpy as np

from model import ModelError
from model.checkpoint import ndarray_file

_FORMAT = 1
# In the order in which they are written.
_SUFFIXES = (".states", ".params", ".json")


@dataclass(frozen=True, order=True)
class Place:
    """A place in a run: epochs done, and batches done in the next one."""

    epoch: int
    batch: int = 0

    def __str__(self):
        return f"epoch {self.epoch}" + (f", batch {self.batch}" if self.batch else "")

    @property
    def stem(self) -> str:
        return f"{self.epoch:04d}" + (f"-{self.batch:06d}" if self.batch else "")


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
    params: dict
    states: dict
    run: dict
    count: int = 0

    def to_bytes(self) -> bytes:
        """Return all of it, for `from_bytes`."""
        names = [field.name for field in fields(self)]
        head = {name: getattr(self, name) for name in names if name not in ("params", "states")}
        head["place"] = [self.place.epoch, self.place.batch]
        arrays = {"head": np.frombuffer(json.dumps(head).encode(), np.uint8)}
        for kind in ("params", "states"):
            arrays.update({f"{kind} {k}": array for k, array in getattr(self, kind).items()})
        pieces = []
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


class Checkpoints:
    """The generations of one prefix."""

    def __init__(self, prefix):
        self.prefix = Path(prefix)
        self.folder = self.prefix.parent
        self._symbol = self._path("symbol.json")

    def _path(self, ending) -> Path:
        return self.folder / f"{self.prefix.name}-{ending}"

    def _file(self, place, suffix) -> Path:
        return self._path(place.stem + suffix)

    def _files(self, place) -> tuple:
        """(name in the .json, path) of what a generation consists of beside its .json."""
        return (
            ("symbol", self._symbol),
            ("params", self._file(place, ".params")),
            ("states", self._file(place, ".states")),
        )

    @property
    def lock_file(self) -> Path:
        return self._path("lock")

    def params_file(self, place: Place) -> Path:
        return self._file(place, ".params")

    # Reading

    def places(self) -> list:
        """Places with any file of a generation, whole or not, in the order of the run."""
        pattern = re.compile(
            re.escape(self.prefix.name) + r"-(\d{4,})(?:-(\d{6,}))?\.(?:params|states|json)"
        )
        matches = (pattern.fullmatch(name) for name in self._names())
        return sorted({Place(int(m[1]), int(m[2] or 0)) for m in matches if m})

    def check_there(self, place: Place):
        """Raise ModelError where there is no file of a generation at `place`."""
        places = self.places()
        if place not in places:
            there = f"; there are: {', '.join(map(str, places))}" if places else ""
            raise ModelError(f"{self.prefix} has no checkpoint of {place}{there}")

    def _names(self):
        try:
            return os.listdir(self.folder)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise ModelError(f"{self.folder}: {error.strerror}") from None

    def load(self, place: Place) -> Generation:
        """Return the generation at `place`. Raises ModelError where any byte of it is wrong."""
        described = self._describe(place)
        content = {}
        for kind, path in self._files(place):
            content[path] = _read(path)
            expected = {described["files"].get(kind)}
            if kind == "symbol":
                # Another dropout since then makes another symbol, of the same parameters.
                expected |= self._known_symbols()
            if hashlib.sha256(content[path]).hexdigest() not in expected:
                raise ModelError(f"{path}: damaged: not what {self._file(place, '.json')} expects")
        arrays = []
        for suffix in (".params", ".states"):
            path = self._file(place, suffix)
            try:
                arrays.append(ndarray_file.parse(content[path]))
            except ndarray_file.FormatError as error:
                raise ModelError(f"{path}: {error}") from None
        symbol_json = content[self._symbol].decode()
        return Generation(place, symbol_json, *arrays, described["run"], described["count"])

    def validation(self, place: Place) -> dict:
        """Return the validation figures of a generation; None where there are none."""
        return (self.run(place) or {}).get("validation")

    def run(self, place: Place) -> dict:
        """Return what the run wrote about itself in a generation; None where that can't be read."""
        with contextlib.suppress(ModelError):
            return self._describe(place)["run"]
        return None

    def _known_symbols(self) -> set:
        known = set()
        for place in self.places():
            with contextlib.suppress(ModelError):
                known.add(self._describe(place)["files"].get("symbol"))
        return known

    def _describe(self, place) -> dict:
        path = self._file(place, ".json")
        if self.is_unfinished(place):
            raise ModelError(f"{self._file(place, '.states')} has no {path.name}: never finished")
        if not path.exists() and self.params_file(place).exists():
            raise ModelError(
                f"{self.params_file(place)} has no {path.name}: not written by this script"
            )
        try:
            described = json.loads(_read(path))
            digest = described.pop("sha256")
        except (ValueError, KeyError, AttributeError, TypeError):
            raise ModelError(f"{path}: damaged") from None
        if digest != _digest(described):
            raise ModelError(f"{path}: damaged")
        if described["format"] != _FORMAT:
            raise ModelError(f"{path}: format {described['format']}, this script knows {_FORMAT}")
        return described

    def is_unfinished(self, place: Place) -> bool:
        """True for what a kill within `save` has left of a generation that never was.

        Its states are there, and no .json. Other programs' parameters have the same names, but
        states in a format of their own: MXNet's are a pickle.
        """
        if self._file(place, ".json").exists():
            return False
        try:
            with open(self._file(place, ".states"), "rb") as file:
                return ndarray_file.has_magic(file.read(8))
        except OSError:
            return False

    def newest(self) -> tuple:
        """Return (the generation saved last of those that verify or None, the errors of others
        saved after it).

        Last in time, by the counter in the files: a run that went back to epoch 3 and has saved
        epoch 4 again goes on from there, whatever later epochs an earlier run has left.
        """
        counted = []
        for place in self.places():
            try:
                counted.append((self._describe(place)["count"], place))
            except ModelError:
                counted.append((float("inf"), place))
        passed_over = []
        for _, place in sorted(counted, reverse=True):
            try:
                return self.load(place), passed_over
            except ModelError as error:
                passed_over.append(str(error))
        return None, passed_over

    # Writing

    def save(self, place: Place, symbol_json: str, params: dict, states: dict, run: dict) -> int:
        """Write a generation beside what is there; return its size in bytes.

        params, states : name -> numpy array. run : anything that JSON holds.
        Raises ModelError where it can't be written; earlier generations stay as they are.
        """
        json_path = self._file(place, ".json")
        size = 0
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            count = 1 + max([self._count(other) for other in self.places()], default=0)
            # Replacing a generation: without its .json it is gone, so that it is never mixed.
            json_path.unlink(missing_ok=True)
            symbol = symbol_json.encode()
            files = {"symbol": hashlib.sha256(symbol).hexdigest()}
            first = not self._symbol.exists()
            # Another symbol than before gets its name last: until then, the one that is there does
            # for the earlier generations, which know it. `lock` does it where a kill came between.
            another = first or self._symbol.read_bytes() != symbol
            if another:
                size += _write_part(self._symbol, lambda write: write(symbol))[1]
            if first:
                _name_part(self._symbol)
            for kind, arrays in (("states", states), ("params", params)):
                path = self._file(place, f".{kind}")
                files[kind], written = write_whole(path, partial(ndarray_file.dump, arrays))
                size += written
            described = {"format": _FORMAT, "count": count, "files": files, "run": run}
            size += self._write_description(place, described)
            if another and not first:
                _name_part(self._symbol)
        except OSError as error:
            for path in self._leftovers():
                path.unlink(missing_ok=True)
            name = error.filename or json_path
            raise ModelError(
                f"{name}: {os.strerror(error.errno)}: no checkpoint of {place} could be written"
            ) from None
        return size

    def _write_description(self, place, described) -> int:
        text = json.dumps({**described, "sha256": _digest(described)}, indent=1).encode()
        return write_whole(self._file(place, ".json"), lambda write: write(text))[1]

    def annotate(self, place: Place, **additions):
        """Replace entries of what the run wrote about itself in the generation at `place`."""
        described = self._describe(place)
        described["run"].update(additions)
        with _errors_in_one_line():
            self._write_description(place, described)

    def in_order(self) -> list:
        """Places of the generations, in the order in which they were saved."""
        counted = [(self._count(place), place) for place in self.places()]
        return [place for count, place in sorted(counted) if count]

    def _count(self, place) -> int:
        try:
            return self._describe(place)["count"]
        except ModelError:
            return 0

    def _leftovers(self):
        # Of this prefix alone: PREFIX-more may be another run's.
        pattern = re.compile(
            re.escape(self.prefix.name)
            + r"-(?:symbol\.json|best\.params|\d{4,}(?:-\d{6,})?\.(?:params|states|json))"
            + re.escape(_UNFINISHED)
        )
        return [self.folder / name for name in self._names() if pattern.fullmatch(name)]

    def remove(self, places):
        """Delete generations, the .json first: what is left of one is never taken for whole."""
        with _errors_in_one_line():
            for place in places:
                for suffix in reversed(_SUFFIXES):
                    self._file(place, suffix).unlink(missing_ok=True)

    # The best one

    def set_best(self, place: Place):
        """Have PREFIX-best.params name the parameters of `place` (a symbolic link), or, for None,
        nothing."""
        link = self._path("best.params")
        with _errors_in_one_line():
            if place is None:
                link.unlink(missing_ok=True)
                return
            new = _part(link)
            new.unlink(missing_ok=True)
            new.symlink_to(self.best_params_file(place).name)
            _name_part(link)

    def best_params_file(self, place: Place) -> Path:
        """The parameters that were validated at `place`."""
        return self.params_file(place)

    def free_bytes(self) -> int:
        """Bytes that are free on the checkpoints' file system; a quota may allow less."""
        return shutil.disk_usage(self._existing_folder()).free

    def _existing_folder(self) -> Path:
        """The folder, or what there is already of the path to it."""
        folder = self.folder
        while not folder.exists():
            folder = folder.parent
        return folder

    def check_free(self, size: int):
        """Raise ModelError where a checkpoint of `size` bytes won't fit."""
        free = self.free_bytes()
        if free < size:
            raise ModelError(
                f"{self.folder}: {free >> 20} MB free, a checkpoint needs {size >> 20} MB"
            )

    def check_lock(self):
        """Raise ModelError where `lock` would; write nothing."""
        path = self.lock_file
        with self._errors_of_lock(path):
            tempfile.TemporaryFile(dir=self._existing_folder()).close()  # has no name
            if path.exists():
                with open(path) as lock:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def lock(self):
        """Keep other runs off this prefix until the process ends, however it ends; delete what a
        killed one has left half written, or finish it.

        Raises ModelError where another run has it, or where its folder can't be written to.
        """
        path = self.lock_file
        with self._errors_of_lock(path):
            self.folder.mkdir(parents=True, exist_ok=True)
            # Stays open, and so locked, as long as this object lives.
            self._lock = open(path, "w")  # noqa: SIM115
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._name_symbol_of_newest()
            for unfinished in self._leftovers():
                unfinished.unlink(missing_ok=True)

    def _name_symbol_of_newest(self):
        """Do what a kill within `save` has kept from being done last."""
        part, in_order = _part(self._symbol), self.in_order()
        if in_order and part.exists():
            expected = self._describe(in_order[-1])["files"].get("symbol")
            if hashlib.sha256(part.read_bytes()).hexdigest() == expected:
                _name_part(self._symbol)

    @contextlib.contextmanager
    def _errors_of_lock(self, path):
        try:
            yield
        except BlockingIOError:
            raise ModelError(f"{path}: another run is training {self.prefix}") from None
        except OSError as error:
            raise ModelError(
                f"{path}: {os.strerror(error.errno)}: no checkpoint could be written there"
            ) from None


_UNFINISHED = ".part"


@contextlib.contextmanager
def _errors_in_one_line():
    try:
        yield
    except OSError as error:
        raise ModelError(f"{error.filename}: {os.strerror(error.errno)}") from None


def write_whole(path: Path, dump) -> tuple:
    """Write a file beside `path`, sync it and give it its name.

    `dump` is called with a function that writes bytes. Return (SHA-256 in hexadecimal, bytes
    written). The checksum is that of the bytes handed over, not of what the disk made of them.
    """
    written = _write_part(path, dump)
    _name_part(path)
    return written


def _part(path) -> Path:
    return path.with_name(path.name + _UNFINISHED)


def _write_part(path, dump) -> tuple:
    digest = hashlib.sha256()
    size = 0
    with open(_part(path), "wb") as file:

        def write(data):
            nonlocal size
            digest.update(data)
            size += file.write(data)

        dump(write)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest(), size


def _name_part(path):
    os.replace(_part(path), path)
    _sync_folder(path.parent)


def _sync_folder(folder):
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some file systems can't sync a folder; they order renames by themselves.
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(descriptor)


def _digest(described) -> str:
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def _read(path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: {os.strerror(error.errno)}") from None
