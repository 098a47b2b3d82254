# SPDX-License-Identifier: MIT
"""Experiments with the CRF alone on unaries of a fixed network, with one start for all fits."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from crfrnn.crf import CRFRNN
from crfrnn.datasets import LabelledPicture, UnaryDataset
from crfrnn.datasets.sources import Steps
from crfrnn.experiments.experiment import Experiment, Say, UnaryOf, since
from crfrnn.experiments.plans import Plan
from crfrnn.io.parameters import load_parameters, save_parameters
from crfrnn.training import TuneConfig, fit


class UnaryExperiment(Experiment):
    """Fits of the CRF to given unaries; ``runs/NAME`` has ``crf.safetensors``, ``fit.csv``, ``run.json``.

    Args:
        train: pictures for cross-validating and training the CRF.
        judged: pictures of the rows; none of them may be in `train`.
        folder: created if missing; one started with other data or settings is rejected.
        tuning: the cross-validation; 0 trials keep default parameters.
        tune_pictures: cross-validate on at most this many, spread evenly.
        crf: settings of every CRF (iterations, quality, …).
        temperature: also learn a divisor of the unary, as in `crfrnn fit`.
        about: further settings that must be equal to resume in the folder, such as the loss.
        say, progress: called with lines, and with (what, done, total).
    """

    def __init__(
        self, train: UnaryDataset, judged: UnaryDataset, folder: Path, *, tuning: TuneConfig | None = None,
        tune_pictures: int | None = None, crf: Mapping[str, Any] | None = None, temperature: bool = True,
        about: Mapping[str, Any] | None = None, say: Say | None = None, progress: Steps | None = None,
    ) -> None:  # fmt: skip
        learned = {item.image_path.resolve() for item in train.pictures}
        both = [item.id for item in judged.pictures if item.image_path.resolve() in learned]
        if both:
            raise ValueError(
                f"judged: expected pictures that are not in the training data, got {both[0]!r} and "
                f"{len(both) - 1} more of {len(judged)}; name another split, or hold out a fold"
            )
        self.train, self.unaries, self.tune_pictures = train, judged, tune_pictures
        self.temperature, tuning, crf = temperature, tuning or TuneConfig(), dict(crf or {})
        all_of_it = {
            "train": train.digest(), "judged": judged.digest(), "tuning": tuning,
            "tune_pictures": tune_pictures, "crf": crf, "temperature": temperature, **(about or {}),
        }  # fmt: skip
        super().__init__(
            folder, all_of_it, judged=judged.pictures, num_labels=train.num_labels, crf=crf, tuning=tuning,
            origin={"pictures": len(train)}, say=say, progress=progress,
        )  # fmt: skip

    def unary(self, plan: Plan, name: str) -> UnaryOf:
        position = {item: index for index, item in enumerate(self.unaries.ids)}

        def unary(item: LabelledPicture) -> Tensor:
            return self.unaries[position[item.id]].unary

        return unary

    def learned(self, plan: Plan, name: str) -> CRFRNN:
        home, how = self.folder / "runs" / name, plan.run_of[name].how
        if self.finished(name):
            return load_parameters(home / "crf.safetensors").crf
        more = {"temperature": 1.0} if self.temperature else {}
        start = self.start(plan, plan.run_of[name], **more)
        home.mkdir(parents=True, exist_ok=True)
        self.tell(f"fit {name}")
        begun, report = time.perf_counter(), self.progress
        result = fit(
            self.train, start, how, log=home / "fit.csv",
            report=report and (lambda what, k, done, total, _: report(f"{name}: {what} {k}", done, total)),
        )  # fmt: skip
        if result.interrupted:  # a partial fit is not comparable with complete ones
            raise KeyboardInterrupt
        names = self.train.pictures.class_names
        save_parameters(
            home / "crf.safetensors", result.crf,
            provenance={"config": asdict(how), "epoch": result.best_epoch},
            class_names=names if len(names) == self.num_labels else (),
        )  # fmt: skip
        figures = {"held_out": result.validation.figures(), "held_out_before": result.start.figures()}
        about = {"seconds": since(begun), "epoch": result.best_epoch, "seed": how.seed, **figures}
        self.record_run(name, about)
        return result.crf

    def tuning_data(self, plan: Plan) -> UnaryDataset:
        return self.train.select(self.train.pictures.some(self.tune_pictures).ids)
