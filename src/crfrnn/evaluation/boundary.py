# SPDX-License-Identifier: MIT
"""Accuracy at object borders: trimap IU, boundary IoU, boundary F.

All three produce counts per picture that are summed over the data set before the division, so that the
bootstrap can resample pictures. Void pixels are first removed from truth and prediction.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crfrnn.evaluation.confusion import (
    Counts,
    Floats,
    check_num_labels,
    check_pair,
    mean_present,
    ratio,
)
from crfrnn.evaluation.planes import counts, dilate_disk, edges, erode_square, groups, planes
from crfrnn.extras import optional
from crfrnn.io import VOID

MAX_WIDTH = 40


def trimap_bins(truth: Any, max_width: int = MAX_WIDTH, void: int = VOID) -> NDArray[np.int64]:
    """The narrowest trimap of each pixel: its Euclidean distance to the nearest void pixel, rounded up.

    Args:
        truth: Int[H, W].
        max_width: w; more distant pixels, and all pixels of a picture without void, get w + 1.

    Returns:
        Int64[H, W], 0 on void itself.

    Raises:
        ImportError: scipy is not installed.

    >>> trimap_bins(np.array([[255, 0, 0, 0]]), max_width=2).tolist()
    [[0, 1, 2, 3]]
    """
    if max_width < 1:
        raise ValueError(f"max_width: expected at least 1 pixel, got {max_width}")
    inside = np.asarray(truth) != void
    if inside.all():
        return np.full(inside.shape, max_width + 1, np.int64)
    distance = np.asarray(optional("scipy.ndimage", "train", "trimaps").distance_transform_edt(inside))
    return np.ceil(distance.clip(max=max_width + 1)).astype(np.int64)


def trimap_confusion(
    truth: Any,
    prediction: Any,
    num_labels: int,
    max_width: int = MAX_WIDTH,
    *,
    void: int = VOID,
    bins: NDArray[np.int64] | None = None,
) -> Counts:
    """Confusion matrices of the bands of width 1..w around the void: Int64[w, L, L], entry w-1 for width w.

    A pixel counts for width w if it is not void and its Euclidean distance to a void pixel is at most w; the
    mean IU of each matrix over w is the trimap curve. A picture without void adds nothing.

    Args:
        truth, prediction, num_labels, void: as in `confusion_matrix`.
        max_width: the greatest w.
        bins: `trimap_bins` of the same truth and width, to share it between predictions.

    Source: Kohli et al., IJCV 2009; Krähenbühl & Koltun, NeurIPS 2011, figure 4.

    >>> bands = trimap_confusion(np.array([[255, 0, 1]]), np.array([[0, 0, 0]]), 2, max_width=2)
    >>> bands.tolist()
    [[[1, 0], [0, 0]], [[1, 0], [1, 0]]]
    """
    true, guess = check_pair(truth, prediction, check_num_labels(num_labels, void), void)
    if bins is None:
        bins = trimap_bins(true, max_width, void)
    near = (bins >= 1) & (bins <= max_width)
    pairs = ((bins[near] - 1) * num_labels + true[near]) * num_labels + guess[near]
    shells = np.bincount(pairs, minlength=max_width * num_labels**2)
    return shells.reshape(max_width, num_labels, num_labels).cumsum(0)


def boundary_iou_counts(truth: Any, prediction: Any, num_labels: int, void: int = VOID) -> Counts:
    """Intersection and union of the inner boundaries of every label, and those of the truth: Int64[3, L].

    ``d = max(1, round(0.02 √(h² + w²)))``; a mask's inner boundary is the mask minus its d-fold erosion by
    a 3×3 square; the picture's border counts as a border of the mask.

    Cheng et al. define it for an instance and average over instances; here it is per label, and intersections
    and unions are summed over the data set as mean IU does.

    Source: Cheng et al., Boundary IoU, CVPR 2021, eq. 2 and the reference code's ``mask_to_boundary``.

    >>> ones = np.ones((3, 4), int)
    >>> boundary_iou_counts(ones, ones, 2).tolist()  # two of the twelve pixels do not touch the border
    [[0, 10], [0, 10], [0, 10]]
    """
    true, guess = check_pair(truth, prediction, check_num_labels(num_labels, void), void)
    width = max(1, round(0.02 * math.hypot(*_height_width(true))))
    out = np.zeros((3, num_labels), np.int64)
    valid = true != void
    for group in groups(_present(true, guess, valid)):
        borders = [x & ~erode_square(x, width) for x in (planes(y, group, valid) for y in (true, guess))]
        out[0, list(group)] = counts(borders[0] & borders[1], group)
        out[1, list(group)] = counts(borders[0] | borders[1], group)
        out[2, list(group)] = counts(borders[0], group)
    return out


def boundary_f_counts(truth: Any, prediction: Any, num_labels: int, void: int = VOID) -> Floats:
    """Boundary F of every label in this picture, whether it occurs, and whether in the truth: Float64[3, L].

    A boundary pixel is matched if the other mask has one within ``r = ceil(0.008 √(h² + w²))`` pixels;
    ``F = 2PR / (P + R)``. Boundaries: pixels that differ from their right, lower or lower right neighbour.
    No boundary in either mask: P = R = 1; none predicted: P = 1, R = 0; none true: P = 0, R = 1.
    Labels in neither mask have no score here. Over a data set: the mean per label over the pictures it
    occurs in, then over the labels of the truth (`mean_ratio` of the summed counts).

    Source: Perazzi et al., DAVIS, CVPR 2016, section 3, and its evaluation code.

    >>> boundary_f_counts(np.array([[0, 1], [0, 1]]), np.array([[0, 1], [0, 1]]), 3).tolist()
    [[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [1.0, 1.0, 0.0]]
    """
    true, guess = check_pair(truth, prediction, check_num_labels(num_labels, void), void)
    radius = math.ceil(0.008 * math.hypot(*_height_width(true)))
    out = np.zeros((3, num_labels))
    valid = true != void
    for group in groups(_present(true, guess, valid)):
        real, drawn = (edges(planes(labels, group, valid)) for labels in (true, guess))
        n_real, n_drawn = counts(real, group), counts(drawn, group)
        precision = ratio(counts(drawn & dilate_disk(real, radius), group), n_drawn)
        recall = ratio(counts(real & dilate_disk(drawn, radius), group), n_real)
        precision[n_drawn == 0] = 1
        recall[n_real == 0] = 1
        out[0, list(group)] = np.nan_to_num(ratio(2 * precision * recall, precision + recall))
        out[1, list(group)] = 1
        out[2, list(group)] = counts(planes(true, group, valid), group) > 0
    return out


def per_label_ratio(sums: NDArray[Any]) -> Floats:
    """Summed counts [..., 3, L] → part over whole, Float64[..., L], NaN for labels that never occur."""
    return ratio(sums[..., 0, :], sums[..., 1, :])


def mean_ratio(sums: NDArray[Any]) -> Floats:
    """Summed counts [..., 3, L] → mean over the labels of the truth, Float64[...]."""
    return mean_present(np.where(sums[..., 2, :] > 0, per_label_ratio(sums), np.nan))


def _present(true: NDArray[Any], guess: NDArray[Any], valid: NDArray[np.bool_]) -> list[int]:
    """Labels that occur outside void."""
    seen = np.bincount(true[valid]).nonzero()[0].tolist() + np.bincount(guess[valid]).nonzero()[0].tolist()
    return sorted(set(seen))


def _height_width(labels: NDArray[Any]) -> tuple[int, int]:
    if labels.ndim != 2:
        raise ValueError(
            f"truth: expected one picture [H, W], got shape {labels.shape}; pass pictures one by one"
        )
    return labels.shape[0], labels.shape[1]
