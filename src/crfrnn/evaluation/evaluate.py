# SPDX-License-Identifier: MIT
"""Comparison of methods on the same pictures: every metric, its interval, paired differences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crfrnn.evaluation import boundary, confusion, tables
from crfrnn.evaluation.bootstrap import Interval, Metric, bootstrap, paired_bootstrap
from crfrnn.evaluation.metrics import METRICS
from crfrnn.io import VOID
from crfrnn.io.files import PathLike, write_text
from crfrnn.lattice.validate import check_choice, warn


@dataclass
class _Tally:
    """One method's counts per picture, and its trimap curve summed over pictures."""

    confusion: list[NDArray[Any]] = field(default_factory=list)
    trimap: list[NDArray[Any]] = field(default_factory=list)
    boundary_iou: list[NDArray[Any]] = field(default_factory=list)
    boundary_f: list[NDArray[Any]] = field(default_factory=list)
    curve: Any = 0


class Evaluator:
    """Counts pictures one by one: `update`, then `compute`.

    Args:
        num_labels: L.
        class_names: a name per label for the tables; numbers by default.
        trimap_width: w of the trimap figures, in pixels.
        max_width: the trimap curve goes from 1 to this width.
        void: the value of truth pixels that do not count.

    >>> evaluator = Evaluator(2)
    >>> truth = np.array([[0, 255, 1, 1]])
    >>> evaluator.update("a", truth, {"plain": np.array([[0, 0, 0, 1]]), "refined": np.array([[0, 0, 1, 1]])})
    >>> result = evaluator.compute()
    >>> result.score("plain", "mean_iu"), result.score("refined", "mean_iu")
    (0.5, 1.0)
    """

    def __init__(
        self,
        num_labels: int,
        *,
        class_names: Sequence[str] = (),
        trimap_width: int = 5,
        max_width: int = boundary.MAX_WIDTH,
        void: int = VOID,
    ) -> None:
        self.num_labels = confusion.check_num_labels(num_labels, void)
        if class_names and len(class_names) != num_labels:
            raise ValueError(
                f"class_names: expected {num_labels} names, got {len(class_names)}; one for each label"
            )
        if not 1 <= trimap_width <= max_width:
            raise ValueError(f"trimap_width: expected 1..max_width = {max_width}, got {trimap_width}")
        self.class_names = tuple(class_names) or tuple(map(str, range(num_labels)))
        self.trimap_width, self.max_width, self.void = trimap_width, max_width, void
        self._has_void = False
        self._ids: dict[str, None] = {}
        self._tallies: dict[str, _Tally] = {}

    def update(self, name: str, truth: Any, predictions: Mapping[str, Any]) -> None:
        """Count one picture: its truth Int[H, W] and each method's prediction Int[H, W].

        Raises:
            ValueError: a repeated id, other methods than before, shapes or labels that do not fit. Then the
                picture is not counted.
        """
        if name in self._ids:
            raise ValueError(f"name: expected each picture once, got {name!r} again")
        if not predictions or (self._tallies and set(predictions) != set(self._tallies)):
            wanted = ", ".join(self._tallies) or "at least one method"
            raise ValueError(
                f"predictions: expected {wanted} for every picture, "
                f"got {', '.join(predictions) or 'none'} for {name!r}"
            )
        try:
            bins = boundary.trimap_bins(truth, self.max_width, self.void)
            rows = {method: self._count(truth, guess, bins) for method, guess in predictions.items()}
        except (ValueError, TypeError) as error:
            raise type(error)(f"picture {name!r}: {error}") from error
        self._has_void |= bool((np.asarray(truth) == self.void).any())
        self._ids[name] = None
        for method, (whole, curve, iou, f) in rows.items():
            tally = self._tallies.setdefault(method, _Tally())
            tally.confusion.append(whole)
            tally.trimap.append(curve[self.trimap_width - 1])
            tally.curve = tally.curve + curve
            tally.boundary_iou.append(iou)
            tally.boundary_f.append(f)

    def _count(self, truth: Any, guess: Any, bins: NDArray[np.int64]) -> tuple[NDArray[Any], ...]:
        pair = (truth, guess, self.num_labels)
        return (
            confusion.confusion_matrix(*pair, void=self.void),
            boundary.trimap_confusion(*pair, self.max_width, void=self.void, bins=bins),
            boundary.boundary_iou_counts(*pair, void=self.void),
            boundary.boundary_f_counts(*pair, void=self.void),
        )

    def compute(self) -> Evaluation:
        """The result so far; `ValueError` before the first picture."""
        if not self._ids:
            raise ValueError("pictures: expected at least one, got none; nothing to evaluate")
        occurs = np.sum(next(iter(self._tallies.values())).confusion, (0, -1)) > 0
        if self.num_labels > 1 and self._has_void and self.void == VOID and not occurs[1:].any():
            warn(
                f"truth: only 0 and {self.void} in all {len(self._ids)} pictures, so only label 0 "
                f"was scored; if {self.void} is white and not void, save white as 1"
            )
        kinds = dict.fromkeys(kind for kind, *_ in METRICS.values())
        return Evaluation(
            ids=tuple(self._ids),
            class_names=self.class_names,
            trimap_width=self.trimap_width,
            counts={m: {k: np.stack(getattr(t, k)) for k in kinds} for m, t in self._tallies.items()},
            curves={m: t.curve for m, t in self._tallies.items()},
        )


def evaluate(
    pictures: Iterable[tuple[str, Any, Mapping[str, Any]]], num_labels: int, **options: Any
) -> Evaluation:
    """Evaluate methods over (id, truth, {method: prediction}); options as `Evaluator` takes them.

    >>> evaluate([("a", np.array([[0, 1]]), {"plain": np.array([[0, 1]])})], 2).score("plain", "mean_iu")
    1.0
    """
    evaluator = Evaluator(num_labels, **options)
    for name, truth, predictions in pictures:
        evaluator.update(name, truth, predictions)
    return evaluator.compute()


@dataclass(frozen=True)
class Evaluation:
    """Counts of every method and picture, and the figures computed from them (fractions of 1).

    Attributes:
        ids: the pictures, in order.
        class_names: one per label.
        trimap_width: w of "trimap_iu" and "trimap_accuracy".
        counts: method → "confusion" | "trimap" | "boundary_iou" | "boundary_f" → [pictures, ...].
        curves: method → Int64[max_width, L, L], the trimap's confusion matrices by width.
    """

    ids: tuple[str, ...]
    class_names: tuple[str, ...]
    trimap_width: int
    counts: dict[str, dict[str, NDArray[Any]]] = field(repr=False)
    curves: dict[str, NDArray[Any]] = field(repr=False)

    @property
    def methods(self) -> tuple[str, ...]:
        return tuple(self.counts)

    def score(self, method: str, metric: str) -> float:
        """One figure; metrics are the keys of `METRICS`."""
        counts, function = self._pick(method, metric)
        return float(function(counts.sum(0)))

    @property
    def true_labels(self) -> tuple[str, ...]:
        """Names of the labels that occur in the truth, over which means are taken."""
        counts, _ = self._pick(self.methods[0], "mean_iu")
        occurs = counts.sum((0, -1)) > 0
        return tuple(name for name, there in zip(self.class_names, occurs, strict=True) if there)

    def per_label_iu(self, method: str) -> NDArray[np.float64]:
        """Float64[L], NaN for labels in neither truth nor prediction."""
        return confusion.iu(self._pick(method, "mean_iu")[0].sum(0))

    def trimap_curve(self, method: str) -> NDArray[np.float64]:
        """Mean IU of the trimap of width 1, 2, …: Float64[max_width]."""
        self._pick(method, "trimap_iu")
        return confusion.mean_iu_of_truth(self.curves[method])

    def interval(self, method: str, metric: str, **options: Any) -> Interval:
        """Bootstrap interval over pictures; options: samples, level, seed."""
        return bootstrap(*self._pick(method, metric), **options)

    def difference(self, method: str, baseline: str, metric: str, **options: Any) -> Interval:
        """Paired bootstrap interval of the figure of `method` minus that of `baseline`."""
        ours, function = self._pick(method, metric)
        return paired_bootstrap(ours, self._pick(baseline, metric)[0], function, **options)

    def rows(self) -> list[dict[str, Any]]:
        """One dict per method: "method", every metric, and "iu <class name>" per label."""
        out = []
        for method in self.methods:
            figures = {metric: self.score(method, metric) for metric in METRICS}
            labels = zip(self.class_names, self.per_label_iu(method).tolist(), strict=True)
            out.append({"method": method, **figures, **{f"iu {name}": value for name, value in labels}})
        return out

    def write_csv(self, path: PathLike, *, intervals: bool = True, **options: Any) -> None:
        """Figures in percent, one line per method; with intervals also `<metric>_low` and `_high`. Atomic."""
        tables.write_csv(path, tables.score_lines(self, intervals, options))

    def write_curve_csv(self, path: PathLike) -> None:
        """The trimap curves in percent, one line per width, one column per method. Atomic."""
        tables.write_csv(path, tables.curve_lines(self))

    def markdown(self, *, intervals: bool = True, baseline: str | None = None, **options: Any) -> str:
        """Tables for a README: scores, differences to a baseline (if named), per-label IU; in percent."""
        return tables.markdown(self, intervals, baseline, options)

    def write_markdown(self, path: PathLike, **options: Any) -> None:
        """`markdown` into a file. Atomic."""
        write_text(path, self.markdown(**options))

    def _pick(self, method: str, metric: str) -> tuple[NDArray[Any], Metric]:
        counts = self.counts[check_choice("method", method, self.methods)]
        kind, function, _ = METRICS[check_choice("metric", metric, METRICS)]
        return counts[kind], function
