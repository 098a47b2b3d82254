# SPDX-License-Identifier: MIT
"""Data sets by name, as in a recipe, with all their problems reported before training."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crfrnn.datasets.coco import coco_pictures
from crfrnn.datasets.context import context_pictures
from crfrnn.datasets.folder import folder_pictures
from crfrnn.datasets.leaks import find_leaks
from crfrnn.datasets.pictures import PictureSet, Progress
from crfrnn.datasets.sbd import sbd_pictures
from crfrnn.datasets.splits import Sets, merge, paper_pictures
from crfrnn.datasets.voc import voc_pictures
from crfrnn.io.files import PathLike
from crfrnn.io.problems import by_kind
from crfrnn.lattice.validate import check_choice

Steps = Callable[[str, int, int], None]  # (step, pictures done, total)


def _paper(
    root: PathLike, split: str = "train", *, sbd_root: PathLike, augmented: bool = False
) -> PictureSet:
    if split not in Sets._fields:
        raise ValueError(f"split: expected train or val, got {split!r}")
    return getattr(paper_pictures(root, sbd_root, augmented=augmented), split)


READERS: dict[str, Callable[..., PictureSet]] = {
    "voc": voc_pictures,
    "sbd": sbd_pictures,
    "paper": _paper,
    "coco": coco_pictures,
    "context": context_pictures,
    "folder": folder_pictures,
}


@dataclass(frozen=True)
class Source:
    """One data set, not yet read.

    Attributes:
        kind: "voc", "sbd", "coco", "context", "folder", or "paper" (VOC 2012 at `root` and SBD at the
            option ``sbd_root``, in the paper's split).
        root: its folder.
        split: the part to read; None is the reader's default.
        options: further arguments of the reader (``year``, ``min_pixels``, …).

    >>> Source("voc", "VOCdevkit", "train", {"year": "2010"}).kind
    'voc'
    """

    kind: str
    root: str | Path
    split: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_choice("kind", self.kind, READERS)

    def read(self, progress: Progress | None = None) -> PictureSet:
        """Read the pictures; ValueError from the reader, or for an unknown option."""
        reader, root = READERS[self.kind], Path(self.root).expanduser()
        options = {**({} if self.split is None else {"split": self.split}), **self.options}
        signature = inspect.signature(reader)
        if progress is not None and "progress" in signature.parameters:  # COCO takes long
            options = {"progress": progress, **options}
        try:
            signature.bind(root, **options)
        except TypeError as error:
            raise ValueError(f"options: expected those of {self.kind!r}, got {error}") from error
        return reader(root, **options)


def prepare(
    train: Sequence[Source],
    val: Sequence[Source],
    *,
    decode: bool = True,
    leaks: str = "refuse",
    progress: Steps | None = None,
) -> Sets:
    """Read, merge and check the data of a training run; all problems are reported in one error.

    Args:
        train, val: one or more sources each; a picture in several is taken from the first.
        decode: also decode every file, instead of only checking that it exists (about 10 ms per picture).
        leaks: what to do with pictures in both: "refuse", "drop" (from train) or "ignore".
        progress: called with the name of the step, pictures done and their total.

    Raises:
        ValueError: all missing files of all sources; or, if none are missing, all damaged ones and all leaks.
    """
    if leaks not in ("refuse", "drop", "ignore"):
        raise ValueError(f"leaks: expected refuse, drop or ignore, got {leaks!r}")
    problems: list[str] = []
    sets: dict[str, list[PictureSet]] = {"train": [], "val": []}
    for part, sources in (("train", train), ("val", val)):
        if not sources:
            raise ValueError(f"{part}: expected at least one source, got none")
        for source in sources:
            try:
                sets[part].append(source.read(_step(progress, f"read {source.kind}")))
            except ValueError as error:
                problems.append(f"{part}, {source.kind} in {source.root}: {error}")
    _raise(problems)
    found = Sets(merge(*sets["train"]), merge(*sets["val"]))
    if found.train.class_names != found.val.class_names:
        raise ValueError(
            f"train, val: expected the same labels, got {len(found.train.class_names)} and "
            f"{len(found.val.class_names)} names that differ; read both with the same labels"
        )
    if decode:
        for part, pictures in zip(Sets._fields, found, strict=True):
            step = _step(progress, f"check {part}")
            problems += [f"{part}: {problem}" for problem in pictures.check(step)]
    else:
        for pictures in found:
            pictures.ask_about_white()
    if leaks != "ignore" and not problems:
        both = find_leaks(*found, pictures=decode, progress=_step(progress, "compare train and val"))
        if leaks == "refuse":
            problems += [str(leak) for leak in both]
        else:
            gone = {leak.train for leak in both}
            found = Sets(found.train.select(i for i in found.train.ids if i not in gone), found.val)
    _raise(problems)
    return found


def _step(progress: Steps | None, what: str) -> Progress | None:
    return None if progress is None else lambda done, total: progress(what, done, total)


def _raise(problems: list[str]) -> None:
    if problems:
        lines = "\n  ".join(by_kind(problems))
        raise ValueError(
            f"data: expected valid pictures, in train or in val, got {len(problems)} problems; "
            f"correct these before training:\n  {lines}"
        )
