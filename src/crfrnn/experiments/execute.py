# SPDX-License-Identifier: MIT
"""Runs a plan: trains what is missing, judges what is missing, keeps everything."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crfrnn.crf import CRFRNN
from crfrnn.crf.validate import check_choice
from crfrnn.datasets import LabelledPicture, PictureSet, UnaryDataset, held_fold
from crfrnn.datasets.sources import Steps
from crfrnn.experiments.denormals import denormals_as_zero
from crfrnn.experiments.folder import Folder, Say, since, versions
from crfrnn.experiments.plans import Plan, Row, Run, plain_stages
from crfrnn.io.files import write_text
from crfrnn.models import Segmenter
from crfrnn.training import TuneConfig
from crfrnn.training.config import text_of
from crfrnn.training.recipe import Recipe
from crfrnn.training.train import TrainingSets, read_sets, some_of, train
from crfrnn.training.tune import RANGES


@dataclass
class Experiment:
    """One folder with trainings, rows and reports; whatever is finished in it is not done again.

    ``runs/NAME`` are trainings, ``tuned.json`` the cross-validated numbers, ``rows/NAME`` a row's label maps,
    CRF parameters and scores (``row.json``).

    Attributes:
        recipe: data, network, CRF and stages; a folder begun with another one is refused.
        folder: made if it is not there.
        hold_out: share of the training pictures that no training sees: the CRF is cross-validated on them,
            and trainings are watched on them. The recipe's val is looked at for the rows alone, if at all.
            Where the plain network stays as it starts (0 epochs), the CRF is cross-validated on the others:
            the network has learned from none of them here.
        trials, tune_pictures, folds: of the cross-validation; 0 trials keep the recipe's numbers.
        val_pictures: judge at most so many, spread evenly; None: all, which alone can be published.
        judge_on: "val", or "held-out": those pictures held out that the cross-validation does not use, for
            what val must not be looked at for.
        trainer: further arguments of Lightning's Trainer.
        device: where rows are judged.
        say, progress: called with lines, and with (what, done, in all).
    """

    recipe: Recipe
    folder: Path
    hold_out: float = 0.1
    trials: int = 30
    tune_pictures: int | None = 40
    folds: int = 5
    val_pictures: int | None = None
    judge_on: str = "val"
    trainer: Mapping[str, Any] = field(default_factory=dict)
    device: str = "cpu"
    say: Say | None = None
    progress: Steps | None = None

    def __post_init__(self) -> None:
        check_choice("judge_on", self.judge_on, ("val", "held-out"))
        self._files = Folder(self.folder, self.say, self.progress)
        self._files.claim({
            "recipe": text_of(self.recipe), "hold_out": self.hold_out, "trials": self.trials,
            "tune_pictures": self.tune_pictures, "folds": self.folds, "val_pictures": self.val_pictures,
            **({} if self.judge_on == "val" else {"judge_on": self.judge_on}),
        })  # fmt: skip
        everything = self.recipe.changed(data=replace(self.recipe.data, validate=None))
        sets = read_sets(everything, self.progress)
        assert sets.val is not None
        group = self.recipe.group(self.recipe.stages[-1])
        ids = sets.train[group].ids
        held = held_fold(ids, self.hold_out, self.recipe.seed)
        self.held_out = sets.train[group].select(i for i in ids if i in held)
        learned = sum(stage.epochs for stage in plain_stages(self.recipe))
        source = self.held_out if learned else sets.train[group].select(i for i in ids if i not in held)
        self.tuned_on = some_of(source, self.tune_pictures)
        judged = sets.val if self.judge_on == "val" else self._never_used()
        self.val: PictureSet = some_of(judged, self.val_pictures)
        self.sets = TrainingSets(
            {name: part.select(i for i in part.ids if i not in held) for name, part in sets.train.items()},
            some_of(self.held_out, self.recipe.data.validate), sets.num_labels, sets.class_names,
        )  # fmt: skip

    def _never_used(self) -> PictureSet:
        tuned = set(self.tuned_on.ids if self.trials else ())
        left = [name for name in self.held_out.ids if name not in tuned]
        if not left:
            raise ValueError(
                f"judge_on: expected pictures held out that the cross-validation does not use, got none of "
                f"{len(self.held_out)}; lower tune_pictures or raise hold_out"
            )
        return self.held_out.select(left)

    @denormals_as_zero()
    def run(self, plan: Plan[Run]) -> None:
        """Train and judge what the plan wants and the folder does not have."""
        for row in plan.rows:
            if not self._files.finished(row):
                self._judge(plan, row)

    def segmenter(self, plan: Plan[Run], name: str) -> Segmenter:
        """The segmenter of a run, trained if it has not been."""
        home, run = self.folder / "runs" / name, plan.run_of[name]
        if (home / "run.json").is_file():
            return Segmenter.from_pretrained(home)
        start = None
        if run.start is not None:
            network = self.segmenter(plan, run.start).network
            start = Segmenter(network, self.crf(plan, run), class_names=self.sets.class_names)
        self._files.tell(f"train {name}")
        begun = time.perf_counter()
        done = train(
            run.recipe, home, sets=self.sets, start=start, say=self.say, progress=self.progress,
            trainer=self.trainer, keep_best=False,
        )  # fmt: skip
        # Of an interrupted run this is the last sitting alone; log.csv has the seconds of every epoch.
        about = {"seconds": sum(line["seconds"] for line in done.history), "sitting": since(begun)}
        about = {**about, **versions(), "seed": self.recipe.seed}
        write_text(home / "run.json", json.dumps(about, indent=1))
        return done.segmenter

    def crf(self, plan: Plan[Run], run: Run | None = None) -> CRFRNN:
        """A fresh CRF with the cross-validated numbers, and the settings of the recipe and of the run."""
        settings = {name: value for name, value in self.recipe.crf.items() if name != "parameters"}
        more = {} if run is None else dict(run.crf)
        return CRFRNN(self.sets.num_labels, **{**settings, **self.numbers(plan), **more})

    def numbers(self, plan: Plan[Run]) -> dict[str, float]:
        """Bandwidths and kernel weights that serve best behind the plain network on `tuned_on`."""
        config = TuneConfig(
            trials=self.trials, folds=self.folds, seed=self.recipe.seed, metric="mean_iu",
            settings=self._settings(),
        )  # fmt: skip
        return self._files.numbers(lambda: self._unaries(plan), config)

    def _settings(self) -> dict[str, Any]:
        """What the recipe says of the CRF beside its numbers."""
        return {n: v for n, v in self.recipe.crf.items() if n not in (*RANGES, "preset", "parameters")}

    def _unaries(self, plan: Plan[Run]) -> UnaryDataset:
        plain = self.segmenter(plan, plan.runs[0].name).to(self.device)
        images = {item.id: item for item in self.tuned_on}

        def unary(name: str, size: tuple[int, int]) -> Tensor:
            image = torch.from_numpy(images[name].image).permute(2, 0, 1)[None]
            with torch.no_grad():
                return plain.unary(image.to(self.device))[0].cpu()

        return UnaryDataset(self.tuned_on, unary, self.sets.num_labels)

    def _judge(self, plan: Plan[Run], row: Row) -> None:
        segmenter = self.segmenter(plan, row.run)
        crf = segmenter.crf
        if row.crf == "tuned":
            crf = self.crf(plan)
        elif row.crf == "default":
            crf = CRFRNN(self.sets.num_labels, **self._settings())
        elif row.crf_of is not None:
            crf = self.segmenter(plan, row.crf_of).crf
        if crf is not segmenter.crf:
            segmenter = Segmenter(segmenter.network, crf, class_names=self.sets.class_names)
        segmenter = segmenter.eval().to(self.device)

        def labels_of(item: LabelledPicture) -> NDArray[np.int64]:
            image = torch.from_numpy(item.image).permute(2, 0, 1)[None].to(self.device)
            with torch.no_grad():
                if row.crf == "none":
                    logits = segmenter.unary(image)
                else:
                    logits = segmenter(image, iterations=row.iterations)
            return logits[0].argmax(0).cpu().numpy()

        about = {"experiment": plan.name, "recipe": self.recipe.name}
        shown = None if row.crf == "none" else crf
        self._files.judge(row, self.val, labels_of, self.sets.num_labels, shown, about)
