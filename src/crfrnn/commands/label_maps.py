# SPDX-License-Identifier: MIT
"""Writing label maps of pictures, with a panel and optional marginals: for `refine` and `interact`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from crfrnn.commands import common
from crfrnn.commands.pictures import conclude, counted

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from crfrnn.inference import Prediction
    from crfrnn.io.outputs import Item

PANEL, PROBABILITIES = "_panel.png", "_probabilities.npz"
Output = Annotated[Path, typer.Option("--output", "-o", help="A folder, or FILE.png for one picture.")]
SaveProbabilities = Annotated[
    bool, typer.Option("--save-probabilities", help="Also NAME_probabilities.npz, float32 [L, H, W].")
]
Panel = Annotated[bool, typer.Option("--panel/--no-panel", help="Also NAME_panel.png.")]


@dataclass
class LabelMaps(ABC):
    """The processing of each picture; created once, so that usage errors appear before any work."""

    save_probabilities: bool
    panel: bool

    @abstractmethod
    def found(self, sources: tuple[Path, ...]) -> tuple[NDArray[np.uint8], Prediction, tuple[str, ...]]:
        """The picture, its labels, and their names, if any."""

    def item(self, sources: tuple[Path, ...], target: Path) -> Item:
        """The outputs for a picture; the label map, ``TARGET.png``, is written last, so that its existence
        marks completion."""
        from crfrnn.io.outputs import Item

        beside = [PROBABILITIES] * self.save_probabilities + [PANEL] * self.panel
        return Item(
            sources, tuple(target.with_name(f"{target.name}{ending}") for ending in (*beside, ".png"))
        )

    def some(self, items: Sequence[Item]) -> list[float]:
        """Read, process and write pictures; returns the share of changed pixels of each."""
        return [self._one(item.sources, item.files) for item in items]

    def _one(self, sources: tuple[Path, ...], files: tuple[Path, ...]) -> float:
        from crfrnn.io import write_label_png
        from crfrnn.io.images import write_png
        from crfrnn.plots import panel

        image, result, names = self.found(sources)
        if result.labels.max() > 255:
            raise ValueError(f"labels: expected at most 256 for a PNG, got {result.labels.max() + 1}")
        if self.save_probabilities:
            common.write_probabilities(files[0], result.probabilities)
        if self.panel:
            write_png(panel(image, result.before, result.labels, names=names), files[-2])
        write_label_png(files[-1], result.labels)
        return result.changed


def write_label_maps(
    command: str,
    done: str,
    pictures: Mapping[Path, Path],
    sources: Mapping[Path, tuple[Path, ...]],
    output: Path,
    step: LabelMaps,
    settings: Mapping[str, Any],
    *,
    single: bool,
    inputs: Sequence[Path] = (),
    resume: bool = False,
    overwrite: bool = False,
) -> None:
    """Process all pictures and print a summary; a failed picture does not stop the others.

    Args:
        command, done: the command's name, and the participle for the summary.
        pictures, sources: the name of the results and the inputs of each picture.
        output: a folder, or FILE.png for a single picture.
        settings, inputs, resume, overwrite: as for `crfrnn.io.outputs.claim`.
    """
    from crfrnn.inference.many import many
    from crfrnn.io.outputs import claim

    named = single and output.suffix.lower() == ".png"
    items = {
        step.item(sources[path], output.with_name(output.stem) if named else output / name): name
        for path, name in pictures.items()
    }
    if named:  # keep the given ending
        items = {replace(item, files=(*item.files[:-1], output)): name for item, name in items.items()}

    def shown(item: Item) -> str:
        return (items[item].parent / item.sources[0].name).as_posix()

    changed: list[float] = []
    with (
        claim(
            output.parent if named else output, command, settings, list(items), inputs=inputs,
            whole=not named, resume=resume, overwrite=overwrite,
        ) as outputs,
        counted(command, len(items)) as (tally, progress),
    ):  # fmt: skip
        many(
            list(items), step.some, tally, name=shown, finished=outputs.finished, progress=progress,
            found=lambda item, share: changed.append(share), strict=common.state.debug,
        )  # fmt: skip
    if tally.done or tally.skipped:
        much = f", {100 * sum(changed) / tally.done:.1f} % of the pixels changed" if tally.done else ""
        there = f"; {tally.skipped} already existed" if tally.skipped else ""
        common.out.print(f"{tally.done} of {tally.total} {done}{much}{there}.")
        common.out.print(f"Label maps: {output}", markup=False)
    conclude(tally, "resume by the same command with --skip-existing")
