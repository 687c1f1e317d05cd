"""The checkpoints of one prefix: written whole or not at all, verified before they are believed.

A generation (model.checkpoint.format) without its .json does not exist: that is written last, and
deleted first. The .states are written before the .params, and deleted after them: parameters alone
are a checkpoint of another program, and never what a kill has left of one of these.
"""

import contextlib
import errno
import hashlib
import logging
import os
import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import Dict, Iterable, Iterator, List, Optional, Set, Tuple

from log import locks
from log.files import PathLike, name_part, open_file, part_of, read_file, write_part, write_whole
from model import ModelError
from model.checkpoint import ndarray_file
from model.checkpoint.format import (
    Arrays,
    Description,
    Generation,
    Names,
    Place,
    RunState,
    listed,
    named_by_params,
)

_log = logging.getLogger(__name__)
# What symlink raises on FAT, exFAT and SMB.
_WITHOUT_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


class SavedGenerations:
    """The generations of one prefix, to be read."""

    def __init__(self, prefix: PathLike):
        self.names = Names(prefix)
        self.prefix, self.folder = self.names.prefix, self.names.folder
        self.lock_file = self.names.lock

    def params_file(self, place: Place) -> Path:
        return self.names.params(place)

    def places(self) -> List[Place]:
        """Return the places with any file of a generation, whole or not, in the order of the
        run."""
        return self.names.places()

    def check_there(self, place: Place) -> None:
        """Raise ModelError if there is no file of a generation at `place`."""
        places = self.places()
        if place in places:
            return
        if places:
            there = f"; there are: {listed(places)}"
        else:
            prefixes = ", ".join(self.names.prefixes())
            there = f"; prefixes in {self.folder}: {prefixes}" if prefixes else ""
        raise ModelError(f"{self.prefix} has no checkpoint of {place}{there}")

    def best(self) -> Tuple[str, Place]:
        """Return (prefix, place) of the parameters that PREFIX-best.params links to; with --ema,
        the prefix is that of the averaged ones. Raises ModelError if there is no such link."""
        link = self.names.best
        if not link.is_symlink():
            if link.exists():
                raise ModelError(
                    f"{link}: a copy, not a link: give the epoch, which the run's last log line "
                    "names"
                )
            raise ModelError(f"{link} is missing: give an epoch in place of best")
        target = os.readlink(link)
        named = named_by_params(target)
        if not named:
            raise ModelError(f"{link}: a link to {target}, not to a checkpoint")
        name, place = named
        return str(self.folder / name), place

    def load(self, place: Place) -> Generation:
        """Return the generation at `place`. Raises ModelError if any byte of it is wrong."""
        described = self._describe(place)
        content = {}
        for kind, path in self.names.described(place):
            content[kind] = read_file(path, ModelError)
            expected = {described.files.get(kind)}
            if kind == "symbol":
                # Another dropout since then makes another symbol, of the same parameters.
                expected |= self._known_symbols()
            if hashlib.sha256(content[kind]).hexdigest() not in expected:
                json_path = self.names.description(place)
                raise ModelError(f"{path}: damaged: differs from what {json_path} says")
        params, states = (
            self._parse(path, content[kind])
            for kind, path in self.names.described(place)
            if kind != "symbol"
        )
        symbol_json = content["symbol"].decode(errors="replace")
        return Generation(place, symbol_json, params, states, described.run, described.count)

    def _parse(self, path: Path, content: bytes) -> Arrays:
        try:
            return ndarray_file.parse(content)
        except ndarray_file.FormatError as error:
            raise ModelError(f"{path}: {error}") from None

    def newest(self) -> Tuple[Optional[Generation], List[str]]:
        """Return (the generation saved last of those that verify, None if there is none; the errors
        of others saved after it).

        Last in time, by the counter in the files: a run that went back to epoch 3 and has saved
        epoch 4 again resumes from there, whatever later epochs an earlier run has left.
        """
        counted: List[Tuple[float, Place]] = []
        for place in self.places():
            try:
                counted.append((self._describe(place).count, place))
            except ModelError:
                counted.append((float("inf"), place))
        passed_over: List[str] = []
        for _, place in sorted(counted, reverse=True):
            try:
                return self.load(place), passed_over
            except ModelError as error:
                passed_over.append(str(error))
        return None, passed_over

    def in_order(self) -> List[Place]:
        """Return the places of the generations, in the order in which they were saved."""
        counted = [(self._count(place), place) for place in self.places()]
        return [place for count, place in sorted(counted) if count]

    def run(self, place: Place) -> Optional[RunState]:
        """Return what the run wrote about itself in a generation; None if that can't be read."""
        with contextlib.suppress(ModelError):
            return self._describe(place).run
        return None

    def validation(self, place: Place) -> Optional[Dict[str, float]]:
        """Return the validation figures of a generation, by name; None if there are none."""
        return (self.run(place) or {}).get("validation")

    def is_unfinished(self, place: Place) -> bool:
        """Return whether a kill within `save` left this of a generation that never was.

        Its states are there, and no .json. Other programs' parameters have the same names, but
        states in a format of their own: MXNet's are a pickle.
        """
        if self.names.description(place).exists():
            return False
        try:
            with open_file(self.names.states(place), ModelError) as file:
                return ndarray_file.has_magic(file.read(8))
        except (OSError, ModelError):
            return False

    def _describe(self, place: Place) -> Description:
        path, params = self.names.description(place), self.names.params(place)
        if self.is_unfinished(place):
            raise ModelError(f"{self.names.states(place)} has no {path.name}: never finished")
        if not path.exists() and params.exists():
            raise ModelError(f"{params} has no {path.name}: not written by this script")
        return Description.parse(read_file(path, ModelError), path)

    def _count(self, place: Place) -> int:
        try:
            return self._describe(place).count
        except ModelError:
            return 0

    def _known_symbols(self) -> Set[Optional[str]]:
        known = set()
        for place in self.places():
            with contextlib.suppress(ModelError):
                known.add(self._describe(place).files.get("symbol"))
        return known


class Checkpoints(SavedGenerations):
    """The generations of one prefix, to be read and written."""

    _copies_best = False

    def save(
        self, place: Place, symbol_json: str, params: Arrays, states: Arrays, run: RunState
    ) -> int:
        """Write a generation in addition to those that exist; return its size in bytes.

        params, states : name -> numpy array. run : anything that JSON holds.
        Raises ModelError if it can't be written; earlier generations stay as they are.
        """
        json_path, symbol_path = self.names.description(place), self.names.symbol
        size = 0
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            count = 1 + max((self._count(other) for other in self.places()), default=0)
            # Replacing a generation: without its .json it is gone, so that it is never mixed.
            json_path.unlink(missing_ok=True)
            symbol = symbol_json.encode()
            files = {"symbol": hashlib.sha256(symbol).hexdigest()}
            first = not symbol_path.exists()
            # Another symbol than before gets its name last: until then, the one that is there does
            # for the earlier generations, which know it. `lock` does it if a kill came between.
            another = first or read_file(symbol_path, ModelError) != symbol
            if another:
                size += write_part(symbol_path, symbol)[1]
            if first:
                name_part(symbol_path)
            for kind, path, arrays in (
                ("states", self.names.states(place), states),
                ("params", self.names.params(place), params),
            ):
                files[kind], written = write_whole(path, partial(ndarray_file.dump, arrays))
                size += written
            size += write_whole(json_path, Description(count, files, run).to_json())[1]
            if another and not first:
                name_part(symbol_path)
        except OSError as error:
            for path in self.names.unfinished():
                path.unlink(missing_ok=True)
            raise ModelError(
                f"{error.filename or json_path}: {error.strerror}: no checkpoint of {place} could "
                "be written"
            ) from None
        return size

    def annotate(self, place: Place, **additions: object) -> None:
        """Replace entries of what the run wrote about itself in the generation at `place`."""
        described = self._describe(place)
        described.run.update(additions)
        with _errors_in_one_line():
            write_whole(self.names.description(place), described.to_json())

    def remove(self, places: Iterable[Place]) -> None:
        """Delete generations, the .json first: what is left of one never counts as whole."""
        with _errors_in_one_line():
            for place in places:
                for path in (
                    self.names.description(place),
                    self.names.params(place),
                    self.names.states(place),
                ):
                    path.unlink(missing_ok=True)

    def set_best(self, place: Optional[Place]) -> None:
        """Have PREFIX-best.params be a symbolic link to the parameters of `place`, or a copy of
        them if the file system has no such links; remove it if that is None."""
        link = self.names.best
        with _errors_in_one_line():
            if place is None:
                link.unlink(missing_ok=True)
                return
            best = self.best_params_file(place)
            new = part_of(link)
            new.unlink(missing_ok=True)
            try:
                new.symlink_to(best.name)
            except OSError as error:
                if error.errno not in _WITHOUT_LINKS:
                    raise
                if not self._copies_best:
                    _log.warning("%s: no symbolic links here: it is a copy of %s", link, best)
                    self._copies_best = True
                write_part(link, lambda write: write(read_file(best, ModelError)))
            name_part(link)

    def best_params_file(self, place: Place) -> Path:
        """Return the file with the parameters that were validated at `place`."""
        return self.params_file(place)

    # Room on the disk, and other runs

    def free_bytes(self) -> int:
        """Return the bytes that are free on the checkpoints' file system; a quota may allow
        less."""
        return shutil.disk_usage(self._existing_folder()).free

    def check_free(self, size: int) -> None:
        """Raise ModelError if a checkpoint of `size` bytes won't fit."""
        free = self.free_bytes()
        if free < size:
            raise ModelError(
                f"{self.folder}: {free >> 20} MB free, a checkpoint needs {size >> 20} MB"
            )

    def _existing_folder(self) -> Path:
        """Return the folder, or what there is already of the path to it."""
        folder = self.folder
        while not folder.exists():
            folder = folder.parent
        return folder

    def check_lock(self) -> None:
        """Raise ModelError if `lock` would; write nothing."""
        with self._errors_of_lock():
            tempfile.TemporaryFile(dir=self._existing_folder()).close()  # has no name
            locks.check(self.lock_file)

    def lock(self) -> Optional[str]:
        """Keep other runs off this prefix until the process ends, however it ends; delete what a
        killed run left half written, or finish it. Return a warning, None if there is none.

        Raises ModelError if another run has the lock, or if the folder can't be written to.
        """
        with self._errors_of_lock():
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = locks.Lock(self.lock_file)
            self._name_symbol_of_newest()
            for unfinished in self.names.unfinished():
                unfinished.unlink(missing_ok=True)
        return self._lock.warning

    def _name_symbol_of_newest(self) -> None:
        """Do the last step of `save`, if a kill came before it."""
        part, in_order = part_of(self.names.symbol), self.in_order()
        if in_order and part.exists():
            expected = self._describe(in_order[-1]).files.get("symbol")
            if hashlib.sha256(read_file(part, ModelError)).hexdigest() == expected:
                name_part(self.names.symbol)

    @contextlib.contextmanager
    def _errors_of_lock(self) -> Iterator[None]:
        path = self.lock_file
        try:
            yield
        except BlockingIOError:
            raise ModelError(f"{path}: another run is training {self.prefix}") from None
        except OSError as error:
            raise ModelError(
                f"{path}: {error.strerror}: no checkpoint could be written there"
            ) from None


@contextlib.contextmanager
def _errors_in_one_line() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ModelError(f"{error.filename}: {error.strerror}") from None
