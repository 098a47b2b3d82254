# SPDX-License-Identifier: MIT
"""The mean IU family: counts over the data set first, one division at the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crfrnn.io import VOID

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Scores:
    """The figures of one confusion matrix, as fractions of 1; NaN where nothing was counted.

    Attributes:
        mean_iu: the mean of `iu` over labels that occur in truth or prediction (see `mean_iu_of_truth` for
            the figure for comparing methods).
        iu: Float64[L], intersection over union of every label; NaN where it occurs in neither.
        pixel_accuracy: the share of correct pixels.
        mean_accuracy: the mean over labels that occur in the truth of the share of their pixels found.
        frequency_weighted_iu: `iu` weighted by the label's share of the truth.
    """

    mean_iu: float
    iu: Floats
    pixel_accuracy: float
    mean_accuracy: float
    frequency_weighted_iu: float


class ConfusionMatrix:
    """Counts pairs of (truth, prediction) over a data set, and keeps the counts of each picture.

    Void pixels of the truth are ignored. Source: Long et al., CVPR 2015, section 5; the VOC devkit for void
    and one matrix over the data set (a mean of per-picture scores is a different figure).

    Args:
        num_labels: L; labels are 0..L-1.
        void: the value of truth pixels that do not count.

    >>> counts = ConfusionMatrix(2)
    >>> counts.update(np.array([[0, 1, 255]]), np.array([[0, 0, 1]]))
    >>> counts.compute().mean_iu, counts.per_picture.shape
    (0.25, (1, 2, 2))
    """

    def __init__(self, num_labels: int, void: int = VOID) -> None:
        self.num_labels = check_num_labels(num_labels, void)
        self.void = void
        self._pictures: list[Counts] = []

    def update(self, truth: Any, prediction: Any) -> None:
        """Add one picture: Int[H, W] each (numpy or CPU tensor)."""
        self._pictures.append(confusion_matrix(truth, prediction, self.num_labels, self.void))

    @property
    def per_picture(self) -> Counts:
        """Int64[pictures, L, L], in the order of the updates: what the bootstrap resamples."""
        shape = (len(self._pictures), self.num_labels, self.num_labels)
        return np.stack(self._pictures) if self._pictures else np.zeros(shape, np.int64)

    @property
    def matrix(self) -> Counts:
        """Int64[L, L], truth by prediction, over all pictures."""
        return sum(self._pictures, np.zeros((self.num_labels, self.num_labels), np.int64))

    def compute(self) -> Scores:
        return scores(self.matrix)


def confusion_matrix(truth: Any, prediction: Any, num_labels: int, void: int = VOID) -> Counts:
    """Pixels of each true label (rows) by predicted label (columns), without void: Int64[L, L].

    Args:
        truth: Int[\\*spatial] in 0..L-1 or `void`.
        prediction: Int[\\*spatial] in 0..L-1; ignored under void.

    Raises:
        TypeError: not integers. ValueError: different shapes, labels out of range.

    >>> confusion_matrix([[0, 1, 255]], [[0, 0, 1]], 2).tolist()
    [[1, 0], [1, 0]]
    """
    true, guess = check_pair(truth, prediction, check_num_labels(num_labels, void), void)
    valid = true != void
    pairs = true[valid].astype(np.int64) * num_labels + guess[valid]
    return np.bincount(pairs, minlength=num_labels**2).reshape(num_labels, num_labels)


def scores(matrix: NDArray[Any]) -> Scores:
    """All figures of one matrix [L, L]."""
    return Scores(
        float(mean_iu(matrix)),
        iu(matrix),
        float(pixel_accuracy(matrix)),
        float(mean_accuracy(matrix)),
        float(frequency_weighted_iu(matrix)),
    )


def iu(matrix: NDArray[Any]) -> Floats:
    """Intersection over union per label: [..., L, L] → Float64[..., L], NaN where the union is empty."""
    hit, true, guess = _margins(matrix)
    return ratio(hit, true + guess - hit)


def mean_iu(matrix: NDArray[Any]) -> Floats:
    """Mean of `iu` over labels that occur in truth or prediction: [..., L, L] → Float64[...].

    For a single segmentation. With methods that predict different labels the mean is over different numbers
    of labels; use `mean_iu_of_truth` to compare them.

    >>> float(mean_iu(np.array([[1, 0, 1], [0, 2, 0], [0, 0, 0]])))
    0.5
    """
    return mean_present(iu(matrix))


def mean_iu_of_truth(matrix: NDArray[Any]) -> Floats:
    """Mean of `iu` over labels that occur in the truth: [..., L, L] → Float64[...].

    The labels do not depend on the prediction, so methods on the same pictures can be compared: a pixel
    predicted as a label that is not in the truth counts once, against its true label.

    >>> float(mean_iu_of_truth(np.array([[1, 0, 1], [0, 2, 0], [0, 0, 0]])))
    0.75
    """
    _, true, _ = _margins(matrix)
    return mean_present(np.where(true > 0, iu(matrix), np.nan))


def pixel_accuracy(matrix: NDArray[Any]) -> Floats:
    """Share of correct pixels: [..., L, L] → Float64[...]."""
    hit, true, _ = _margins(matrix)
    return ratio(hit.sum(-1), true.sum(-1))


def mean_accuracy(matrix: NDArray[Any]) -> Floats:
    """Mean over true labels of the share of their pixels found: [..., L, L] → Float64[...]."""
    hit, true, _ = _margins(matrix)
    return mean_present(ratio(hit, true))


def frequency_weighted_iu(matrix: NDArray[Any]) -> Floats:
    """`iu` weighted by the label's share of the truth: [..., L, L] → Float64[...]."""
    _, true, _ = _margins(matrix)
    return ratio((np.nan_to_num(iu(matrix)) * true).sum(-1), true.sum(-1))


def ratio(part: ArrayLike, whole: ArrayLike) -> Floats:
    """part / whole, NaN where the whole is 0."""
    share, of = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    return np.divide(share, of, out=np.full(of.shape, np.nan), where=of > 0)


def mean_present(values: Floats) -> Floats:
    """Mean over the last axis without NaN; NaN if all are NaN."""
    present = ~np.isnan(values)
    return ratio(np.where(present, values, 0).sum(-1), present.sum(-1))


def check_num_labels(num_labels: int, void: int) -> int:
    if isinstance(num_labels, bool) or not isinstance(num_labels, int | np.integer) or num_labels < 1:
        raise ValueError(f"num_labels: expected an integer of at least 1, got {num_labels!r}")
    if 0 <= void < num_labels:
        raise ValueError(f"void: expected a value outside the labels 0..{num_labels - 1}, got {void}; use -1")
    return int(num_labels)


def check_pair(truth: Any, prediction: Any, num_labels: int, void: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Truth and prediction as integer arrays of one shape with labels in range."""
    true, guess = np.asarray(truth), np.asarray(prediction)
    for name, values in (("truth", true), ("prediction", guess)):
        if values.dtype.kind not in "iu":
            raise TypeError(
                f"{name}: expected integer labels, got {values.dtype}; take the argmax over the labels first"
            )
    if true.shape != guess.shape:
        raise ValueError(
            f"prediction: expected shape {true.shape} as truth has, got {guess.shape}; "
            "resize the scores to the picture before the argmax"
        )
    for name, values in (("truth", true), ("prediction", guess)):
        if values.size == 0 or (values.dtype == np.uint8 and values.max() < num_labels):
            continue
        bad = ((values < 0) | (values >= num_labels)) & (true != void)
        if bad.any():
            also = f" or void {void}" if name == "truth" else " wherever the truth is not void"
            raise ValueError(
                f"{name}: expected labels 0..{num_labels - 1}{also}, got {int(values[bad][0])}; "
                "check num_labels"
            )
    return true, guess


def _margins(matrix: NDArray[Any]) -> tuple[Floats, Floats, Floats]:
    """Hits, true pixels and predicted pixels per label."""
    counts = np.asarray(matrix, np.float64)
    return np.diagonal(counts, axis1=-2, axis2=-1), counts.sum(-1), counts.sum(-2)
