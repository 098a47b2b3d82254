# SPDX-License-Identifier: MIT
"""Learning a CRF by back-propagation: kernel weights, compatibility, bandwidths, temperature."""

from __future__ import annotations

import copy
import csv
import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from crfrnn.crf import CRFRNN
from crfrnn.datasets import Sample, UnaryDataset, split_folds
from crfrnn.training.objective import Objective, constrain_gradients
from crfrnn.training.recipe import FitConfig
from crfrnn.training.score import Counts, score, total

WARM_UP = 8  # steps in which the rates rise: Adam's first steps know little about scale

# (what is done: "fit" or "validate", epoch, pictures done, pictures in all, loss or figure so far)
Report = Callable[[str, int, int, int, float], None]


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
    report: Report | None = None,
) -> FitResult:
    """Fit a copy of `start`; the fold ``config.fold`` of `data` is held out and chooses the epoch.

    Adam with a rate for each kind of parameter, no weight decay, gradients summed over ``config.batch``
    pictures of any size. Ctrl-C ends the fit and keeps the best parameters so far.

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
        ValueError: a configuration that does not fit the layer or the data, or a loss that is not finite.

    >>> import numpy as np, torch
    >>> FitConfig(epochs=3).epochs
    3
    """
    config.check(start)
    crf = copy.deepcopy(start)
    training, held_out = _split(data, config)
    objective = Objective(training, crf, config)
    optimiser = torch.optim.Adam(_groups(crf, config), betas=(0.8, 0.98))
    steps = max(1, math.ceil(len(training) / config.batch) * config.epochs)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser,
        lambda step: min(1.0, (step + 1) / WARM_UP) * (_cosine(step / steps) if config.cosine else 1.0),
    )
    order = random.Random(config.seed)
    history: list[dict[str, Any]] = []
    best = first = _validate(crf, held_out, 0, report)
    best_state, best_epoch, interrupted = copy.deepcopy(crf.state_dict()), 0, False
    with _Log(log) as lines:
        history.append(lines.write(_line(0, float("nan"), first, crf, 0.0)))
        try:
            for epoch in range(1, config.epochs + 1):
                begun = time.perf_counter()
                crf.train()
                losses: list[float] = []
                for batch in _batches(training, config, order):
                    optimiser.zero_grad()
                    for index, corner in batch:
                        loss = _backward(crf, training[index], corner, objective, len(batch))
                        losses.append(loss)
                        if report:
                            report("fit", epoch, len(losses), len(training), sum(losses) / len(losses))
                    objective.anchor()
                    constrain_gradients(crf, config)
                    optimiser.step()
                    schedule.step()
                now = _validate(crf, held_out, epoch, report)
                if config.select == "last" or now.selection(config.select) > best.selection(config.select):
                    best, best_epoch, best_state = now, epoch, copy.deepcopy(crf.state_dict())
                took = time.perf_counter() - begun
                history.append(lines.write(_line(epoch, sum(losses) / len(losses), now, crf, took)))
                if epoch - best_epoch >= config.patience:
                    break
        except KeyboardInterrupt:
            interrupted = True
    crf.load_state_dict(best_state)
    return FitResult(crf.eval(), best, first, best_epoch, history, interrupted)


def cross_fit(
    data: UnaryDataset,
    start: CRFRNN,
    config: FitConfig = FitConfig(),  # noqa: B008 - frozen
    *,
    log: str | Path | None = None,
    report: Callable[[int], Report | None] | None = None,
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


def _cosine(share: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))


def _groups(crf: CRFRNN, config: FitConfig) -> list[dict[str, Any]]:
    """Parameter groups by kind; what is frozen (rate 0 or named) is in none."""
    rates = {
        "spatial_weights": config.rate_weights,
        "bilateral_weights": config.rate_weights,
        "compatibility": 0.0 if config.compatibility == "fixed" else config.rate_compatibility,
        "log_temperature": config.rate_temperature,
    }
    groups = []
    for name, parameter in crf.named_parameters():
        rate = 0.0 if name in config.freeze else rates.get(name, config.rate_theta)
        parameter.requires_grad_(rate > 0)
        if rate > 0:
            groups.append({"params": [parameter], "lr": rate})
    if not groups:
        raise ValueError("config: expected something to learn, got every rate 0 or every parameter frozen")
    return groups


def _batches(
    data: UnaryDataset, config: FitConfig, order: random.Random
) -> Iterator[list[tuple[int, tuple[float, float]]]]:
    """Indices with a random corner for the crop; drawn without crops too, to keep the order."""
    indices = list(range(len(data)))
    order.shuffle(indices)
    drawn = [(index, (order.random(), order.random())) for index in indices]
    return (drawn[i : i + config.batch] for i in range(0, len(drawn), config.batch))


def _backward(
    crf: CRFRNN, sample: Sample, corner: tuple[float, float], objective: Objective, batch: int
) -> float:
    cut, target = objective.prepare(sample, corner)
    loss = objective(crf(cut.unary[None], cut.image[None])[0], target)
    value = float(loss.detach())
    if not math.isfinite(value):
        raise ValueError(
            f"loss: expected a finite number, got {value} on picture {sample.id!r}; lower the rates "
            "(rate_theta first) or start nearer"
        )
    (loss / batch).backward()
    return value


def _validate(crf: CRFRNN, data: UnaryDataset, epoch: int, report: Report | None) -> Counts:
    found: Counts | None = None
    for index in range(len(data)):
        part = score(crf, data, index)
        found = part if found is None else found + part
        if report:
            report("validate", epoch, index + 1, len(data), found.loss / found.pictures)
    return total([found] if found else [])


def _line(epoch: int, loss: float, counts: Counts, crf: CRFRNN, seconds: float) -> dict[str, Any]:
    line: dict[str, Any] = {"epoch": epoch, "train_loss": loss}
    line |= {f"validation_{name}": value for name, value in counts.figures().items()}
    for name, parameter in crf.named_parameters():
        values: Tensor = parameter.detach()
        shown = values.exp() if name.startswith("log_") else values
        if name == "compatibility" or values.ndim == 2:
            shown = shown.diagonal()
        line[f"mean_{name.removeprefix('log_')}"] = float(shown.mean())
    return {**line, "seconds": round(seconds, 2)}


class _Log:
    """The CSV log: a line is on disk as soon as it is written."""

    def __init__(self, path: str | Path | None) -> None:
        self._path = path
        self._stream: IO[str] | None = None

    def __enter__(self) -> _Log:
        if self._path is not None:
            self._stream = open(self._path, "w", newline="", encoding="utf-8")
        return self

    def __exit__(self, *_: object) -> None:
        if self._stream:
            self._stream.close()

    def write(self, line: dict[str, Any]) -> dict[str, Any]:
        if self._stream:
            writer = csv.DictWriter(self._stream, list(line))
            if not self._stream.tell():
                writer.writeheader()
            writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in line.items()})
            self._stream.flush()
        return line
