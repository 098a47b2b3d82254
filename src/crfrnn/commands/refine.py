# SPDX-License-Identifier: MIT
"""`crfrnn refine`: refine the unaries of pictures to label maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from crfrnn.commands import bulk, common
from crfrnn.commands.label_maps import LabelMaps, Output, Panel, SaveProbabilities, write_label_maps
from crfrnn.commands.pictures import Pictures, Recursive, check_partner, find_pictures, with_partners

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from crfrnn.crf import CRFRNN
    from crfrnn.inference import Prediction
    from crfrnn.io import FileError, SavedParameters


def refine(
    images: Pictures,
    unary: Annotated[
        str,
        typer.Option(
            "--unary",
            "-u",
            help="Unary file, or a folder of them named like the pictures; in shards their ending.",
        ),
    ],
    output: Output,
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
    save_probabilities: SaveProbabilities = False,
    panel: Panel = True,
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
    """Refine label scores along the edges of pictures, and write indexed PNG with the VOC palette.

    OUTPUT records the settings of the run: the same command rewrites its own files, or resumes with
    --skip-existing. Other files in it are not touched.

    Exit code 0: all pictures done; 1: some failed (each is reported, the others are done); 2: usage; 130:
    stopped by Ctrl-C, 143: by SIGTERM (every existing file is complete).

    Example: crfrnn refine photos/ --unary logits/ --kind logits --layout lhw -o refined/

    Example: crfrnn refine photos/*.jpg more/ --recursive -u logits/ --kind labels --labels 3 -o refined/

    Example: crfrnn refine "shards/{000..099}.tar" -u npy --kind logits --layout lhw -o out/ --engine ray

    Example: crfrnn refine cat.jpg --unary cat_scribbles.png --kind scribbles --labels 3 -o cat.png
    """
    from crfrnn.datasets.unaries import UNARY_ENDINGS
    from crfrnn.io.scale import check_scale

    numbers = {
        "theta_alpha": theta_alpha, "theta_beta": theta_beta, "theta_gamma": theta_gamma,
        "spatial_weight": spatial_weight, "bilateral_weight": bilateral_weight, "quality": quality,
    }  # fmt: skip
    reading = {"kind": kind, "axes": layout, "gt_prob": gt_prob, "key": key, "unknown": void}
    step = _Step(
        save_probabilities, panel, reading, labels, params, preset, iterations, numbers, check_scale(scale)
    )
    wanted = bulk.Bulk(engine, actors, num_cpus, num_gpus, to, shard_size, retry_failed)
    single = len(images) == 1 and Path(images[0]).is_file()

    def paired(words: Sequence[str]) -> tuple[dict[Path, Path], dict[Path, tuple[Path, ...]]]:
        found = find_pictures(words, recursive)
        check_partner("--unary", Path(unary), single)
        return found, with_partners(found, Path(unary), "unary", step.missing)

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
    write_label_maps(
        "refine", "refined", pictures, sources, output, step, step.record(), single=single,
        inputs=[params] if params else [], resume=skip_existing, overwrite=overwrite,
    )  # fmt: skip


@dataclass
class _Step(LabelMaps):
    reading: dict[str, Any]
    labels: int | None
    params: Path | None
    preset: str | None
    iterations: int | None
    numbers: dict[str, Any]
    scale: tuple[float, float] | None
    missing: dict[Path, FileError] = field(default_factory=dict)  # unaries not found, with the reason

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
        """The settings that results depend on, for `crfrnn.io.outputs.claim`."""
        return {
            **self.reading, **self.numbers, "labels": self.labels, "params": self.params,
            "preset": self.preset, "iterations": self.iterations, "scale": self.scale,
        }  # fmt: skip

    def found(self, sources: tuple[Path, ...]) -> tuple[NDArray[np.uint8], Prediction, tuple[str, ...]]:
        from crfrnn.inference.refine import refine as refine_picture
        from crfrnn.io import read_image, read_unary

        path, unary = sources
        image = read_image(path, scale=self.scale)
        if unary in self.missing:
            raise self.missing[unary]
        size = (image.shape[0], image.shape[1])
        found = read_unary(unary, size=size, picture=path, num_labels=self.labels, **self.reading)
        crf = self._crf(found.logits.shape[0])
        result = refine_picture(image, found.logits, crf, clamp=found.clamp)
        return image, result, self._saved.class_names if self._saved else ()

    def _crf(self, num_labels: int) -> CRFRNN:
        if self._saved is None or self._saved.crf.num_labels != num_labels:
            self._saved = self._build(num_labels)
        return self._saved.crf

    def _build(self, num_labels: int | None) -> SavedParameters:
        return common.build_crf(num_labels, self.params, self.preset, self.iterations, **self.numbers)
