# SPDX-License-Identifier: MIT
"""Comparison of refiners on one data set: parameter search, evaluation, timing."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from crfrnn.crf import CRFRNN
from crfrnn.datasets import UnaryDataset
from crfrnn.datasets.sources import Steps
from crfrnn.evaluation import Evaluation, Evaluator, confusion_matrix, trimap_bins, trimap_confusion
from crfrnn.experiments.cost import peak_memory
from crfrnn.experiments.experiment import Say, claim, denormals_as_zero, versions
from crfrnn.experiments.refiners import NAMES, OURS, Refiner, Scene, after_crf, learned, refiner
from crfrnn.experiments.refiners.refiner import Numbers, Range
from crfrnn.extras import optional
from crfrnn.io import VOID
from crfrnn.io.arrays import read_arrays
from crfrnn.io.files import atomic
from crfrnn.io.parameters import load_parameters, save_parameters
from crfrnn.lattice.validate import check_choice
from crfrnn.training import FitConfig, fit
from crfrnn.training.config import Count, Number, configuration
from crfrnn.training.score import TRIMAP_WIDTH, Counts, total
from crfrnn.training.study_file import STUDY, open_storage, worded

SMALL = 64  # side in pixels of a warm-up
_ROOM = 2**30  # bytes of scenes to keep in memory
_ABOUT = "about"
_WHOLE, _FOCUS = "whole", "focus"  # evaluated on all labels, and on one against the rest


@configuration
class RefinementConfig:
    """Settings of the comparison.

    Attributes:
        methods: their names, from `NAMES`.
        trials: settings tried in the search of each method, starting with the published numbers.
        tune_pictures: most training pictures for the search, spread evenly.
        fit_pictures, epochs: for the CRF learned by back-propagation; None: all.
        seed: seed of trials and order.
        focus: the label that methods for two labels separate from the rest.
        least: labels whose probability is below this everywhere in a picture are removed, for all methods.
    """

    methods: tuple[str, ...] = NAMES
    trials: Number = 30
    tune_pictures: Number = 60
    fit_pictures: Number | None = None
    epochs: Count = 2
    seed: int = 0
    focus: Count = 1
    least: Annotated[float, Field(gt=0, lt=0.5)] = 0.01

    def __post_init__(self) -> None:
        for name in self.methods:
            check_choice("methods", name, NAMES)


@dataclass(frozen=True)
class Source:
    """Scores of one kind, for training and for evaluation; `crf`: used instead of a CRF learned here."""

    train: UnaryDataset
    judged: UnaryDataset
    crf: Path | None = None


class Refinement:
    """The comparison; finished work in the folder is not repeated.

    ``SOURCE/METHOD.npz`` holds a method's label maps, counts, numbers, seconds and memory;
    ``SOURCE/METHOD.journal`` the trials of a search.

    Args:
        sources: by name.
        folder: created if missing; one started with other data or settings is rejected.
        config: see `RefinementConfig`.
        say, progress: called with lines, and with (what, done, total).
    """

    def __init__(
        self, sources: Mapping[str, Source], folder: Path, config: RefinementConfig, *,
        say: Say | None = None, progress: Steps | None = None,
    ) -> None:  # fmt: skip
        self.sources, self.folder, self.config = dict(sources), folder, config
        self.say, self.progress = say, progress
        for source in sources.values():
            if not 0 <= config.focus < source.train.num_labels:
                raise ValueError(
                    f"focus: expected a label below {source.train.num_labels}, got {config.focus}"
                )
        # Methods and sources may be added to a folder; existing results stay comparable.
        same = {name: value for name, value in vars(config).items() if name != "methods"}
        claim(folder, same, ("refinement.md", *self.sources))

    def run(self) -> None:
        """Search and evaluate the parts that are missing in the folder."""
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with denormals_as_zero():
                for name, source in self.sources.items():
                    self._run(name, source)
        finally:
            torch.set_num_threads(threads)

    def _run(self, name: str, source: Source) -> None:
        home = self.folder / name
        scores = {"train": source.train.digest(), "judged": source.judged.digest()}
        claim(home, scores, (f"{method}.npz" for method in NAMES))
        tuning = Scenes(source.train, source.train.pictures.some(self.config.tune_pictures).ids, self.config)
        judged = Scenes(source.judged, source.judged.ids, self.config)
        for method in self.config.methods:
            if not result_file(home, method).is_file():
                self.tell(f"{name}: {method}")
                begun = time.perf_counter()
                found = self._refiner(home, source, tuning, method)
                numbers, trials = self._search(home, found, tuning)
                about = {"searching": round(time.perf_counter() - begun, 1), "trials": trials}
                self._judge(home, found, numbers, judged, about)

    def _refiner(self, home: Path, source: Source, tuning: Scenes, method: str) -> Refiner:
        """The refiner of a method; the search of the CRF's numbers is run if the method needs them."""
        if method == "crfrnn-rankseg":
            return after_crf(self._search(home, refiner(OURS), tuning)[0])
        if method != "crfrnn-learned":
            return refiner(method)
        known = home / "crf.safetensors"
        if not known.is_file() and source.crf is not None:
            given = load_parameters(source.crf)
            save_parameters(
                known, given.crf, class_names=given.class_names, provenance={"file": source.crf.name}
            )
        if not known.is_file():
            numbers = self._search(home, refiner(OURS), tuning)[0]
            start = CRFRNN(source.train.num_labels, **numbers, temperature=1.0)
            some = source.train.select(source.train.pictures.some(self.config.fit_pictures).ids)
            how = FitConfig(epochs=self.config.epochs, seed=self.config.seed, fold=None, select="last")
            result = fit(some, start, how, log=home / "fit.csv", report=self._watch(method))
            if result.interrupted:
                raise KeyboardInterrupt
            save_parameters(known, result.crf, provenance={"pictures": len(some), "epochs": how.epochs})
        crf = load_parameters(known).crf
        if crf.num_labels != source.train.num_labels:
            raise ValueError(
                f"learned: expected a CRF of {source.train.num_labels} labels, got {crf.num_labels} in "
                f"{str(known)!r}; name another file"
            )
        return learned(crf)

    def _search(self, home: Path, found: Refiner, scenes: Scenes) -> tuple[Numbers, list[dict[str, Any]]]:
        """The best numbers on the training pictures, and all trials, best first."""
        if not found.space or self.config.trials < 2:
            return found.start, []
        optuna = optional("optuna", "train", "the search")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        logging.getLogger("optuna.study").setLevel(logging.ERROR)  # silences the trial stopped by Ctrl-C
        kept = home / f"{found.name}.journal"
        with worded(optuna, kept, opening=True):
            study = optuna.create_study(
                study_name=STUDY,
                storage=open_storage(optuna, kept),
                direction="maximize",
                load_if_exists=True,
            )
        ended = (optuna.trial.TrialState.COMPLETE,)
        done = len(study.get_trials(deepcopy=False, states=ended))
        # Start with random draws, as many as a short search can afford.
        study.sampler = optuna.samplers.TPESampler(
            seed=self.config.seed + done, n_startup_trials=max(2, self.config.trials // 3), multivariate=True
        )
        if not study.trials:
            study.enqueue_trial(dict(found.start))

        def objective(trial: Any) -> float:
            numbers = suggested(trial, found)
            return self._figure(found, numbers, scenes, f"{found.name}: trial {trial.number}")

        if done < self.config.trials:
            study.optimize(objective, n_trials=self.config.trials - done)
        ranked = sorted(
            study.get_trials(deepcopy=False, states=ended), key=lambda trial: (-trial.value, trial.number)
        )
        listed = [{"trial": trial.number, "figure": trial.value, **trial.params} for trial in ranked]
        return dict(ranked[0].params), listed

    def _figure(self, found: Refiner, numbers: Numbers, scenes: Scenes, what: str) -> float:
        """The mean of mean IU and trimap IU, over all labels or for the label that the method separates."""
        counts = []
        for done, (scene, truth) in enumerate(scenes, 1):
            labels = found.labels(scene, numbers)
            count = scenes.data.num_labels
            bins = scenes.bins(scene.id, truth)
            if found.two_labels:
                labels, truth, count = focused(labels, scene.focus), focused(truth, scene.focus), 2
            near = trimap_confusion(truth, labels, count, TRIMAP_WIDTH, bins=bins)[-1]
            counts.append(Counts(confusion_matrix(truth, labels, count), near, 0.0))
            if self.progress:
                self.progress(what, done, len(scenes))
        return total(counts).selection("both")

    def _judge(
        self, home: Path, found: Refiner, numbers: Numbers, scenes: Scenes, about: Mapping[str, Any]
    ) -> None:
        """Evaluate a method and write its file."""
        names = scenes.data.pictures.class_names
        whole = Evaluator(scenes.data.num_labels, class_names=names)
        focus = Evaluator(2, class_names=("rest", names[self.config.focus]) if names else ())
        maps: dict[str, NDArray[np.uint8]] = {}
        processor = wall = 0.0
        first: Scene | None = None
        for done, (scene, truth) in enumerate(scenes, 1):
            if first is None:
                first = scene
                found.labels(scene.corner(SMALL), numbers)  # exclude imports from the time
            begun = time.perf_counter(), time.process_time()
            labels = found.labels(scene, numbers)
            wall, processor = (
                wall + time.perf_counter() - begun[0],
                processor + time.process_time() - begun[1],
            )
            whole.update(scene.id, truth, {found.name: labels})
            pair = {found.name: focused(labels, scene.focus)}
            focus.update(scene.id, focused(truth, scene.focus), pair)
            maps[scene.id] = labels.astype(np.uint8)
            if self.progress:
                self.progress(f"{found.name}: judge", done, len(scenes))
        assert first is not None
        small, large = (partial(found.labels, scene, numbers) for scene in (first.corner(SMALL), first))
        about = {
            "method": found.name, "title": found.title, "source": found.source, "numbers": dict(numbers),
            "two_labels": found.two_labels, "seconds": processor / len(maps), "wall": wall / len(maps),
            "memory": peak_memory(small, large), "pictures": len(maps), **about, **versions(),
        }  # fmt: skip
        write_result(result_file(home, found.name), about, whole.compute(), focus.compute(), maps)

    def _watch(self, method: str) -> Callable[[str, int, int, int, float], None] | None:
        report = self.progress
        return report and (lambda what, k, done, count, _: report(f"{method}: {what} {k}", done, count))

    def tell(self, line: str) -> None:
        if self.say:
            self.say(line)


class Scenes:
    """Scenes with their truths, in order; up to a GiB of them is cached."""

    def __init__(self, data: UnaryDataset, ids: tuple[str, ...], config: RefinementConfig) -> None:
        self.data, self.ids, self.config = data.select(ids), ids, config
        self._kept: dict[str, tuple[Scene, NDArray[np.int64]]] = {}
        self._bins: dict[str, NDArray[np.uint8]] = {}
        self._room = _ROOM

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[tuple[Scene, NDArray[np.int64]]]:
        for index, name in enumerate(self.ids):
            yield self._kept[name] if name in self._kept else self._make(index)

    def bins(self, name: str, truth: NDArray[np.int64]) -> NDArray[np.int64]:
        """`trimap_bins` of a truth, cached."""
        if name not in self._bins:
            self._bins[name] = trimap_bins(truth, TRIMAP_WIDTH).astype(np.uint8)
        return self._bins[name].astype(np.int64)

    def _make(self, index: int) -> tuple[Scene, NDArray[np.int64]]:
        sample = self.data[index]
        image = sample.image.permute(1, 2, 0).numpy()
        scene = Scene.of(sample.id, image, sample.unary, self.config.focus, self.config.least)
        pair = scene, sample.truth.numpy()
        size = scene.logits.nbytes + scene.image.nbytes + pair[1].nbytes
        if size <= self._room:
            self._room -= size
            self._kept[sample.id] = pair
        return pair


def suggested(trial: Any, found: Refiner) -> dict[str, Any]:
    """The numbers of a trial."""
    numbers: dict[str, Any] = {}
    for name, ends in found.space.items():
        if not isinstance(ends, Range):
            numbers[name] = trial.suggest_categorical(name, ends)
        elif ends.whole:
            numbers[name] = trial.suggest_int(name, round(ends.low), round(ends.high), log=ends.log)
        else:
            numbers[name] = trial.suggest_float(name, ends.low, ends.high, log=ends.log)
    return numbers


def focused(labels: NDArray[Any], focus: int) -> NDArray[np.int64]:
    """1 where the label is `focus`, 0 elsewhere; void is kept.

    >>> focused(np.array([0, 15, 255]), 15).tolist()
    [0, 1, 255]
    """
    return np.where(labels == VOID, VOID, labels == focus).astype(np.int64)


def result_file(home: Path, method: str) -> Path:
    return home / f"{method}.npz"


def write_result(
    path: Path, about: Mapping[str, Any], whole: Evaluation, focus: Evaluation,
    maps: Mapping[str, NDArray[np.uint8]],
) -> None:  # fmt: skip
    """Write one method's file atomically: a description as JSON, its counts per picture, its label maps."""
    method = str(about["method"])
    arrays: dict[str, Any] = {_ABOUT: np.frombuffer(json.dumps(about).encode(), np.uint8)}
    for part, result in ((_WHOLE, whole), (_FOCUS, focus)):
        arrays[f"{part}/curve"] = result.curves[method]
        arrays |= {f"{part}/{kind}": counts for kind, counts in result.counts[method].items()}
    arrays |= {f"labels/{name}": labels for name, labels in maps.items()}
    with atomic(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, **arrays)


@dataclass(frozen=True)
class Result:
    """The content of one method's file."""

    about: dict[str, Any]
    counts: dict[str, dict[str, NDArray[Any]]]  # "whole" | "focus" → kind → counts
    maps: dict[str, NDArray[np.uint8]]


def read_result(path: Path) -> Result:
    """Read a method's file; ValueError if it is damaged or not from this experiment."""
    arrays = read_arrays(path, "result")
    about = json.loads(arrays.pop(_ABOUT, np.frombuffer(b"{}", np.uint8)).tobytes())
    if "method" not in about:
        raise ValueError(f"result: expected a method's file in {path}, got another; remove it")
    parts: dict[str, dict[str, NDArray[Any]]] = {_WHOLE: {}, _FOCUS: {}, "labels": {}}
    for name, values in arrays.items():
        part, _, rest = name.partition("/")
        parts[part][rest] = values
    return Result(about, {part: parts[part] for part in (_WHOLE, _FOCUS)}, parts["labels"])
