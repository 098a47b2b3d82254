# SPDX-License-Identifier: MIT
"""What an actor does to a unit: bring the pictures here, let the step make its files, keep or pack them."""

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
    """What a command makes of one picture; it can be pickled."""

    def item(self, sources: tuple[Path, ...], target: Path) -> Item:
        """The files that are made of a picture (and its unary): names that begin as `target`."""
        ...

    def some(self, items: Sequence[Item]) -> Sequence[Any]:
        """Make them."""
        ...


@dataclass
class Done:
    """Of one unit: how many pictures were done, and the reasons by the names of those that were not."""

    pictures: int = 0
    failed: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Work:
    """Picklable, for every actor.

    Attributes:
        step: what the command makes of a picture.
        to: the form of the results, one of `TO`.
        partner: of shards: the name in the sample of the unary; None: there is none.
        endings: of pictures.
    """

    step: Step
    to: str
    partner: str | None
    endings: frozenset[str]

    def some(self, units: Sequence[Unit]) -> list[Done]:
        """Work on units: pictures whose results become files, together; packs of pictures, one by one.

        Raises: OutputError where there is no room, for results or for copies.
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
                    "output", error.filename or tempfile.gettempdir(), "room for it", "a full disk",
                    "free some, or name another folder for copies in $TMPDIR",
                ) from error  # fmt: skip
            raise

    def _pack(self, unit: Unit) -> Done:
        """The results of several pictures in one file; a picture that fails is left out, and reported."""
        done = Done()
        new = new_table if self.to == PARQUET else new_shard
        with _scratch() as folder, new(unit.item.files[0]) as out:
            shard = self._copied(unit, folder)
            for number, picture in enumerate(self._pictures(unit, shard, done)):
                place = folder / str(number)
                try:
                    _attempt(f"{unit.name}/{picture.key}")
                    members = self._results(picture, place)
                except Exception as error:  # whatever a decoder raises belongs to this picture
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
        """What the step makes of a picture, by the names in a sample."""
        results = place / "out"
        results.mkdir(parents=True)
        target = results / picture.key.rpartition("/")[2]
        item = self.step.item(_brought(picture.refs, place), target)
        self.step.some([item])
        return {member_name(file, target): file.read_bytes() for file in item.files}

    def _copied(self, unit: Unit, folder: Path) -> str:
        """A shard as a file here: one request fetches it whole."""
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
    """The name in a sample of a result: ``overlay.png`` of ``cat_overlay.png``, made for ``cat``.

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
    """The files of a picture: where they are, or copies in folders of their own, under their names."""
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
    """A folder for copies; what a killed process left goes when the next one begins."""
    home = Path(tempfile.gettempdir()) / f"crfrnn-{os.getuid() if hasattr(os, 'getuid') else 'bulk'}"
    home.mkdir(mode=0o700, exist_ok=True)
    if hasattr(os, "getuid") and home.lstat().st_uid != os.getuid():
        raise OutputError(
            "copies", home, "a folder of one's own", "one of another user", "name another place in $TMPDIR"
        )
    sweep(home)
    folder = home / temporary_name()
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
