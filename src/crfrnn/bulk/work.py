# SPDX-License-Identifier: MIT
"""An actor's work on a unit: fetch the pictures, run the step, keep or pack its files."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from crfrnn.bulk.attempts import MOST, begun
from crfrnn.bulk.places import Ref
from crfrnn.bulk.plan import PARQUET, Picture, Unit, sample_picture
from crfrnn.bulk.shards import new_shard, samples
from crfrnn.bulk.table import new_table
from crfrnn.inference.workers import DIED
from crfrnn.io import FileError
from crfrnn.io.files import OutputError
from crfrnn.io.outputs import Item
from crfrnn.io.temporary import sweep, temporary_name


class Step(Protocol):
    """A command's processing of one picture; can be pickled."""

    def item(self, sources: tuple[Path, ...], target: Path) -> Item:
        """The outputs for a picture (and its unary), with names that start with `target`."""
        ...

    def some(self, items: Sequence[Item]) -> Sequence[Any]:
        """Process the items."""
        ...


@dataclass
class Done:
    """The result of one unit: the number of finished pictures, and the reasons of failures by name."""

    pictures: int = 0
    failed: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Work:
    """The work, picklable for every actor.

    Attributes:
        step: the command's processing of a picture.
        to: the form of the results, one of `TO`.
        partner: for shards, the unary's name in the sample; None: no unaries.
        endings: endings of pictures.
    """

    step: Step
    to: str
    partner: str | None
    endings: frozenset[str]

    def some(self, units: Sequence[Unit]) -> list[Done]:
        """Process units: single pictures together, packs one by one.

        Raises: OutputError if the disk is full, for results or for copies.
        """
        try:
            if any(unit.packed for unit in units):
                return [self._pack(unit) for unit in units]
            with _scratch() as folder:
                items = []
                for number, unit in enumerate(units):
                    _attempt(unit.name)
                    sources = _brought(unit.pictures[0].refs, folder / str(number))
                    items.append(Item(sources, unit.item.files))
                self.step.some(items)
            return [Done(1) for _ in units]
        except OSError as error:
            if _no_room(error) and not isinstance(error, OutputError):
                raise OutputError(
                    "output", error.filename or tempfile.gettempdir(), "enough space", "a full disk",
                    "free some space, or name another folder for copies in $TMPDIR",
                ) from error  # fmt: skip
            raise

    def _pack(self, unit: Unit) -> Done:
        """Pack the results of several pictures into one file; failed pictures are omitted and reported."""
        done = Done()
        new = new_table if self.to == PARQUET else new_shard
        with _scratch() as folder, new(unit.item.files[0]) as out:
            shard = self._copied(unit, folder)
            for number, picture in enumerate(self._pictures(unit, shard, done)):
                place = folder / str(number)
                try:
                    _attempt(f"{unit.name}/{picture.key}")
                    members = self._results(picture, place)
                except Exception as error:  # any exception of a decoder is a failure of this picture
                    if _no_room(error):
                        raise
                    reason = str(error).strip() or type(error).__name__
                    done.failed[f"{unit.group}/{picture.key}"] = reason
                    continue
                finally:
                    shutil.rmtree(place, ignore_errors=True)
                out.add(picture.key, members)
                done.pictures += 1
        return done

    def _results(self, picture: Picture, place: Path) -> dict[str, bytes]:
        """The step's results for a picture, by their names in a sample."""
        results = place / "out"
        results.mkdir(parents=True)
        target = results / picture.key.rpartition("/")[2]
        item = self.step.item(_brought(picture.refs, place), target)
        self.step.some([item])
        return {member_name(file, target): file.read_bytes() for file in item.files}

    def _copied(self, unit: Unit, folder: Path) -> str:
        """A shard as a local file, fetched with one request."""
        if unit.shard is None or Ref(unit.shard, "").here:
            return unit.shard or ""
        copy = folder / "shard.tar"
        Ref(unit.shard, copy.name).copy(copy)
        return str(copy)

    def _pictures(self, unit: Unit, shard: str, done: Done) -> Iterator[Picture]:
        yield from unit.pictures
        for sample in samples(shard) if shard else ():
            try:
                yield sample_picture(shard, sample, self.partner, self.endings)
            except FileError as error:
                done.failed[f"{unit.group}/{sample.key}"] = str(error)


def member_name(file: Path, target: Path) -> str:
    """The name of a result in a sample: ``overlay.png`` for ``cat_overlay.png`` with the target ``cat``.

    >>> member_name(Path("out/cat_overlay.png"), Path("out/cat")), member_name(Path("cat.json"), Path("cat"))
    ('overlay.png', 'json')
    """
    return file.name[len(target.name) :].lstrip("._")


def _no_room(error: Exception) -> bool:
    return isinstance(error, OutputError) or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)


def _attempt(name: str) -> None:
    if begun(name) > MOST:
        raise RuntimeError(DIED)


def _brought(refs: Sequence[Ref], folder: Path) -> tuple[Path, ...]:
    """The files of a picture: the originals, or copies in separate folders with their names."""
    out = []
    for number, ref in enumerate(refs):
        if ref.here:
            out.append(Path(ref.place))
            continue
        place = folder / f"in{number}"
        place.mkdir(parents=True)
        ref.copy(place / ref.name)
        out.append(place / ref.name)
    return tuple(out)


@contextmanager
def _scratch() -> Iterator[Path]:
    """A folder for copies; remains of a killed process are removed by the next one."""
    home = Path(tempfile.gettempdir()) / f"crfrnn-{os.getuid() if hasattr(os, 'getuid') else 'bulk'}"
    home.mkdir(mode=0o700, exist_ok=True)
    if hasattr(os, "getuid") and home.lstat().st_uid != os.getuid():
        raise OutputError(
            "copies", home, "a folder of this user", "one of another user", "name another place in $TMPDIR"
        )
    sweep(home)
    folder = home / temporary_name()
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
