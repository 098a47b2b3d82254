# SPDX-License-Identifier: MIT
"""A whole training set: pictures and maps from files, label maps to files, by several processes."""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from crfrnn.inference.pseudo.labels import refine_labels
from crfrnn.inference.pseudo.recipes import Recipe, recipe_named
from crfrnn.inference.pseudo.workers import Chunk, Results, work_through
from crfrnn.io import read_image, read_unary, write_label_png
from crfrnn.io.cams import Cams, read_cams
from crfrnn.io.files import PathLike
from crfrnn.io.outputs import Item, claim
from crfrnn.io.scale import Scale, check_scale
from crfrnn.io.scores import check_kind
from crfrnn.io.unaries import check_reading
from crfrnn.lattice.validate import InputWarning, warn

KINDS = ("cams", "logits", "probabilities", "labels")
Progress = Callable[[int, int], None]  # (pictures done, pictures in all)


@dataclass(frozen=True)
class Job:
    """One picture: its name (of the output too, folders in front allowed), its file, the file of its maps."""

    name: str
    image: Path
    source: Path


@dataclass(frozen=True)
class Report:
    """What a run did: pictures written, found finished, and failed with the reason."""

    written: int = 0
    skipped: int = 0
    failed: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Settings:
    """What every process must know; it is pickled."""

    output: Path
    recipe: Recipe
    kind: str
    axes: str | None
    num_labels: int | None
    unknown: int | None
    key: str | None
    scale: Scale | None
    quality: str
    device: str

    def record(self) -> dict[str, Any]:
        """What the results depend on."""
        names = ("kind", "axes", "num_labels", "unknown", "key", "scale", "quality")
        return {"recipe": asdict(self.recipe), **{name: getattr(self, name) for name in names}}

    def target(self, job: Job) -> Path:
        return self.output / f"{job.name}.png"

    def read(self, job: Job) -> tuple[Any, Cams | Tensor]:
        image = read_image(job.image, scale=self.scale)
        size = (image.shape[0], image.shape[1])
        if self.kind == "cams":
            return image, read_cams(job.source, size=size, key=self.key)
        return image, read_unary(
            job.source, kind=self.kind, axes=self.axes, size=size, num_labels=self.num_labels,
            picture=job.image, gt_prob=self.recipe.gt_prob, unknown=self.unknown, key=self.key,
        ).logits  # fmt: skip


def write_pseudo_labels(
    jobs: Iterable[Job],
    output: PathLike,
    recipe: str | Recipe = "irn",
    *,
    kind: str = "cams",
    axes: str | None = None,
    num_labels: int | None = None,
    unknown: int | None = None,
    key: str | None = None,
    scale: Scale | None = None,
    quality: str = "default",
    processes: int | None = None,
    batch: int = 1,
    device: str = "cpu",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Write ``output/NAME.png`` for every job: indexed PNG with the VOC palette, 255 where nothing is sure.

    What is finished is skipped, so a run that was stopped goes on where it was; every file is written whole
    or not at all. A picture that fails, or that kills the process that works on it, is in the report and the
    others are done. To go on with other settings, pictures or maps than `output` was begun with is refused,
    and files that this function did not write are left alone (see `crfrnn.io.outputs.claim`).

    Args:
        jobs: pictures with the files of their maps; names must differ.
        output: a folder; it is made.
        recipe: a name in `RECIPES`, or a `Recipe`.
        kind: what the sources are: "cams" (see `read_cams`), "logits" or "probabilities" of all labels, or
            "labels", a label map (see `crfrnn.io.read_unary`).
        axes, num_labels, unknown, key: as `read_unary` takes them; for "cams" only `key`.
        scale: (LOW, HIGH), the pictures' numbers that become 0 and 255, as `read_image` takes it.
        quality: of the lattice.
        processes: how many, each with one thread; None takes one for each processor, but no more than
            pictures; 1 works in this process with all its threads. More than one needs a script that starts
            under ``if __name__ == "__main__":``.
        batch: pictures that are read and refined together; more than 1 pays on a GPU.
        device: "cpu" or "cuda" (then processes is 1).
        overwrite: make finished pictures anew, with any settings, and write over files of others.
        progress: called with (done, in all) after each picture.

    Returns:
        The `Report`; nothing is raised for single pictures.

    Raises:
        ValueError: settings that cannot work, names twice, an output folder made with other settings or
            inputs, files there that are not results, inputs that would be written over.
    """
    listed = list(jobs)
    settings = _Settings(
        Path(output), recipe_named(recipe), kind, axes, num_labels, unknown, key, check_scale(scale), quality,
        str(device),
    )  # fmt: skip
    _check(settings, listed, batch)
    processes = _processes(processes, settings.device, len(listed))
    items = {job: Item((job.image, job.source), (settings.target(job),)) for job in listed}
    written, failed = 0, {}
    with claim(
        settings.output, "pseudo-labels", settings.record(), list(items.values()), resume=True,
        overwrite=overwrite, role="output",
    ) as outputs:  # fmt: skip
        todo = [job for job in listed if not outputs.finished(items[job])]
        chunks = [todo[i : i + batch] for i in range(0, len(todo), batch)]
        work = functools.partial(_work, settings)
        done = len(listed) - len(todo)
        for job, error in _results(work, chunks, min(processes, max(len(chunks), 1))):
            if isinstance(job, _Told):
                warn(job.text)
                continue
            done += 1
            if error is None:
                written += 1
            else:
                failed[job.name] = error
            if progress is not None:
                progress(done, len(listed))
    return Report(written, len(listed) - len(todo), failed)


def _results(
    work: Callable[[Chunk], Results], chunks: Sequence[Chunk], processes: int
) -> Iterator[tuple[Job | _Told, str | None]]:
    if processes > 1:
        yield from work_through(work, chunks, processes)
    else:
        for chunk in chunks:
            yield from work(chunk)


@dataclass(frozen=True)
class _Told:
    """A warning among the results: the process that works prints nothing, the one that asked does."""

    text: str


def _work(settings: _Settings, jobs: Chunk) -> Results:
    """Read, refine and write some pictures; what fails stops nothing, and warnings are handed back."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always", InputWarning)
        results = _done(settings, jobs)
    told = dict.fromkeys(str(one.message) for one in seen)
    return [*((_Told(text), None) for text in told), *results]


def _done(settings: _Settings, jobs: Chunk) -> Results:
    results: Results = []
    read: list[tuple[Job, Any, Cams | Tensor]] = []
    for job in jobs:
        try:
            read.append((job, *settings.read(job)))
        except Exception as error:  # whatever a decoder raises belongs to this picture
            results.append((job, _reason(error)))
    try:
        results += _refine(settings, read)
    except Exception:  # together they fail: one of them is to blame, or there is no room for all at once
        for one in read:
            try:
                results += _refine(settings, [one])
            except Exception as error:
                results.append((one[0], _reason(error)))
    return results


def _refine(settings: _Settings, read: Sequence[tuple[Job, Any, Cams | Tensor]]) -> Results:
    if not read:
        return []
    jobs, images, maps = zip(*read, strict=True)
    found = refine_labels(images, maps, settings.recipe, quality=settings.quality, device=settings.device)
    for job, labels in zip(jobs, found, strict=True):
        write_label_png(settings.target(job), labels)
    return [(job, None) for job in jobs]


def _reason(error: Exception) -> str:
    return str(error).strip() or type(error).__name__


def _check(settings: _Settings, jobs: Sequence[Job], batch: int) -> None:
    check_kind(settings.kind, KINDS)
    if settings.kind != "cams":
        check_reading(settings.kind, settings.axes, settings.num_labels)
    if batch < 1:
        raise ValueError(f"batch: expected at least 1, got {batch}")
    settings.recipe.crf(2, settings.quality)  # a wrong quality shows before any picture does
    seen: set[str] = set()
    for job in jobs:
        parts = Path(job.name).parts
        if job.name in seen or not parts or ".." in parts or Path(job.name).is_absolute():
            raise ValueError(
                f"jobs: expected different names below the output folder, got {job.name!r}; it names the file"
            )
        seen.add(job.name)


def _processes(asked: int | None, device: str, jobs: int) -> int:
    if asked is not None and asked < 1:
        raise ValueError(f"processes: expected at least 1, got {asked}")
    if torch.device(device).type != "cpu":
        if asked not in (None, 1):
            raise ValueError(f"processes: expected 1 on {device}, got {asked}; raise batch instead")
        return 1
    if asked is not None:
        return asked
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(processors, jobs))
