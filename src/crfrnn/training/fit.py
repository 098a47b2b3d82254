# SPDX-License-Identifier: MIT
"""Fit a CRF by back-propagation: kernel weights, compatibility, bandwidths, temperature."""

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
    """The result of a fit.

    Attributes:
        crf: the layer with the best parameters found, in evaluation mode.
        validation: its counts on the held-out pictures (in-sample without a held-out fold).
        start: the same counts for the initial parameters.
        best_epoch: 0 if no epoch improved on the start.
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
    """Fit a copy of `start`; the fold ``config.fold`` of `data` is held out to select the epoch.

    This runs the training stage ``config.stage`` with given unaries in place of a network: Adam with a rate
    for each kind of parameter, no weight decay, steps of ``config.batch`` pictures of any size. Ctrl-C stops
    it and keeps the best parameters so far.

    Args:
        data: training pictures.
        start: parameters to start from, and the settings (T, methods, quality) to fit with. Only
            parameters that it has are learned: give it ``temperature=1.0`` for a temperature, per-axis thetas
            for anisotropic bandwidths, ``label_weights="matrix"`` for matrices.
        config: see `FitConfig`.
        log: CSV file, overwritten, one line per epoch.
        report: called after every picture.

    Raises:
        KeyboardInterrupt: during the evaluation of the start, before there is anything to keep.
        ValueError: a configuration that does not fit the layer or the data.
        NotFinite: NaN or infinity, naming the part that produced it. ImportError: no lightning.

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

    Its `validation` sums the folds' held-out counts: every picture is scored with parameters that were not
    trained on it (but it helped to select their epoch, so the figure is slightly optimistic). Ctrl-C stops
    it and returns the mean of the folds so far.

    Args: as `fit`; the fold's number is inserted before the ending of `log`, and `report` is called with it
    to get the fold's callback.
    """
    parts: list[FitResult] = []
    for fold in range(config.folds):
        path = None if log is None else Path(log).with_stem(f"{Path(log).stem}-{fold}")
        told = report(fold) if report else None
        try:
            part = fit(data, start, replace(config, fold=fold), log=path, report=told)
        except KeyboardInterrupt:  # before the fold's first epoch
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
    """Evaluate the start of a fit on the held-out pictures."""
    found: list[Counts] = []
    for sample in data:
        found.append(score(crf, data, sample))
        if report:
            report("validate", 0, len(found), len(data), total(found).loss / len(found))
    return total(found)
