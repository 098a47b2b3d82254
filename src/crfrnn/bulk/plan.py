# SPDX-License-Identifier: MIT
"""The plan of a run: pictures, and their outputs, one per picture or packed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from crfrnn.bulk import places
from crfrnn.bulk.places import Found, Ref
from crfrnn.bulk.shards import Sample, samples
from crfrnn.io import FileError
from crfrnn.io.manifest import identity
from crfrnn.io.outputs import Item, result_names

if TYPE_CHECKING:
    from crfrnn.bulk.work import Step

FILES, SHARDS, PARQUET = TO = ("files", "shards", "parquet")
_ENDS = {SHARDS: ".tar", PARQUET: ".parquet"}


class Picture(NamedTuple):
    """A key, which names the results, and the locations of the picture and, if there is one, its unary."""

    key: str
    refs: tuple[Ref, ...]


@dataclass(frozen=True)
class Unit:
    """The unit of work and of counting.

    Attributes:
        item: sources and results, for `crfrnn.io.outputs.claim`.
        name: name in messages.
        pictures: its pictures; empty if a whole shard is read.
        shard: that shard.
        packed: whether the results of several pictures are packed into one file.
    """

    item: Item
    name: str
    pictures: tuple[Picture, ...] = ()
    shard: str | None = None
    packed: bool = False

    @property
    def group(self) -> str:
        """The prefix of its pictures' keys in messages."""
        return self.name.rpartition(".")[0]


@dataclass
class Plan:
    """All units, and the rejected shards with the reason.

    Attributes: states: by source, the value that `claim` compares instead of the content.
    """

    units: list[Unit] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    states: dict[Path, str] = field(default_factory=dict)

    def identify(self, source: Path) -> str:
        """As `crfrnn.io.manifest.identity`, cached by source."""
        if source not in self.states:
            self.states[source] = identity(source)
        return self.states[source]


def sample_picture(shard: str, sample: Sample, partner: str | None, endings: Iterable[str]) -> Picture:
    """The picture of a sample, with its unary.

    Args: partner: the unary's name in the sample; endings: endings of pictures.

    Raises: FileError if the sample has no picture, several pictures, or no such unary.
    """
    known = tuple(endings)
    rest = {name: member for name, member in sample.members.items() if name != partner}
    pictures = [name for name in rest if f".{name}".endswith(known)]
    jpegs = [name for name in pictures if name.endswith(("jpg", "jpeg"))]
    if len(pictures) != 1 and len(jpegs) == 1:
        pictures = jpegs
    if len(pictures) != 1:
        raise FileError(
            "shard", shard, f"one picture in sample {sample.key!r}, or one JPEG",
            ", ".join(sample.members), "remove the others, or give them other endings",
        )  # fmt: skip
    wanted = [pictures[0], *([partner] if partner else [])]
    if wanted[-1] not in sample.members:
        raise FileError(
            "shard", shard, f"a member {partner!r} in sample {sample.key!r}", ", ".join(sample.members),
            "give the unary's ending in the shard",
        )  # fmt: skip
    stem = sample.key.rpartition("/")[2]
    return Picture(sample.key, tuple(Ref(shard, f"{stem}.{n}", *sample.members[n]) for n in wanted))


@dataclass
class Planner:
    """Builds a `Plan`.

    Attributes:
        step, output: the processing of a picture, and its output folder.
        to: the form of the results, one of `TO`.
        size: pictures per pack.
        endings: endings of pictures.
        partner: for a step with unaries: their folder, or for shards their name in a sample.
        partner_endings: endings of unaries, by preference.
        pair: maps words of a command line to local pictures with unaries: name of the results, sources.
    """

    step: Step
    output: Path
    to: str
    size: int
    endings: frozenset[str]
    pair: Callable[[Sequence[str]], Mapping[Path, tuple[Path, ...]]]
    partner: str | None = None
    partner_endings: tuple[str, ...] = ()

    def plan(self, found: Found) -> Plan:
        """Plan the work; FileError if the unaries cannot be found."""
        self._plan = Plan(states={Path(url): state for url, state in found.states.items()})
        pictures: list[tuple[Picture, tuple[Path, ...]]] = []
        if found.local:
            for name, sources in self.pair(found.local).items():
                refs = tuple(Ref(str(source), source.name) for source in sources)
                pictures.append((Picture(name.as_posix(), refs), sources))
        for picture in self._remote(found):
            pictures.append((picture, tuple(Path(ref.place) for ref in picture.refs)))
        if self.to == FILES:
            for picture, sources in pictures:
                self._one(picture, sources)
            for shard in found.shards:
                self._unpack(shard)
        else:
            self._groups(pictures)
            for shard in found.shards:
                self._whole(shard)
        return self._plan

    def _one(self, picture: Picture, sources: tuple[Path, ...]) -> None:
        item = self.step.item(sources, self.output / picture.key)
        ending = PurePosixPath(picture.refs[0].name).suffix
        self._plan.units.append(Unit(item, f"{picture.key}{ending}", (picture,)))

    def _remote(self, found: Found) -> list[Picture]:
        names = result_names([Path(ref.place) for ref in found.remote])
        unaries: dict[str, tuple[str, str]] = {}
        if found.remote and self.partner:
            unaries = places.listing(self.partner, self.partner_endings)
        out = []
        for name, ref in zip(names, found.remote, strict=True):
            refs = [ref]
            if self.partner:
                stems = (name.as_posix(), name.name)
                tried = [f"{stem}{ending}" for stem in stems for ending in self.partner_endings]
                place, state = next((unaries[t] for t in tried if t in unaries), ("", ""))
                if not place:  # only this picture fails, when it is processed
                    place = f"{self.partner.rstrip('/')}/{tried[0]}"
                self._plan.states[Path(place)] = state
                refs.append(Ref(place, PurePosixPath(place).name))
            out.append(Picture(name.as_posix(), tuple(refs)))
        return out

    def _unpack(self, shard: str) -> None:
        stem = PurePosixPath(shard).stem
        try:
            listed = samples(shard)
        except FileError as error:
            self._plan.refused[PurePosixPath(shard).name] = str(error)
            return
        for sample in listed:
            try:
                picture = sample_picture(shard, sample, self.partner, self.endings)
            except FileError as error:
                self._plan.refused[f"{stem}/{sample.key}"] = str(error)
                continue
            self._one(picture._replace(key=f"{stem}/{sample.key}"), (Path(shard),))

    def _whole(self, shard: str) -> None:
        name = f"{PurePosixPath(shard).stem}{_ENDS[self.to]}"
        item = Item((Path(shard),), (self.output / name,))
        self._plan.units.append(Unit(item, name, shard=shard, packed=True))

    def _groups(self, pictures: list[tuple[Picture, tuple[Path, ...]]]) -> None:
        """Packs of pictures; a key must not contain a dot, since the members' names follow a dot."""
        keys = [picture.key.replace(".", "_") for picture, _ in pictures]
        if len(set(keys)) != len(keys):
            twice = next(key for number, key in enumerate(keys) if key in keys[:number])
            raise ValueError(
                f"IMAGE: expected names that stay unique with dots replaced by _, as for keys of shards, got "
                f"{twice!r} twice; rename one of them"
            )
        for start in range(0, len(pictures), self.size):
            part = range(start, min(start + self.size, len(pictures)))
            name = f"part-{start // self.size:06d}{_ENDS[self.to]}"
            sources = tuple(source for k in part for source in pictures[k][1])
            inside = tuple(pictures[k][0]._replace(key=keys[k]) for k in part)
            self._plan.units.append(Unit(Item(sources, (self.output / name,)), name, inside, packed=True))
