# SPDX-License-Identifier: MIT
"""Experiments with a network and a CRF trained by a recipe."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from crfrnn.crf import CRFRNN
from crfrnn.datasets import LabelledPicture, PictureSet, UnaryDataset, held_fold
from crfrnn.datasets.sources import Steps
from crfrnn.experiments.experiment import Experiment, Say, UnaryOf, since
from crfrnn.experiments.plans import Plan, plain_stages
from crfrnn.lattice.validate import check_choice
from crfrnn.models import Segmenter
from crfrnn.training import TuneConfig
from crfrnn.training.recipe import Recipe
from crfrnn.training.train import TrainingSets, build_crf, read_sets, train


class NetworkExperiment(Experiment):
    """Trainings by a recipe, evaluated on its val or on held-out pictures.

    Args:
        recipe: data, network, CRF and stages; a folder started with another one is rejected. Trainings start
            from the parameter file in its `crf`, or else from the cross-validated parameters.
        folder: created if missing.
        hold_out: share of the training pictures excluded from training: the CRF is cross-validated and
            trainings are monitored on them. The recipe's val is used at most for the rows. If the plain
            network is not trained here (0 epochs), the CRF is cross-validated on the other pictures,
            since the network was not trained on them here.
        trials, tune_pictures, folds: settings of the cross-validation; 0 trials keep the recipe's parameters.
        val_pictures: evaluate at most this many, spread evenly; None: all, as required for publication.
        judge_on: "val", or "held-out": the held-out pictures not used by the cross-validation, for decisions
            that must not depend on val.
        trainer: further arguments of Lightning's Trainer.
        device: device of the evaluation.
        say, progress: called with lines, and with (what, done, total).
    """

    def __init__(
        self, recipe: Recipe, folder: Path, *, hold_out: float = 0.1, trials: int = 30,
        tune_pictures: int | None = 40, folds: int = 5, val_pictures: int | None = None,
        judge_on: str = "val", trainer: Mapping[str, Any] | None = None, device: str = "cpu",
        say: Say | None = None, progress: Steps | None = None,
    ) -> None:  # fmt: skip
        check_choice("judge_on", judge_on, ("val", "held-out"))
        self.recipe, self.trainer, self.device = recipe, dict(trainer or {}), device
        sets = read_sets(recipe.changed(data=replace(recipe.data, validate=None)), progress)
        assert sets.val is not None
        group = recipe.group(recipe.stages[-1])
        ids = sets.train[group].ids
        held = held_fold(ids, hold_out, recipe.seed)
        self.held_out = sets.train[group].select(i for i in ids if i in held)
        learned = sum(stage.epochs for stage in plain_stages(recipe))
        source = self.held_out if learned else sets.train[group].select(i for i in ids if i not in held)
        self.tuned_on = source.some(tune_pictures)
        self.sets = TrainingSets(
            {name: part.select(i for i in part.ids if i not in held) for name, part in sets.train.items()},
            self.held_out.some(recipe.data.validate), sets.num_labels, sets.class_names,
        )  # fmt: skip
        judged = sets.val if judge_on == "val" else self._never_used(trials)
        about = {
            "recipe": recipe, "hold_out": hold_out, "trials": trials, "tune_pictures": tune_pictures,
            "folds": folds, "val_pictures": val_pictures,
            **({} if judge_on == "val" else {"judge_on": judge_on}),
        }  # fmt: skip
        super().__init__(
            folder, about, judged=judged.some(val_pictures), num_labels=sets.num_labels, crf=recipe.crf,
            tuning=TuneConfig(trials=trials, folds=folds, seed=recipe.seed, metric="mean_iu"),
            origin={"recipe": recipe.name}, say=say,
            progress=progress,
        )  # fmt: skip

    def _never_used(self, trials: int) -> PictureSet:
        tuned = set(self.tuned_on.ids if trials else ())
        left = [name for name in self.held_out.ids if name not in tuned]
        if not left:
            raise ValueError(
                f"judge_on: expected held-out pictures that the cross-validation does not use, got none of "
                f"{len(self.held_out)}; lower tune_pictures or raise hold_out"
            )
        return self.held_out.select(left)

    def segmenter(self, plan: Plan, name: str) -> Segmenter:
        """The segmenter of a run, trained if necessary."""
        home, run = self.folder / "runs" / name, plan.run_of[name]
        if self.finished(name):
            return Segmenter.from_pretrained(home)
        start = None
        if run.start is not None:
            network = self.segmenter(plan, run.start).network
            saved = "parameters" in self.recipe.crf and not run.crf
            crf = build_crf(self.recipe, self.num_labels) if saved else self.start(plan, run)
            start = Segmenter(network, crf, class_names=self.sets.class_names)
        self.tell(f"train {name}")
        begun = time.perf_counter()
        done = train(
            run.how, home, sets=self.sets, start=start, say=self.say, progress=self.progress,
            trainer=self.trainer, keep_best=False,
        )  # fmt: skip
        # For an interrupted run this covers only the last session; log.csv has the seconds of every epoch.
        seconds = sum(line["seconds"] for line in done.history)
        self.record_run(name, {"seconds": seconds, "sitting": since(begun), "seed": self.recipe.seed})
        return done.segmenter

    def unary(self, plan: Plan, name: str) -> UnaryOf:
        segmenter = self.segmenter(plan, name).eval().to(self.device)
        self.guide = segmenter.guide

        def unary(item: LabelledPicture) -> Tensor:
            image = torch.from_numpy(item.image).permute(2, 0, 1)[None]
            with torch.no_grad():
                return segmenter.unary(image.to(self.device))[0]

        return unary

    def learned(self, plan: Plan, name: str) -> CRFRNN | None:
        return self.segmenter(plan, name).crf

    def tuning_data(self, plan: Plan) -> UnaryDataset:
        """The pictures `tuned_on`, with unaries of the plain network."""
        unary, items = self.unary(plan, plan.runs[0].name), {item.id: item for item in self.tuned_on}
        return UnaryDataset(self.tuned_on, lambda name, size: unary(items[name]).cpu(), self.num_labels)
