# SPDX-License-Identifier: MIT
"""The CRF alone on unaries of a fixed network: the table and the ablations, all fits from one start."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from crfrnn.crf import CRFRNN
from crfrnn.datasets import LabelledPicture, UnaryDataset
from crfrnn.datasets.sources import Steps
from crfrnn.experiments.denormals import denormals_as_zero
from crfrnn.experiments.folder import Folder, Say, since, versions
from crfrnn.experiments.plans import DEFAULT, PLAIN, POST, Plan, Row, check_iterations
from crfrnn.io.files import write_text
from crfrnn.io.parameters import load_parameters, save_parameters
from crfrnn.training import FitConfig, TuneConfig, fit
from crfrnn.training.train import some_of

LEARNED, POTTS = "crf-rnn", "potts"


@dataclass(frozen=True)
class Fit:
    """One fit: its name, how, and settings of the CRF that differ from the experiment's."""

    name: str
    config: FitConfig
    crf: Mapping[str, Any] = field(default_factory=dict)


def unaries(config: FitConfig) -> Plan[Fit]:
    """Table 1 of the paper without the network: the unaries, a CRF behind them, and a learned one.

    Rows: argmax of the unaries; the package's default numbers; cross-validated numbers; learned from those.
    Control: learned with the compatibility kept at Potts.
    """
    return Plan(
        "unaries",
        (Fit(LEARNED, config), Fit(POTTS, replace(config, compatibility="fixed"))),
        (
            Row(PLAIN, "argmax of the unaries", PLAIN, "none"),
            Row(DEFAULT, "CRF with the package's default numbers", DEFAULT, "default"),
            Row(POST, "CRF with cross-validated numbers, as post-processing", POST, "tuned"),
            Row(LEARNED, "CRF-RNN, learned from the cross-validated numbers on", LEARNED),
            Row(POTTS, "control: learned, Potts compatibility kept", POTTS),
        ),
        PLAIN,
        LEARNED,
    )


def unary_ablations(
    config: FitConfig,
    iterations: int = 5,
    train_iterations: Sequence[int] = (1, 5, 10),
    test_iterations: Sequence[int] = (1, 5, 10),
    robustness: float = 0.01,
) -> Plan[Fit]:
    """What each part of the CRF brings on fixed unaries: fits that differ from the base in one thing.

    T in training × T in test; Potts against learned compatibility; one weight a kernel, and matrices, against
    one weight a label; fixed against learned bandwidths; ReLU against softmax; pixel cross-entropy against
    the loss of `config`, and the robust log-likelihood against that. `iterations` is the base's T.
    """
    check_iterations(train_iterations, test_iterations)
    entropy = replace(config, set_iou=0.0, set_iou_trimap=0.0, lovasz=0.0, cross_entropy=1.0, robustness=0.0)
    variants: list[tuple[Row, FitConfig, dict[str, Any]]] = [
        (Row(POTTS, "Potts compatibility", POTTS), replace(config, compatibility="fixed"), {}),
        (Row("shared-weights", "one weight a kernel for all labels", "shared-weights"),
         replace(config, share_labels=True), {}),
        (Row("matrix-weights", "a matrix of weights a kernel", "matrix-weights"), config,
         {"label_weights": "matrix"}),
        (Row("fixed-bandwidths", "fixed bandwidths", "fixed-bandwidths"), replace(config, rate_theta=0.0),
         {}),
        (Row("relu", "ReLU normalisation", "relu"), config, {"activation": "relu"}),
        (Row("cross-entropy", "cross-entropy over pixels alone", "cross-entropy"), entropy, {}),
        (Row("robust", f"robust cross-entropy, ε = {robustness:g}", "robust", against="cross-entropy"),
         replace(entropy, robustness=robustness), {}),
    ]  # fmt: skip
    fits = [Fit(LEARNED, config)]
    rows = [Row(PLAIN, "argmax of the unaries", PLAIN, "none"),
            Row(POST, "where every fit starts: cross-validated numbers", POST, "tuned"),
            Row(LEARNED, "the base: learned", LEARNED)]  # fmt: skip
    for steps in dict.fromkeys(train_iterations):
        name = LEARNED if steps == iterations else f"t{steps}"
        if name != LEARNED:
            fits.append(Fit(name, config, {"iterations": steps}))
        rows += [
            Row(f"train{steps}-test{test}", f"T = {steps} in training, {test} in test", name, "learned", test)
            for test in dict.fromkeys(test_iterations)
            if (steps, test) != (iterations, iterations)
        ]
    for row, how, settings in variants:
        fits.append(Fit(row.name, how, settings))
        rows.append(row)
    return Plan("unary-ablations", tuple(fits), tuple(rows), LEARNED, LEARNED)


@dataclass
class UnaryExperiment:
    """One folder with fits, rows and reports; whatever is finished in it is not done again.

    ``runs/NAME`` are fits (``crf.safetensors``, ``fit.csv``, ``run.json``), ``tuned.json`` the numbers that
    were cross-validated, ``rows/NAME`` a row's label maps, CRF parameters and scores.

    Attributes:
        train: pictures that the CRF is cross-validated on and learns from.
        judged: pictures of the rows; none of them may be in `train`.
        folder: made if it is not there; one begun with other data or settings is refused.
        tuning: the cross-validation; 0 trials keep the package's numbers.
        tune_pictures: cross-validate on at most so many, spread evenly.
        crf: settings of every CRF (iterations, quality, …).
        temperature: learn a divisor of the unary too, as `crfrnn fit` does.
        about: what else must be the same to go on in the folder, such as the loss.
        say, progress: called with lines, and with (what, done, in all).
    """

    train: UnaryDataset
    judged: UnaryDataset
    folder: Path
    tuning: TuneConfig = field(default_factory=TuneConfig)
    tune_pictures: int | None = None
    crf: Mapping[str, Any] = field(default_factory=dict)
    temperature: bool = True
    about: Mapping[str, Any] = field(default_factory=dict)
    say: Say | None = None
    progress: Steps | None = None

    def __post_init__(self) -> None:
        learned = {item.image_path.resolve() for item in self.train.pictures}
        both = [item.id for item in self.judged.pictures if item.image_path.resolve() in learned]
        if both:
            raise ValueError(
                f"judged: expected pictures that are not learned from, got {both[0]!r} and "
                f"{len(both) - 1} more of {len(self.judged)}; name another split, or hold a fold out"
            )
        self._files = Folder(self.folder, self.say, self.progress)
        self._files.claim({
            "train": self.train.digest(), "judged": self.judged.digest(), "tuning": asdict(self.tuning),
            "tune_pictures": self.tune_pictures, "crf": dict(self.crf), "temperature": self.temperature,
            **self.about,
        })  # fmt: skip

    @denormals_as_zero()
    def run(self, plan: Plan[Fit]) -> None:
        """Fit and judge what the plan wants and the folder does not have."""
        for row in plan.rows:
            if not self._files.finished(row):
                self._judge(plan, row)

    def numbers(self) -> dict[str, float]:
        """Bandwidths and kernel weights that serve best on the training pictures."""
        chosen = some_of(self.train.pictures, self.tune_pictures).ids
        return self._files.numbers(
            lambda: self.train.select(chosen), replace(self.tuning, settings=dict(self.crf))
        )

    def learned(self, plan: Plan[Fit], name: str) -> CRFRNN:
        """The CRF of a fit, learned if it has not been."""
        home, work = self.folder / "runs" / name, plan.run_of[name]
        if (home / "run.json").is_file():
            return load_parameters(home / "crf.safetensors").crf
        start = CRFRNN(
            self.train.num_labels, temperature=1.0 if self.temperature else None,
            **{**self.crf, **self.numbers(), **work.crf},
        )  # fmt: skip
        home.mkdir(parents=True, exist_ok=True)
        self._files.tell(f"fit {name}")
        begun, report = time.perf_counter(), self.progress
        result = fit(
            self.train, start, work.config, log=home / "fit.csv",
            report=report and (lambda what, k, done, total, _: report(f"{name}: {what} {k}", done, total)),
        )  # fmt: skip
        if result.interrupted:  # half a fit beside whole ones would not compare
            raise KeyboardInterrupt
        how = {"config": asdict(work.config), "epoch": result.best_epoch}
        names = self.train.pictures.class_names
        save_parameters(
            home / "crf.safetensors", result.crf, provenance=how,
            class_names=names if len(names) == self.train.num_labels else (),
        )  # fmt: skip
        figures = {"held_out": result.validation.figures(), "held_out_before": result.start.figures()}
        about = {"seconds": since(begun), "epoch": result.best_epoch, "seed": work.config.seed, **figures}
        write_text(home / "run.json", json.dumps({**about, **versions()}, indent=1))
        return result.crf

    def _judge(self, plan: Plan[Fit], row: Row) -> None:
        crf = None
        if row.crf == "learned":
            crf = self.learned(plan, row.run)
        elif row.crf != "none":
            numbers = self.numbers() if row.crf == "tuned" else {}
            crf = CRFRNN(self.train.num_labels, **{**self.crf, **numbers})
        position = {name: index for index, name in enumerate(self.judged.ids)}

        def labels_of(item: LabelledPicture) -> NDArray[np.int64]:
            sample = self.judged[position[item.id]]
            if crf is None:
                return sample.unary.argmax(0).numpy()
            with torch.no_grad():
                logits = crf.eval()(sample.unary[None], sample.image[None], iterations=row.iterations)
            return logits[0].argmax(0).numpy()

        about = {"experiment": plan.name, "pictures": len(self.train)}
        self._files.judge(row, self.judged.pictures, labels_of, self.train.num_labels, crf, about)
