# SPDX-License-Identifier: MIT
"""`crfrnn refine`: pictures and their unaries in, label maps out."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from crfrnn.commands import common
from crfrnn.commands.common import show_error

if TYPE_CHECKING:
    from crfrnn.crf import CRFRNN
    from crfrnn.training import SavedParameters


def refine(
    image: Annotated[str, typer.Argument(help="A picture, a folder of them, or a glob in quotes.")],
    unary: Annotated[Path, typer.Option("--unary", "-u", help="Its unary, or a folder of them by stem.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="A folder, or FILE.png for one picture.")],
    kind: common.Kind,
    layout: common.Layout = None,
    labels: common.Labels = None,
    gt_prob: common.GtProb = 0.7,
    key: common.Key = None,
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
) -> None:
    """Refine label scores along the edges of pictures; writes indexed PNG with the VOC palette.

    Exit code 0: all pictures done; 1: some failed (each is reported, the others are done); 2: usage.

    Example: crfrnn refine photos/ --unary logits/ --kind logits --layout lhw -o refined/

    Example: crfrnn refine cat.jpg --unary cat_scribbles.png --kind scribbles --labels 3 -o cat.png
    """
    numbers = {
        "theta_alpha": theta_alpha, "theta_beta": theta_beta, "theta_gamma": theta_gamma,
        "spatial_weight": spatial_weight, "bilateral_weight": bilateral_weight, "quality": quality,
    }  # fmt: skip
    reading = {"kind": kind, "axes": layout, "gt_prob": gt_prob, "key": key}
    work = _Work(image, unary, output, reading, labels, params, preset, iterations, numbers)
    failed = 0
    with common.progress() as bar:
        for path in bar.track(work.pictures, description="refine"):
            try:
                work.one(path, save_probabilities, panel)
            except (ValueError, TypeError, OSError, MemoryError) as error:
                if common.state.debug:
                    raise
                failed += 1
                show_error(f"{path.name}: {str(error) or type(error).__name__}")
    done = len(work.pictures) - failed
    if done:
        changed = 100 * work.changed / done
        common.out.print(f"{done} of {len(work.pictures)} refined, {changed:.1f} % of the pixels changed.")
        common.out.print(f"Label maps: {work.output}", markup=False)
    if failed:
        show_error(f"{failed} of {len(work.pictures)} pictures failed")
        raise typer.Exit(1)


@dataclass
class _Work:
    """What is the same for all pictures; made once, so that mistakes of usage show before any work."""

    image: str
    unary: Path
    output: Path
    reading: dict[str, Any]
    labels: int | None
    params: Path | None
    preset: str | None
    iterations: int | None
    numbers: dict[str, Any]

    def __post_init__(self) -> None:
        from crfrnn.data.unary_files import AXES, KINDS

        self.pictures = find_pictures(self.image)
        self.single = Path(self.image).is_file()
        self.changed = 0.0
        self._saved: SavedParameters | None = None
        if self.params is not None:
            self._saved = self._build(self.labels)
            self.labels = self._saved.crf.num_labels
        else:
            self._build(self.labels or 2)
        kind, scores = self.reading["kind"], ("logits", "probabilities")
        if kind not in KINDS:
            raise ValueError(f"--kind: expected one of {', '.join(KINDS)}, got {kind!r}")
        if kind in scores and self.reading["axes"] not in AXES:
            raise ValueError(
                f"--layout: expected the axes' order ({', '.join(AXES)}) for --kind {kind}, "
                f"got {self.reading['axes'] or 'none'}; "
                "lhw is torch's, hwl TensorFlow's (l labels, h rows, w columns)"
            )
        if kind not in scores and self.labels is None:
            raise ValueError(f"--labels: expected the number of labels for --kind {kind}, got none")
        if not self.unary.exists():
            raise ValueError(
                f"--unary: expected a file or a folder, got {str(self.unary)!r}, which is not there"
            )
        if not self.single and not self.unary.is_dir():
            raise ValueError(f"--unary: expected a folder for several pictures, got {str(self.unary)!r}")
        self._named = self.single and self.output.suffix.lower() == ".png"
        common.new_folder(self.output.parent if self._named else self.output)
        check_stems(self.pictures)

    def one(self, path: Path, save_probabilities: bool, with_panel: bool) -> None:
        """Read, refine and write one picture; its label map is written last."""
        from crfrnn.data import read_image, read_unary, write_label_png
        from crfrnn.data.images import write_png
        from crfrnn.plots import panel as paint_panel
        from crfrnn.refine import refine as refine_picture

        image = read_image(path)
        size = (image.shape[0], image.shape[1])
        file = self._unary_file(path)
        found = read_unary(file, size=size, num_labels=self.labels, **self.reading)
        crf = self._crf(found.logits.shape[0])
        result = refine_picture(image, found.logits, crf, clamp=found.clamp)
        if result.labels.max() > 255:
            raise ValueError(f"labels: expected at most 256 for a PNG, got {crf.num_labels}")
        target = self.output if self._named else self.output / f"{path.stem}.png"
        if save_probabilities:
            name = target.with_name(f"{target.stem}_probabilities.npz")
            common.write_probabilities(name, result.probabilities)
        if with_panel:
            names = self._saved.class_names if self._saved else ()
            picture = paint_panel(image, result.before, result.labels, names=names)
            write_png(picture, target.with_name(f"{target.stem}_panel.png"))
        write_label_png(target, result.labels)
        self.changed += result.changed

    def _unary_file(self, path: Path) -> Path:
        from crfrnn.training import FolderUnaries

        return FolderUnaries(self.unary, {}).find(path.stem) if self.unary.is_dir() else self.unary

    def _crf(self, num_labels: int) -> CRFRNN:
        if self._saved is None or self._saved.crf.num_labels != num_labels:
            self._saved = self._build(num_labels)
        return self._saved.crf

    def _build(self, num_labels: int | None) -> SavedParameters:
        return common.build_crf(num_labels, self.params, self.preset, self.iterations, **self.numbers)


def check_stems(pictures: Sequence[Path]) -> None:
    """ValueError where two pictures would write to one name."""
    stems = [path.stem for path in pictures]
    if len(set(stems)) != len(stems):
        twice = next(stem for stem in stems if stems.count(stem) > 1)
        raise ValueError(f"IMAGE: expected each name once, got {twice!r} twice; the results would collide")


def find_pictures(pattern: str) -> list[Path]:
    """One file, the pictures of a folder, or what a glob matches; ValueError if that is nothing."""
    from PIL import Image

    from crfrnn.data import FileError
    from crfrnn.data.images import FORMATS

    endings = {ending for ending, form in Image.registered_extensions().items() if form in FORMATS}
    path = Path(pattern)
    if path.is_file():
        return [path]
    if path.is_dir():
        found = [p for p in path.iterdir() if p.suffix.lower() in endings]
    elif glob.has_magic(pattern):
        found = [Path(p) for p in glob.glob(pattern, recursive=True)]
    else:
        raise FileError(
            "IMAGE", pattern, "a picture, a folder or a glob", "nothing there", "check the spelling"
        )
    found = sorted(p for p in found if p.is_file())
    if not found:
        raise FileError("IMAGE", pattern, "pictures", "none", f"endings are {', '.join(sorted(endings))}")
    return found
