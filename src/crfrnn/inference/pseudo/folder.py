# SPDX-License-Identifier: MIT
"""Pseudo-labels of a whole training set, from files to files, in several processes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from crfrnn.inference.many import Progress, Tally, many, processes_for
from crfrnn.inference.pseudo.cam_crf import CamCRF, cam_crf
from crfrnn.inference.pseudo.labels import refine_labels
from crfrnn.io import read_image, read_unary, write_label_png
from crfrnn.io.cams import Cams, read_cams
from crfrnn.io.files import PathLike
from crfrnn.io.outputs import Item, claim
from crfrnn.io.scale import Scale, check_scale
from crfrnn.io.scores import check_kind
from crfrnn.io.unaries import check_reading

KINDS = ("cams", "logits", "probabilities", "labels")


@dataclass(frozen=True)
class Job:
    """One picture: its name (also of the output, may contain folders), its file, and the file of its maps."""

    name: str
    image: Path
    source: Path


@dataclass(frozen=True)
class LabelStep:
    """The processing of each picture, with the arguments of `write_pseudo_labels`; can be pickled."""

    recipe: CamCRF
    kind: str = "cams"
    axes: str | None = None
    num_labels: int | None = None
    unknown: int | None = None
    key: str | None = None
    scale: Scale | None = None
    quality: str = "default"
    device: str = "cpu"

    def __post_init__(self) -> None:
        check_kind(self.kind, KINDS)
        if self.kind == "cams":
            self.recipe.check_levels()
        else:
            check_reading(self.kind, self.axes, self.num_labels)
        check_scale(self.scale)
        self.recipe.crf(2, self.quality)  # reports an invalid quality before any work

    def record(self) -> dict[str, Any]:
        """The settings that results depend on."""
        names = ("kind", "axes", "num_labels", "unknown", "key", "scale", "quality")
        return {"recipe": asdict(self.recipe), **{name: getattr(self, name) for name in names}}

    def item(self, sources: tuple[Path, ...], target: Path) -> Item:
        """The output for a picture and its maps: ``TARGET.png``."""
        return Item(sources, (target.with_name(f"{target.name}.png"),))

    def some(self, items: Sequence[Item]) -> list[None]:
        """Read, refine and write pictures."""
        images, maps = zip(*(self._read(*item.sources) for item in items), strict=True)
        found = refine_labels(images, maps, self.recipe, quality=self.quality, device=self.device)
        return [write_label_png(item.files[0], labels) for item, labels in zip(items, found, strict=True)]

    def _read(self, picture: Path, source: Path) -> tuple[Any, Cams | Tensor]:
        image = read_image(picture, scale=self.scale)
        size = (image.shape[0], image.shape[1])
        if self.kind == "cams":
            return image, read_cams(source, size=size, key=self.key)
        return image, read_unary(
            source, kind=self.kind, axes=self.axes, size=size, num_labels=self.num_labels,
            picture=picture, gt_prob=self.recipe.gt_prob, unknown=self.unknown, key=self.key, keep_half=True,
        ).logits  # fmt: skip


def write_pseudo_labels(
    jobs: Iterable[Job],
    output: PathLike,
    recipe: str | CamCRF = "irn",
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
    tally: Tally | None = None,
    progress: Progress | None = None,
) -> Tally:
    """Write ``output/NAME.png`` for every job: indexed PNG with the VOC palette, 255 where uncertain.

    Finished pictures are skipped, so a stopped run can be resumed; every file is written atomically. A
    picture that fails, or that kills its process, is recorded in the tally and the others are done. Resuming
    with other settings, pictures or maps than before is an error, and files that this function did not write
    are not touched (see `crfrnn.io.outputs.claim`).

    Args:
        jobs: pictures with the files of their maps; names must be unique.
        output: a folder; created if missing.
        recipe: a name in `CAM_CRFS`, or a `CamCRF`.
        kind: the kind of the sources: "cams" (see `read_cams`), "logits" or "probabilities" of all labels, or
            "labels", a label map (see `crfrnn.io.read_unary`).
        axes, num_labels, unknown, key: as for `read_unary`; for "cams" only `key`.
        scale: (LOW, HIGH), the pictures' numbers that become 0 and 255, as for `read_image`.
        quality: quality of the lattice.
        processes: number of processes of one thread each; None: one per processor, but at most one per
            picture; 1 works in this process with all its threads. More than one needs a script that starts
            under ``if __name__ == "__main__":``.
        batch: pictures to read and refine together; more than 1 is useful on a GPU.
        device: "cpu" or "cuda" (then processes is 1).
        overwrite: redo finished pictures, with any settings, and replace files of other origin.
        tally: updated during the run; None: a new one.
        progress: called with (done, total) after each picture.

    Returns:
        The tally: pictures written, skipped as finished, and failed with the reason. Failures of single
            pictures raise no exception.

    Raises:
        ValueError: invalid settings, duplicate names, an output folder made with other settings or inputs,
            existing files that are not results, inputs that would be overwritten.
    """
    listed, folder = list(jobs), Path(output)
    step = LabelStep(
        cam_crf(recipe), kind, axes, num_labels, unknown, key, check_scale(scale), quality, str(device)
    )
    if batch < 1:
        raise ValueError(f"batch: expected at least 1, got {batch}")
    _check_names(listed)
    processes = processes_for(processes, step.device, len(listed))
    items = {step.item((job.image, job.source), folder / job.name): job.name for job in listed}
    with claim(
        folder, "pseudo-labels", step.record(), list(items), resume=True, overwrite=overwrite, role="output"
    ) as outputs:
        return many(
            list(items), step.some, tally, name=items.__getitem__, finished=outputs.finished, batch=batch,
            processes=processes, progress=progress,
        )  # fmt: skip


def _check_names(jobs: Sequence[Job]) -> None:
    seen: set[str] = set()
    for job in jobs:
        parts = Path(job.name).parts
        if job.name in seen or not parts or ".." in parts or Path(job.name).is_absolute():
            raise ValueError(
                f"jobs: expected different names below the output folder, got {job.name!r}; it names the file"
            )
        seen.add(job.name)
