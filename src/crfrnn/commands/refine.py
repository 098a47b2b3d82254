# SPDX-License-Identifier: MIT
"""`crfrnn refine`: pictures and their unaries in, label maps out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from crfrnn.commands import bulk, common
from crfrnn.commands.pictures import Pictures, Recursive, conclude, counted, find_pictures

if TYPE_CHECKING:
    from crfrnn.crf import CRFRNN
    from crfrnn.io import FileError, SavedParameters
    from crfrnn.io.outputs import Item

PANEL, PROBABILITIES = "_panel.png", "_probabilities.npz"


def refine(
    images: Pictures,
    unary: Annotated[
        str,
        typer.Option("--unary", "-u", help="Its unary, or a folder of them by stem; in shards their ending."),
    ],
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
    engine: bulk.Engine = bulk.LOOP,
    actors: bulk.Actors = None,
    num_cpus: bulk.NumCpus = 1,
    num_gpus: bulk.NumGpus = 0,
    to: bulk.To = "files",
    shard_size: bulk.ShardSize = 1000,
    retry_failed: bulk.RetryFailed = False,
) -> None:
    """Refine label scores along the edges of pictures; writes indexed PNG with the VOC palette.

    OUTPUT remembers what it was begun with: the same command writes its own files anew, or with
    --skip-existing goes on where it was stopped. Other files there are left alone.

    Exit code 0: all pictures done; 1: some failed (each is reported, the others are done); 2: usage; 130:
    stopped by Ctrl-C, 143: by SIGTERM (every file that is there is whole).

    Example: crfrnn refine photos/ --unary logits/ --kind logits --layout lhw -o refined/

    Example: crfrnn refine photos/*.jpg more/ --recursive -u logits/ --kind labels --labels 3 -o refined/

    Example: crfrnn refine "shards/{000..099}.tar" -u npy --kind logits --layout lhw -o out/ --engine ray

    Example: crfrnn refine cat.jpg --unary cat_scribbles.png --kind scribbles --labels 3 -o cat.png
    """
    from crfrnn.datasets.unaries import UNARY_ENDINGS
    from crfrnn.inference.many import many
    from crfrnn.io.outputs import claim
    from crfrnn.io.scale import check_scale

    numbers = {
        "theta_alpha": theta_alpha, "theta_beta": theta_beta, "theta_gamma": theta_gamma,
        "spatial_weight": spatial_weight, "bilateral_weight": bilateral_weight, "quality": quality,
    }  # fmt: skip
    reading = {"kind": kind, "axes": layout, "gt_prob": gt_prob, "key": key, "unknown": void}
    step = _Step(
        reading, labels, params, preset, iterations, numbers, save_probabilities, panel, check_scale(scale)
    )
    wanted = bulk.Bulk(engine, actors, num_cpus, num_gpus, to, shard_size, retry_failed)
    single = len(images) == 1 and Path(images[0]).is_file()

    def paired(words: Sequence[str]) -> tuple[dict[Path, Path], dict[Path, tuple[Path, Path]]]:
        found = find_pictures(words, recursive)
        _check_unary(Path(unary), single)
        return found, _with_unaries(found, Path(unary), step)

    if wanted.asked(images):

        def by_name(words: Sequence[str]) -> dict[Path, tuple[Path, ...]]:
            names, sources = paired(words)
            return {name: sources[path] for path, name in names.items()}

        wanted.run(
            "refine", images, output, step, step.record(), by_name, recursive=recursive, resume=skip_existing,
            overwrite=overwrite, partner=unary, partner_endings=UNARY_ENDINGS,
        )  # fmt: skip
        return
    pictures, sources = paired(images)
    named = single and output.suffix.lower() == ".png"
    items = {
        step.item(sources[path], output.with_name(output.stem) if named else output / name): name
        for path, name in pictures.items()
    }
    if named:  # the ending as it was given
        items = {replace(item, files=(*item.files[:-1], output)): name for item, name in items.items()}

    def shown(item: Item) -> str:
        return (items[item].parent / item.sources[0].name).as_posix()

    changed: list[float] = []
    with (
        claim(
            output.parent if named else output, "refine", step.record(), list(items),
            inputs=[params] if params else [], whole=not named, resume=skip_existing, overwrite=overwrite,
        ) as outputs,
        counted("refine", len(items)) as (tally, progress),
    ):  # fmt: skip
        many(
            list(items), step.some, tally, name=shown, finished=outputs.finished, progress=progress,
            found=lambda item, share: changed.append(share), strict=common.state.debug,
        )  # fmt: skip
    if tally.done or tally.skipped:
        much = f", {100 * sum(changed) / tally.done:.1f} % of the pixels changed" if tally.done else ""
        there = f"; {tally.skipped} were there already" if tally.skipped else ""
        common.out.print(f"{tally.done} of {tally.total} refined{much}{there}.")
        common.out.print(f"Label maps: {output}", markup=False)
    conclude(tally, "the same command with --skip-existing goes on")


@dataclass
class _Step:
    """What is made of every picture; made once, so that mistakes of usage show before any work."""

    reading: dict[str, Any]
    labels: int | None
    params: Path | None
    preset: str | None
    iterations: int | None
    numbers: dict[str, Any]
    save_probabilities: bool
    panel: bool
    scale: tuple[float, float] | None
    missing: dict[Path, FileError] = field(default_factory=dict)  # unaries that were not found, and why

    def __post_init__(self) -> None:
        from crfrnn.io.unaries import check_reading

        self._saved: SavedParameters | None = None
        if self.params is not None:
            self._saved = self._build(self.labels)
            self.labels = self._saved.crf.num_labels
        else:
            self._build(self.labels or 2)
        check_reading(self.reading["kind"], self.reading["axes"], self.labels)

    def record(self) -> dict[str, Any]:
        """What the results depend on, as `crfrnn.io.outputs.claim` takes it."""
        return {
            **self.reading, **self.numbers, "labels": self.labels, "params": self.params,
            "preset": self.preset, "iterations": self.iterations, "scale": self.scale,
        }  # fmt: skip

    def item(self, sources: tuple[Path, ...], target: Path) -> Item:
        """What is made of a picture and its unary; the label map, ``TARGET.png``, is written last, so that
        one that is there means that everything is."""
        from crfrnn.io.outputs import Item

        beside = [PROBABILITIES] * self.save_probabilities + [PANEL] * self.panel
        return Item(
            sources, tuple(target.with_name(f"{target.name}{ending}") for ending in (*beside, ".png"))
        )

    def some(self, items: Sequence[Item]) -> list[float]:
        """Read, refine and write pictures; the share of the pixels that changed in each."""
        return [self._one(item.sources, item.files) for item in items]

    def _one(self, sources: tuple[Path, ...], files: tuple[Path, ...]) -> float:
        from crfrnn.inference.refine import refine as refine_picture
        from crfrnn.io import read_image, read_unary, write_label_png
        from crfrnn.io.images import write_png
        from crfrnn.plots import panel as paint_panel

        path, unary = sources
        image = read_image(path, scale=self.scale)
        if unary in self.missing:
            raise self.missing[unary]
        size = (image.shape[0], image.shape[1])
        found = read_unary(unary, size=size, picture=path, num_labels=self.labels, **self.reading)
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
        return result.changed

    def _crf(self, num_labels: int) -> CRFRNN:
        if self._saved is None or self._saved.crf.num_labels != num_labels:
            self._saved = self._build(num_labels)
        return self._saved.crf

    def _build(self, num_labels: int | None) -> SavedParameters:
        return common.build_crf(num_labels, self.params, self.preset, self.iterations, **self.numbers)


def _check_unary(unary: Path, single: bool) -> None:
    if not unary.exists():
        raise ValueError(f"--unary: expected a file or a folder, got {str(unary)!r}, which is not there")
    if not single and not unary.is_dir():
        raise ValueError(f"--unary: expected a folder for several pictures, got {str(unary)!r}")


def _with_unaries(pictures: Mapping[Path, Path], unary: Path, step: _Step) -> dict[Path, tuple[Path, Path]]:
    """Every picture with its unary: that of its name; where names have folders, it may lie without them if
    that is clear. One that is missing is said when the picture's turn comes; the others are done."""
    from crfrnn.datasets import FolderUnaries
    from crfrnn.io import FileError

    if not unary.is_dir():
        return {path: (path, unary) for path in pictures}
    folder, stems = FolderUnaries(unary, {}), Counter(name.name for name in pictures.values())
    found: dict[Path, tuple[Path, Path]] = {}
    for path, name in pictures.items():
        clear = len(name.parts) > 1 and stems[name.name] == 1
        try:
            try:
                file = folder.find(name.as_posix())
            except FileError:
                if not clear:
                    raise
                file = folder.find(path.stem)
        except FileError as error:
            file = unary / f"{name}.npy"
            step.missing[file] = error
        found[path] = path, file
    return found
