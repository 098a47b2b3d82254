# SPDX-License-Identifier: MIT
"""The variation of a data-set figure with the choice of pictures: the percentile bootstrap over pictures."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Metric = Callable[[NDArray[Any]], NDArray[Any]]
Runs = Literal["kept", "drawn"]
_CHUNK_BYTES = 2**26


@dataclass(frozen=True)
class Interval:
    """A figure and its bootstrap interval.

    Attributes:
        value: the figure on the data.
        low, high: the percentiles (1 ± level) / 2 of the resamples.
        level: the confidence level.
    """

    value: float
    low: float
    high: float
    level: float = 0.95

    @property
    def clear_of_zero(self) -> bool:
        return self.low > 0 or self.high < 0

    def percent(self, digits: int = 2) -> str:
        """``68.53 [67.01, 69.95]``, or ``–`` if there was nothing to measure."""
        if math.isnan(self.value):
            return "–"
        value, low, high = (f"{100 * x:.{digits}f}" for x in (self.value, self.low, self.high))
        return f"{value} [{low}, {high}]"


def bootstrap(
    counts: NDArray[Any], metric: Metric, *, samples: int = 2000, level: float = 0.95, seed: int = 0,
    runs: Runs | None = None,
) -> Interval:  # fmt: skip
    """Bootstrap interval of a metric of summed counts, drawing pictures with replacement.

    Args:
        counts: [pictures, ...], each picture's contribution, such as a confusion matrix.
        metric: summed counts [samples, ...] → [samples], such as `crfrnn.evaluation.mean_iu_of_truth`.
        samples: resamples of the picture set.
        level: confidence level in (0, 1).
        seed: seed of the generator; the same seed draws the same pictures for every method and metric.
        runs: for counts [pictures, runs, ...], such as trainings from several seeds, the metric is averaged
        over the runs. "kept": the interval is for these runs; "drawn": runs are also drawn with
        replacement, and the interval covers other runs of the same kind, as far as a few runs show.

    Raises:
        ValueError: no pictures, no samples, a level outside (0, 1), no axis of runs.

    Source: Efron & Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.

    >>> matrices = np.array([[[3, 1], [0, 4]], [[2, 0], [2, 4]]])
    >>> from crfrnn.evaluation import pixel_accuracy
    >>> bootstrap(matrices, pixel_accuracy).percent()
    '81.25 [75.00, 87.50]'
    """
    counts = _check(counts, "counts", samples, level, runs)
    value = _averaged(metric, runs, None)(counts.sum(0)[None])[0]
    return _interval(value, _resampled(counts, metric, samples, seed, runs), level)


def paired_bootstrap(
    counts: NDArray[Any],
    baseline: NDArray[Any],
    metric: Metric,
    *,
    samples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
    runs: Runs | None = None,
) -> Interval:
    """Interval of ``metric(counts) - metric(baseline)``, both on the same drawn pictures.

    Args:
        counts, baseline: [pictures, ...] of two methods on the same pictures in the same order.
        metric, samples, level, seed, runs: as in `bootstrap`; the drawn runs are the same for both.

    >>> from crfrnn.evaluation import pixel_accuracy
    >>> better, worse = np.array([[[4, 0], [0, 4]]] * 3), np.array([[[3, 1], [0, 4]]] * 3)
    >>> paired_bootstrap(better, worse, pixel_accuracy).clear_of_zero
    True
    """
    ours, theirs = (
        _check(part, name, samples, level, runs)
        for part, name in ((counts, "counts"), (baseline, "baseline"))
    )
    if ours.shape != theirs.shape:
        raise ValueError(
            f"baseline: expected shape {ours.shape} as counts has, got {theirs.shape}; "
            "both methods must be evaluated on the same pictures"
        )
    whole = _averaged(metric, runs, None)
    value = whole(ours.sum(0)[None])[0] - whole(theirs.sum(0)[None])[0]
    drawn = (_resampled(part, metric, samples, seed, runs) for part in (ours, theirs))
    return _interval(value, next(drawn) - next(drawn), level)


def _averaged(metric: Metric, runs: Runs | None, shares: NDArray[Any] | None) -> Metric:
    """The metric, or its mean over runs, weighted by shares [samples, runs] if given."""
    if runs is None:
        return metric

    def averaged(summed: NDArray[Any]) -> NDArray[Any]:
        each = np.stack([metric(summed[:, run]) for run in range(summed.shape[1])], 1)
        return each.mean(1) if shares is None else (each * shares).sum(1)

    return averaged


def _resampled(
    counts: NDArray[Any], metric: Metric, samples: int, seed: int, runs: Runs | None
) -> NDArray[np.float64]:
    """The metric of every resample: sums are multiplicities @ counts, in chunks of about 64 MiB."""
    pictures = len(counts)
    flat = counts.reshape(pictures, -1).astype(np.float64)  # exact: counts stay far below 2^53
    rng, other = np.random.default_rng(seed), np.random.default_rng((seed, 1))
    portion = max(1, _CHUNK_BYTES // (8 * max(flat.shape[1], pictures)))
    values = []
    for start in range(0, samples, portion):
        size = min(portion, samples - start)
        multiplicity = rng.multinomial(pictures, np.full(pictures, 1 / pictures), size=size)
        sums = multiplicity.astype(np.float64) @ flat
        shares = None
        if runs == "drawn":
            count = counts.shape[1]
            shares = other.multinomial(count, np.full(count, 1 / count), size=size) / count
        figure = _averaged(metric, runs, shares)
        values.append(np.asarray(figure(sums.reshape(size, *counts.shape[1:])), np.float64))
    return np.concatenate(values)


def _interval(value: Any, drawn: NDArray[np.float64], level: float) -> Interval:
    low, high = (
        np.nanquantile(drawn, [(1 - level) / 2, (1 + level) / 2])
        if not np.isnan(drawn).all()
        else [np.nan] * 2
    )
    return Interval(float(value), float(low), float(high), level)


def _check(counts: NDArray[Any], name: str, samples: int, level: float, runs: Runs | None) -> NDArray[Any]:
    counts = np.asarray(counts)
    if runs not in (None, "kept", "drawn"):
        raise ValueError(f"runs: expected None, 'kept' or 'drawn', got {runs!r}")
    if runs is not None and (counts.ndim < 3 or counts.shape[1] == 0):
        raise ValueError(f"{name}: expected [pictures, runs, ...], got shape {counts.shape}")
    if counts.ndim < 2 or len(counts) == 0:
        raise ValueError(
            f"{name}: expected [pictures, ...] with at least one picture, got shape {counts.shape}"
        )
    if samples < 1:
        raise ValueError(f"samples: expected at least 1, got {samples}; 2000 is usual")
    if not 0 < level < 1:
        raise ValueError(f"level: expected a number in (0, 1), got {level}; 0.95 is usual")
    return counts
