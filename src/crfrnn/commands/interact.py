# SPDX-License-Identifier: MIT
"""`crfrnn interact`: label maps from pictures with scribbles or boxes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from crfrnn.commands import common
from crfrnn.commands.label_maps import LabelMaps, Output, Panel, SaveProbabilities, write_label_maps
from crfrnn.commands.pictures import Pictures, Recursive, check_partner, find_pictures, with_partners

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from crfrnn.crf import CRFRNN
    from crfrnn.inference import Prediction
    from crfrnn.io import FileError, SavedParameters
    from crfrnn.io.boxes import Boxes


def interact(
    images: Pictures,
    output: Output,
    scribbles: Annotated[
        Path | None,
        typer.Option(
            "--scribbles",
            "-s",
            help="A PNG or array of scribbled labels, or a folder of them named like the pictures.",
        ),
    ] = None,
    box: Annotated[
        str | None,
        typer.Option("--box", help="LEFT,TOP,RIGHT,BOTTOM of an object, or a JSON file: boxes by picture."),
    ] = None,
    labels: common.Labels = None,
    void: common.Void = None,
    key: common.Key = None,
    components: Annotated[
        int, typer.Option("--components", help="Gaussians in each label's colour model.")
    ] = 5,
    rounds: Annotated[
        int | None,
        typer.Option("--rounds", help="Rounds of colour model and CRF. Default: 1, with a box at most 5."),
    ] = None,
    params: common.Params = None,
    theta_alpha: common.ThetaAlpha = None,
    theta_beta: common.ThetaBeta = None,
    theta_gamma: common.ThetaGamma = None,
    spatial_weight: common.SpatialWeight = None,
    bilateral_weight: common.BilateralWeight = None,
    iterations: common.Iterations = None,
    quality: common.Quality = "default",
    save_probabilities: SaveProbabilities = False,
    panel: Panel = True,
    recursive: Recursive = False,
    skip_existing: common.SkipExisting = False,
    overwrite: common.Overwrite = False,
) -> None:
    """Complete scribbles, or segment the object in a box, by the colours of each label and the CRF.

    Scribbles: an indexed or grey PNG holds the label of each pixel, 255 where there is none; in a colour PNG
        black or transparent pixels are not scribbles, and others have the VOC palette's colours. Scribbled
        pixels keep their label, and each label needs some. With a box, the object inside becomes 1 and the
        rest 0; scribbles of 0 and 1 correct it.

    Exit code 0: all pictures done; 1: some failed (each is reported, the others are done); 2: usage; 130:
    stopped by Ctrl-C, 143: by SIGTERM (every existing file is complete).

    Example: crfrnn interact cat.jpg --scribbles cat_strokes.png --labels 3 -o cat.png

    Example: crfrnn interact cat.jpg --box 60,10,400,290 -o cat.png

    Example: crfrnn interact photos/ --box boxes.json --theta-beta 12 -o labels/
    """
    from crfrnn.io.boxes import boxes_from

    if scribbles is None and box is None:
        raise ValueError("--scribbles: expected a file or a folder, or --box, got neither; name one of them")
    if box is None and params is None and labels is None:
        raise ValueError("--labels: expected the number of labels, got none; scribbles may contain only some")
    numbers = {
        "theta_alpha": theta_alpha, "theta_beta": theta_beta, "theta_gamma": theta_gamma,
        "spatial_weight": spatial_weight, "bilateral_weight": bilateral_weight, "quality": quality,
    }  # fmt: skip
    step = _Step(
        save_probabilities, panel, 2 if box is not None and labels is None else labels,
        None if box is None else boxes_from(box), {"unknown": void, "key": key}, components, rounds, params,
        iterations, numbers,
    )  # fmt: skip
    pictures = find_pictures(images, recursive)
    single = len(images) == 1 and Path(images[0]).is_file()
    sources: dict[Path, tuple[Path, ...]] = {path: (path,) for path in pictures}
    if scribbles is not None:
        check_partner("--scribbles", scribbles, single)
        sources = with_partners(pictures, scribbles, "scribbles", step.missing)
    held = [] if box is None or not Path(box).is_file() else [Path(box)]
    settings = {
        **numbers, "labels": labels, "void": void, "key": key, "components": components, "rounds": rounds,
        "params": params, "iterations": iterations, "scribbles": scribbles is not None,
        "box": held[0] if held else box,
    }  # fmt: skip
    write_label_maps(
        "interact", "completed", pictures, sources, output, step, settings, single=single,
        inputs=[*held, *([params] if params else [])], resume=skip_existing, overwrite=overwrite,
    )  # fmt: skip


@dataclass
class _Step(LabelMaps):
    labels: int | None
    boxes: Boxes | None
    reading: dict[str, Any]
    components: int
    rounds: int | None
    params: Path | None
    iterations: int | None
    numbers: dict[str, Any]
    missing: dict[Path, FileError] = field(default_factory=dict)  # scribbles not found, with the reason

    def __post_init__(self) -> None:
        from crfrnn.inference.interact.marked import check_marked

        self._saved: SavedParameters | None = None
        if self.params is not None:
            self._saved = common.build_crf(self.labels, self.params, None, self.iterations, **self.numbers)
            self.labels = self._saved.crf.num_labels
        check_marked(self.labels, self.boxes is not None, self.components, self.rounds)
        self._crf((1, 1))  # rejects invalid numbers

    def found(self, sources: tuple[Path, ...]) -> tuple[NDArray[np.uint8], Prediction, tuple[str, ...]]:
        from crfrnn.inference.interact import Marked
        from crfrnn.io import read_image, read_scribbles

        path, *others = sources
        image, drawn = read_image(path), None
        assert self.labels is not None
        for other in others:
            if other in self.missing:
                raise self.missing[other]
            drawn = read_scribbles(other, self.labels, role="scribbles", **self.reading)
        marked = Marked(
            image, drawn, self.labels, box=None if self.boxes is None else self.boxes.of(path),
            components=self.components, rounds=self.rounds,
        )  # fmt: skip
        names = self._saved.class_names if self._saved else ()
        return image, marked(self._crf(image.shape[:2])), names

    def _crf(self, size: tuple[int, ...]) -> CRFRNN:
        from crfrnn.inference.interact import default_crf

        if self._saved is not None:
            return self._saved.crf
        assert self.labels is not None
        given = {name: value for name, value in self.numbers.items() if value is not None}
        settings = common.layer_settings(given.pop("quality"), self.iterations)
        return default_crf(self.labels, size, **given, **settings)
