# SPDX-License-Identifier: MIT
"""Learning a CRF by back-propagation: kernel weights, compatibility, bandwidths, temperature."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from crfrnn.crf import CRFRNN
from crfrnn.datasets import UnaryDataset, split_folds
from crfrnn.training.recipe import FitConfig
from crfrnn.training.run_files import Interrupted, StopRequest, Watch
from crfrnn.training.score import Counts, score, total
from crfrnn.training.train import lightning, run_stage


@dataclass(frozen=True)
class FitResult:
    """What fitting found.

    Attributes:
        crf: with the best parameters seen, in evaluation mode.
        validation: counts of the held-out pictures with them (in-sample without a held-out fold).
        start: the same with the parameters the fit started from.
        best_epoch: 0 = the start was never bettered.
        history: one dict per epoch, as in the CSV log.
        interrupted: Ctrl-C (or another `KeyboardInterrupt`) ended it.
    """

    crf: CRFRNN
    validation: Counts
    start: Counts
    best_epoch: int
    history: list[dict[str, Any]] = field(repr=False)
    interrupted: bool = False


def fit(
    data: UnaryDataset,
    start: CRFRNN,
    config: FitConfig = FitConfig(),  # noqa: B008 - frozen
    *,
    log: str | Path | None = None,
    report: Watch | None = None,
) -> FitResult:
    """Fit a copy of `start`; the fold ``config.fold`` of `data` is held out and chooses the epoch.

    The training run ``config.stage``, whose network is given unaries: Adam with a rate for each kind of
    parameter, no weight decay, steps of ``config.batch`` pictures of any size. Ctrl-C ends it and keeps the
    best parameters so far.

    Args:
        data: training pictures.
        start: parameters to start from, and the settings (T, methods, quality) to fit with. What it does
            not have cannot be learnt: give it ``temperature=1.0`` for a temperature, per-axis thetas for
            anisotropic bandwidths, ``label_weights="matrix"`` for matrices.
        config: see `FitConfig`.
        log: CSV file, one line per epoch, begun anew.
        report: called after every picture.

    Raises:
        KeyboardInterrupt: while the start was judged, when there is nothing to keep yet.
        ValueError: a configuration that does not fit the layer or the data.
        NotFinite: NaN or infinity, and which part made it. ImportError: no lightning.

    >>> FitConfig(epochs=3).epochs
    3
    """
    config.check(start)
    lightning()
    from crfrnn.training.checkpoint import FitFiles
    from crfrnn.training.module import UnaryModule

    crf, stop, interrupted = copy.deepcopy(start), StopRequest(), False
    training, held_out = _split(data, config)
    module = UnaryModule(crf, config, training, held_out)
    first = _judge(crf, held_out, report)
    files = FitFiles(None if log is None else Path(log), config, stop, crf, first, report)
    if config.epochs:
        try:
            with stop:
                run_stage(module, files, accelerator="cpu", logger=False, enable_progress_bar=False)
        except Interrupted:
            interrupted = True
    crf.load_state_dict(files.state)
    return FitResult(crf.eval(), files.best, first, files.best_epoch, files.history, interrupted)


def cross_fit(
    data: UnaryDataset,
    start: CRFRNN,
    config: FitConfig = FitConfig(),  # noqa: B008 - frozen
    *,
    log: str | Path | None = None,
    report: Callable[[int], Watch | None] | None = None,
) -> tuple[FitResult, list[FitResult]]:
    """Fit once per fold; the mean of the folds' parameters (bandwidths: geometric) is the result.

    Its `validation` adds up the folds' held-out counts: every picture is judged by parameters that did not
    learn from it (but whose epoch it helped to choose, so the figure is a little kind). Ctrl-C ends
    it with the mean of the folds so far.

    Args: as `fit`; `log` gets the fold's number before its ending, `report` is asked for one per fold.
    """
    parts: list[FitResult] = []
    for fold in range(config.folds):
        path = None if log is None else Path(log).with_stem(f"{Path(log).stem}-{fold}")
        told = report(fold) if report else None
        try:
            part = fit(data, start, replace(config, fold=fold), log=path, report=told)
        except KeyboardInterrupt:  # before its first epoch
            if not parts:
                raise
            parts[-1] = replace(parts[-1], interrupted=True)
            break
        parts.append(part)
        if part.interrupted:
            break
    crf = copy.deepcopy(parts[0].crf)
    states = [part.crf.state_dict() for part in parts]
    crf.load_state_dict({name: torch.stack([s[name] for s in states]).mean(0) for name in states[0]})
    history = [{"fold": fold, **line} for fold, part in enumerate(parts) for line in part.history]
    mean = FitResult(
        crf.eval(),
        total(part.validation for part in parts),
        total(part.start for part in parts),
        round(sum(part.best_epoch for part in parts) / len(parts)),
        history,
        parts[-1].interrupted,
    )
    return mean, parts


def _split(data: UnaryDataset, config: FitConfig) -> tuple[UnaryDataset, UnaryDataset]:
    if config.fold is None:
        return data, data
    parts = split_folds(data.ids, config.folds, config.seed)
    held_out = parts[config.fold]
    return data.select(i for i in data.ids if i not in set(held_out)), data.select(held_out)


def _judge(crf: CRFRNN, data: UnaryDataset, report: Watch | None) -> Counts:
    """The start of a fit on the pictures held out."""
    found: list[Counts] = []
    for sample in data:
        found.append(score(crf, data, sample))
        if report:
            report("validate", 0, len(found), len(data), total(found).loss / len(found))
    return total(found)
