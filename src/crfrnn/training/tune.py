# SPDX-License-Identifier: MIT
"""The paper's cross-validation: a search of bandwidths and kernel weights with Optuna."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field

from crfrnn.crf import CRFRNN
from crfrnn.crf.presets import PRESETS
from crfrnn.datasets import UnaryDataset, split_folds
from crfrnn.extras import optional
from crfrnn.training.config import Count, configuration
from crfrnn.training.run_files import Watch
from crfrnn.training.score import Counts, Metric, score, total
from crfrnn.training.study_file import STUDY, open_storage, worded

if TYPE_CHECKING:
    import optuna

# Widths in pixels and colour steps; all are searched on a logarithmic scale.
RANGES: dict[str, tuple[float, float]] = {
    "theta_alpha": (8.0, 200.0),
    "theta_beta": (1.5, 40.0),
    "theta_gamma": (0.5, 12.0),
    "spatial_weight": (0.1, 20.0),
    "bilateral_weight": (0.1, 30.0),
    "temperature": (0.25, 6.0),
}
FIXED = {"temperature": 1.0}  # value for presets, which have no temperature


@configuration
class TuneConfig:
    """Settings of a search.

    Attributes:
        trials: total number of settings to try, including those of a resumed study.
        folds, seed: parts of the pictures; the seed draws the folds and the trials.
        metric: "mean_iu", "trimap_iu", "both" (their mean) or "loss".
        prune: stop a trial that, after a fold, is below the median of the earlier ones.
        ranges: low and high of each number; omit one to keep the layer's default.
        settings: further arguments of `CRFRNN` (iterations, quality, normalization, …).
    """

    trials: Count = 60
    folds: Annotated[int, Field(strict=True, ge=2)] = 5
    seed: int = 0
    metric: Metric = "both"
    prune: bool = True
    ranges: dict[str, tuple[float, float]] = field(default_factory=lambda: dict(RANGES))
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, (low, high) in self.ranges.items():
            if name not in RANGES or not 0 < low <= high < float("inf"):
                raise ValueError(
                    f"ranges: expected 0 < low ≤ high for {', '.join(RANGES)}, got {name!r}: ({low}, {high})"
                )


@dataclass(frozen=True)
class TuneResult:
    """The result of a search.

    Attributes:
        crf: the layer with the best numbers over all pictures, in evaluation mode.
        numbers: these numbers.
        counts: their counts on all pictures: in-sample, so optimistic.
        validation: sum over folds, each scored with the numbers that are best on the other folds.
        trials: finished trials, best first: numbers and figure.
        interrupted: Ctrl-C (or another `KeyboardInterrupt`) ended it.
    """

    crf: CRFRNN
    numbers: dict[str, float]
    counts: Counts
    validation: Counts
    trials: list[dict[str, Any]] = field(repr=False)
    interrupted: bool = False


def tune(
    data: UnaryDataset,
    config: TuneConfig | None = None,
    *,
    study: str | Path | None = None,
    report: Watch | None = None,
) -> TuneResult:
    """Search bandwidths, kernel weights and temperature for the best figure on `data`.

    The numbers are the same for all labels, as in the papers' cross-validation; `fit` can continue from it.

    Args:
        data: training pictures.
        config: see `TuneConfig`.
        study: file for the trials (``.db``, ``.sqlite``: SQLite; else an Optuna journal); an existing study
            is resumed, so an interrupted search loses one trial.
        report: called after every picture.

    Raises:
        KeyboardInterrupt: before any trial was finished.
        ValueError: an invalid configuration, a study of other data or ranges.
        ImportError: optuna is not installed.
    """
    config = config or TuneConfig()
    if config.trials < 1:
        raise ValueError("trials: expected at least 1, got 0")
    optuna = optional("optuna", "train", "tuning")
    parts = split_folds(data.ids, config.folds, config.seed)
    position = {name: index for index, name in enumerate(data.ids)}
    kept = None if study is None else Path(study)
    with worded(optuna, kept, opening=True):
        search = _open(optuna, kept, config, data)
    interrupted = False

    def objective(trial: optuna.Trial) -> float:
        numbers = {
            name: trial.suggest_float(name, low, high, log=True)
            for name, (low, high) in config.ranges.items()
        }
        crf = _layer(data.num_labels, numbers, config)
        folds: list[Counts] = []
        done = 0
        for fold, ids in enumerate(parts):
            counts: list[Counts] = []
            for name in ids:
                counts.append(score(crf, data, data[position[name]]))
                done += 1
                if report:
                    sofar = total([*folds, *counts]).figures()["mean_iu"]
                    report("tune", trial.number, done, len(data), sofar)
            folds.append(total(counts))
            trial.report(total(folds).selection(config.metric), fold)
            if config.prune and fold + 1 < len(parts) and trial.should_prune():
                raise optuna.TrialPruned
        trial.set_user_attr("folds", json.dumps([_pack(part) for part in folds]))
        return total(folds).selection(config.metric)

    ended = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
    left = config.trials - len(search.get_trials(deepcopy=False, states=ended))
    try:
        if left > 0:
            with worded(optuna, kept):
                search.optimize(objective, n_trials=left)
    except KeyboardInterrupt:
        interrupted = True
    complete = search.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    if not complete and interrupted:
        raise KeyboardInterrupt
    if not complete:
        raise ValueError("study: expected at least one finished trial, got none; let it run longer")
    return _result(complete, config, data.num_labels, interrupted)


def _result(complete: list[Any], config: TuneConfig, num_labels: int, interrupted: bool) -> TuneResult:
    ranked = sorted(complete, key=lambda trial: (-trial.value, trial.number))
    table = {
        trial.number: [_unpack(part) for part in json.loads(trial.user_attrs["folds"])] for trial in ranked
    }
    judged = []
    for fold in range(config.folds):
        others = {
            number: total(part for k, part in enumerate(folds) if k != fold).selection(config.metric)
            for number, folds in table.items()
        }
        judged.append(table[max(others, key=lambda number: others[number])][fold])
    numbers = dict(ranked[0].params)
    return TuneResult(
        _layer(num_labels, numbers, config).eval(),
        numbers,
        total(table[ranked[0].number]),
        total(judged),
        [{"trial": t.number, config.metric: t.value, **t.params} for t in ranked],
        interrupted,
    )


def _layer(num_labels: int, numbers: dict[str, float], config: TuneConfig) -> CRFRNN:
    return CRFRNN(num_labels, **{**numbers, **config.settings}).eval()


def _open(optuna: Any, study: Path | None, config: TuneConfig, data: UnaryDataset) -> Any:
    """The study, new or resumed; the presets are its first trials."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # it warns while waiting for a lock
    logging.getLogger("optuna.study").setLevel(logging.ERROR)  # suppresses the traceback of a stopped trial
    storage = None if study is None else open_storage(optuna, study)
    found = optuna.create_study(
        study_name=STUDY, storage=storage, direction="maximize", load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=8),
    )  # fmt: skip
    # A resumed search must not repeat the draws of the first one.
    found.sampler = optuna.samplers.TPESampler(seed=config.seed + len(found.trials), multivariate=True)
    about = {
        "metric": config.metric, "folds": config.folds, "seed": config.seed, "data": data.digest(),
        "ranges": json.dumps({k: list(v) for k, v in config.ranges.items()}),
        "settings": json.dumps(config.settings),
    }  # fmt: skip
    known = found.user_attrs
    if known:
        other = [key for key, value in about.items() if known.get(key) != value]
        if other:
            raise ValueError(
                f"study: expected a study with the same {', '.join(other)} in {str(study)!r}, "
                f"got {known.get(other[0])!r} instead of {about[other[0]]!r}; name a new file"
            )
        return found
    for key, value in about.items():
        found.set_user_attr(key, value)
    for preset in PRESETS.values():
        if preset.normalization != "after":  # its numbers are for another scale of the messages
            continue
        start = {**FIXED, **{k: v for k, v in preset._asdict().items() if np.isscalar(v)}}
        inside = {
            name: min(max(float(start[name]), low), high)
            for name, (low, high) in config.ranges.items()
            if name in start
        }
        found.enqueue_trial(inside, skip_if_exists=True)
    return found


def _pack(counts: Counts) -> dict[str, Any]:
    return {
        "confusion": counts.confusion.tolist(), "trimap": counts.trimap.tolist(),
        "loss": counts.loss, "pictures": counts.pictures,
    }  # fmt: skip


def _unpack(parts: dict[str, Any]) -> Counts:
    return Counts(np.array(parts["confusion"]), np.array(parts["trimap"]), parts["loss"], parts["pictures"])
