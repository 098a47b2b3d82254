# SPDX-License-Identifier: MIT
"""`crfrnn refine`: pictures and their unaries in, label maps out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from crfrnn.commands import common
from crfrnn.commands.pictures import Pictures, Recursive, conclude, counted, find_pictures

if TYPE_CHECKING:
    from crfrnn.crf import CRFRNN
    from crfrnn.io import SavedParameters
    from crfrnn.io.outputs import Item, Outputs

PANEL, PROBABILITIES = "_panel.png", "_probabilities.npz"


def refine(
    images: Pictures,
    unary: Annotated[Path, typer.Option("--unary", "-u", help="Its unary, or a folder of them by stem.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="A folder, or FILE.png for one picture.")],
    kind: common.Kind,
    layout: common.Layout = None,
    labels: common.Labels = None,
    void: common.Void = None,
    gt_prob: common.GtProb = 0.7,
    key: common.Key = None,
    scale: common.Scale = None,
    params: common.Params = None,
    preset: common.Preset = None,
    theta_alpha: common.ThetaAlpha = None,
    theta_beta: common.ThetaBeta = None,
    theta_gamma: common.ThetaGamma = None,
    spatial_weight: common.SpatialWeight = None,
    bilateral_weight: common.BilateralWeight = None,
    iterations: common.Iterations = None,
    quality: common.Quality = "default",
    save_probabilities: Annotated[
        bool, typer.Option("--save-probabilities", help="Also NAME_probabilities.npz, float32 [L, H, W].")
    ] = False,
    panel: Annotated[bool, typer.Option("--panel/--no-panel", help="Also NAME_panel.png.")] = True,
    recursive: Recursive = False,
    skip_existing: common.SkipExisting = False,
    overwrite: common.Overwrite = False,
) -> None:
    """Refine label scores along the edges of pictures; writes indexed PNG with the VOC palette.

    OUTPUT remembers what it was begun with: the same command writes its own files anew, or with
    --skip-existing goes on where it was stopped. Other files there are left alone.

    Exit code 0: all pictures done; 1: some failed (each is reported, the others are done); 2: usage; 130:
    stopped by Ctrl-C, 143: by SIGTERM (every file that is there is whole).

    Example: crfrnn refine photos/ --unary logits/ --kind logits --layout lhw -o refined/

    Example: crfrnn refine photos/*.jpg more/ --recursive -u logits/ --kind labels --labels 3 -o refined/

    Example: crfrnn refine cat.jpg --unary cat_scribbles.png --kind scribbles --labels 3 -o cat.png
    """
    from crfrnn.inference.many import many
    from crfrnn.io.scale import check_scale

    numbers = {
        "theta_alpha": theta_alpha, "theta_beta": theta_beta, "theta_gamma": theta_gamma,
        "spatial_weight": spatial_weight, "bilateral_weight": bilateral_weight, "quality": quality,
    }  # fmt: skip
    reading = {"kind": kind, "axes": layout, "gt_prob": gt_prob, "key": key, "unknown": void}
    work = _Work(
        find_pictures(images, recursive), unary, output, reading, labels, params, preset, iterations, numbers,
        save_probabilities, panel, check_scale(scale), len(images) == 1 and Path(images[0]).is_file(),
    )  # fmt: skip
    with (
        work.claim(skip_existing, overwrite) as outputs,
        counted("refine", len(work.items)) as (tally, progress),
    ):
        many(
            work.items, work.some, tally, name=work.shown, finished=outputs.finished, progress=progress,
            strict=common.state.debug,
        )  # fmt: skip
    if tally.done or tally.skipped:
        changed = f", {100 * work.changed / tally.done:.1f} % of the pixels changed" if tally.done else ""
        there = f"; {tally.skipped} were there already" if tally.skipped else ""
        common.out.print(f"{tally.done} of {tally.total} refined{changed}{there}.")
        common.out.print(f"Label maps: {work.output}", markup=False)
    conclude(tally, "the same command with --skip-existing goes on")


@dataclass
class _Work:
    """What is the same for all pictures; made once, so that mistakes of usage show before any work."""

    pictures: Mapping[Path, Path]
    unary: Path
    output: Path
    reading: dict[str, Any]
    labels: int | None
    params: Path | None
    preset: str | None
    iterations: int | None
    numbers: dict[str, Any]
    save_probabilities: bool
    panel: bool
    scale: tuple[float, float] | None
    single: bool

    def __post_init__(self) -> None:
        from crfrnn.io.unaries import check_reading

        self.changed = 0.0
        self._saved: SavedParameters | None = None
        if self.params is not None:
            self._saved = self._build(self.labels)
            self.labels = self._saved.crf.num_labels
        else:
            self._build(self.labels or 2)
        check_reading(self.reading["kind"], self.reading["axes"], self.labels)
        if not self.unary.exists():
            raise ValueError(
                f"--unary: expected a file or a folder, got {str(self.unary)!r}, which is not there"
            )
        if not self.single and not self.unary.is_dir():
            raise ValueError(f"--unary: expected a folder for several pictures, got {str(self.unary)!r}")
        self._named = self.single and self.output.suffix.lower() == ".png"
        self._stems = Counter(name.name for name in self.pictures.values())
        self.items = {self._item(path, name): name for path, name in self.pictures.items()}

    def claim(self, skip_existing: bool, overwrite: bool) -> AbstractContextManager[Outputs]:
        """See `crfrnn.io.outputs.claim`."""
        from crfrnn.io.outputs import claim

        settings = {
            **self.reading, **self.numbers, "labels": self.labels, "params": self.params,
            "preset": self.preset, "iterations": self.iterations, "scale": self.scale,
        }  # fmt: skip
        return claim(
            self.output.parent if self._named else self.output, "refine", settings, list(self.items),
            inputs=[self.params] if self.params else [], whole=not self._named, resume=skip_existing,
            overwrite=overwrite,
        )  # fmt: skip

    def _item(self, path: Path, name: Path) -> Item:
        from crfrnn.io import FileError
        from crfrnn.io.outputs import Item

        target = self.output if self._named else (self.output / name).with_name(f"{name.name}.png")
        beside = [PROBABILITIES] * self.save_probabilities + [PANEL] * self.panel
        # The label map is written last, so that one that is there means that everything is.
        files = [*(target.with_name(f"{target.stem}{ending}") for ending in beside), target]
        try:
            unary = self._unary_file(path, name)
        except FileError:  # said when the picture's turn comes; the others are done
            unary = self.unary / f"{name}.npy"
        return Item((path, unary), tuple(files))

    def shown(self, item: Item) -> str:
        """The picture's name in messages."""
        return (self.items[item].parent / item.sources[0].name).as_posix()

    def some(self, items: Sequence[Item]) -> list[None]:
        """Read, refine and write pictures."""
        return [self._one(item.sources[0], self.items[item], item.files) for item in items]

    def _one(self, path: Path, name: Path, files: tuple[Path, ...]) -> None:
        from crfrnn.inference.refine import refine as refine_picture
        from crfrnn.io import read_image, read_unary, write_label_png
        from crfrnn.io.images import write_png
        from crfrnn.plots import panel as paint_panel

        image = read_image(path, scale=self.scale)
        size = (image.shape[0], image.shape[1])
        file = self._unary_file(path, name)
        found = read_unary(file, size=size, picture=path, num_labels=self.labels, **self.reading)
        crf = self._crf(found.logits.shape[0])
        result = refine_picture(image, found.logits, crf, clamp=found.clamp)
        if result.labels.max() > 255:
            raise ValueError(f"labels: expected at most 256 for a PNG, got {crf.num_labels}")
        if self.save_probabilities:
            common.write_probabilities(files[0], result.probabilities)
        if self.panel:
            names = self._saved.class_names if self._saved else ()
            write_png(paint_panel(image, result.before, result.labels, names=names), files[-2])
        write_label_png(files[-1], result.labels)
        self.changed += result.changed

    def _unary_file(self, path: Path, name: Path) -> Path:
        """That of the picture's name; where names have folders, it may lie without them if that is clear."""
        from crfrnn.datasets import FolderUnaries
        from crfrnn.io import FileError

        if not self.unary.is_dir():
            return self.unary
        folder = FolderUnaries(self.unary, {})
        if len(name.parts) > 1 and self._stems[name.name] == 1:
            with suppress(FileError):
                return folder.find(name.as_posix())
            return folder.find(path.stem)
        return folder.find(name.as_posix())

    def _crf(self, num_labels: int) -> CRFRNN:
        if self._saved is None or self._saved.crf.num_labels != num_labels:
            self._saved = self._build(num_labels)
        return self._saved.crf

    def _build(self, num_labels: int | None) -> SavedParameters:
        return common.build_crf(num_labels, self.params, self.preset, self.iterations, **self.numbers)
