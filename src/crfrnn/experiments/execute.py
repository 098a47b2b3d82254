# SPDX-License-Identifier: MIT
"""Runs a plan: trains what is missing, judges what is missing, keeps everything."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from crfrnn.crf import CRFRNN
from crfrnn.data import PictureSet, write_label_png
from crfrnn.data.files import write_text
from crfrnn.data.sources import Steps
from crfrnn.evaluation import Evaluator
from crfrnn.experiments.plans import Plan, Row, Run
from crfrnn.models import Segmenter
from crfrnn.training import TuneConfig, UnaryDataset, save_parameters, split_folds, tune
from crfrnn.training.recipe import Recipe
from crfrnn.training.recipe_files import recipe_text
from crfrnn.training.train import TrainingSets, read_sets, some_of, train
from crfrnn.training.tune import RANGES

Say = Callable[[str], None]
TUNED = tuple(name for name in RANGES if name != "temperature")


@dataclass
class Experiment:
    """One folder with trainings, rows and reports; whatever is finished in it is not done again.

    ``runs/NAME`` are trainings, ``tuned.json`` the cross-validated numbers, ``rows/NAME`` a row's label maps,
    CRF parameters and scores (``row.json``).

    Attributes:
        recipe: data, network, CRF and stages; a folder begun with another one is refused.
        folder: made if it is not there.
        hold_out: share of the training pictures that no training sees: the CRF is cross-validated on them,
            and trainings are watched on them. The recipe's val is looked at for the rows alone.
        trials, tune_pictures, folds: of the cross-validation; 0 trials keep the recipe's numbers.
        val_pictures: judge at most so many of val, spread evenly; None: all, which alone can be published.
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
    trainer: Mapping[str, Any] = field(default_factory=dict)
    device: str = "cpu"
    say: Say | None = None
    progress: Steps | None = None

    def __post_init__(self) -> None:
        if not 0 < self.hold_out <= 0.5:
            raise ValueError(f"hold_out: expected a share in 0..0.5, got {self.hold_out}")
        self.folder.mkdir(parents=True, exist_ok=True)
        about = json.dumps(
            {"recipe": recipe_text(self.recipe), "hold_out": self.hold_out, "trials": self.trials,
             "tune_pictures": self.tune_pictures, "folds": self.folds,
             "val_pictures": self.val_pictures}, indent=1,
        )  # fmt: skip
        known = self.folder / "experiment.json"
        if known.is_file() and known.read_text(encoding="utf-8") != about:
            raise ValueError(
                f"folder: expected a new one, or one of the same recipe and settings, got "
                f"{str(self.folder)!r}; name another"
            )
        if not known.is_file():
            write_text(known, about)
        everything = self.recipe.changed(data=replace(self.recipe.data, validate=None))
        sets = read_sets(everything, self.progress)
        assert sets.val is not None
        self.val: PictureSet = some_of(sets.val, self.val_pictures)
        group = self.recipe.group(self.recipe.stages[-1])
        ids = sets.train[group].ids
        held = set(split_folds(ids, max(2, round(1 / self.hold_out)), self.recipe.seed)[0])
        self.held_out = sets.train[group].select(i for i in ids if i in held)
        self.sets = TrainingSets(
            {name: part.select(i for i in part.ids if i not in held) for name, part in sets.train.items()},
            some_of(self.held_out, self.recipe.data.validate), sets.num_labels, sets.class_names,
        )  # fmt: skip

    def run(self, plan: Plan) -> None:
        """Train and judge what the plan wants and the folder does not have."""
        for row in plan.rows:
            if not (self.folder / "rows" / row.name / "row.json").is_file():
                self._judge(plan, row)

    def segmenter(self, plan: Plan, name: str) -> Segmenter:
        """The segmenter of a run, trained if it has not been."""
        home, run = self.folder / "runs" / name, plan.run_of[name]
        if (home / "run.json").is_file():
            return Segmenter.from_pretrained(home)
        start = None
        if run.start is not None:
            network = self.segmenter(plan, run.start).network
            start = Segmenter(network, self.crf(plan, run), class_names=self.sets.class_names)
        self._say(f"train {name}")
        begun = time.perf_counter()
        done = train(run.recipe, home, sets=self.sets, start=start, say=self.say, trainer=self.trainer)
        # Of an interrupted run this is the last sitting alone; log.csv has the seconds of every epoch.
        about = {"seconds": sum(line["seconds"] for line in done.history), "sitting": _since(begun)}
        about = {**about, **_versions(), "seed": self.recipe.seed}
        write_text(home / "run.json", json.dumps(about, indent=1))
        return done.segmenter

    def crf(self, plan: Plan, run: Run | None = None) -> CRFRNN:
        """A fresh CRF with the cross-validated numbers, and the settings of the recipe and of the run."""
        settings = {name: value for name, value in self.recipe.crf.items() if name != "parameters"}
        more = {} if run is None else dict(run.crf)
        return CRFRNN(self.sets.num_labels, **{**settings, **self.numbers(plan), **more})

    def numbers(self, plan: Plan) -> dict[str, float]:
        """Bandwidths and kernel weights that serve best behind the plain network on the pictures held out."""
        known = self.folder / "tuned.json"
        if known.is_file():
            return json.loads(known.read_text(encoding="utf-8"))["numbers"]
        if self.trials == 0:
            return {}
        plain = self.segmenter(plan, plan.runs[0].name).to(self.device)
        pictures = some_of(self.held_out, self.tune_pictures)
        images = {item.id: item for item in pictures}

        def unary(name: str, size: tuple[int, int]) -> Tensor:
            image = torch.from_numpy(images[name].image).permute(2, 0, 1)[None]
            with torch.no_grad():
                return plain.unary(image.to(self.device))[0].cpu()

        settings = {n: v for n, v in self.recipe.crf.items() if n not in (*RANGES, "preset", "parameters")}
        config = TuneConfig(
            trials=self.trials, folds=min(self.folds, len(pictures)), seed=self.recipe.seed, metric="mean_iu",
            ranges={name: RANGES[name] for name in TUNED}, settings=settings,
        )  # fmt: skip
        self._say(f"cross-validate the CRF on {len(pictures)} pictures held out")
        report = self.progress
        result = tune(
            UnaryDataset(pictures, unary, self.sets.num_labels),
            config,
            study=self.folder / "tune.journal",
            report=report and (lambda what, number, done, total, _: report(f"{what} {number}", done, total)),
        )
        if result.interrupted:
            raise KeyboardInterrupt
        figures = {"all": result.counts.figures(), "validation": result.validation.figures()}
        write_text(known, json.dumps({"numbers": result.numbers, **figures}, indent=1))
        return result.numbers

    def _judge(self, plan: Plan, row: Row) -> None:
        segmenter = self.segmenter(plan, row.run)
        if row.crf == "tuned":
            segmenter = Segmenter(segmenter.network, self.crf(plan), class_names=self.sets.class_names)
        segmenter = segmenter.eval().to(self.device)
        home = self.folder / "rows" / row.name
        (home / "labels").mkdir(parents=True, exist_ok=True)
        self._say(f"judge {row.name} on {len(self.val)} pictures")
        evaluator = Evaluator(self.sets.num_labels, class_names=self.sets.class_names)
        begun = time.perf_counter()
        for done, item in enumerate(self.val, 1):
            image = torch.from_numpy(item.image).permute(2, 0, 1)[None].to(self.device)
            with torch.no_grad():
                if row.crf == "none":
                    logits = segmenter.unary(image)
                else:
                    logits = segmenter(image, iterations=row.iterations)
            labels = logits[0].argmax(0).cpu().numpy()
            write_label_png(home / "labels" / f"{item.id}.png", labels.astype("uint8"))
            evaluator.update(item.id, item.mask, {row.name: labels})
            if self.progress:
                self.progress(f"judge {row.name}", done, len(self.val))
        scores = evaluator.compute().rows()[0]
        if row.crf != "none" and segmenter.crf is not None:
            save_parameters(
                home / "crf.safetensors", segmenter.crf.cpu(), class_names=self.sets.class_names,
                provenance={"experiment": plan.name, "row": row.name, "recipe": self.recipe.name},
            )  # fmt: skip
        figures = {name: value if value == value else None for name, value in scores.items()}
        about = {"title": row.title, "run": row.run, "crf": row.crf, "iterations": row.iterations,
                 "pictures": len(self.val), "seconds": _since(begun), "scores": figures}  # fmt: skip
        write_text(home / "row.json", json.dumps({**about, **_versions()}, indent=1))

    def _say(self, line: str) -> None:
        if self.say:
            self.say(line)


def _since(begun: float) -> float:
    return round(time.perf_counter() - begun, 1)


def _versions() -> dict[str, str]:
    return {
        "torch": str(torch.__version__), "python": platform.python_version(), "machine": platform.machine()
    }  # fmt: skip
