# SPDX-License-Identifier: MIT
"""pydensecrf.utils: unary energies from labels or probabilities, features of grids and pictures."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from numbers import Number
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crfrnn.compat.pydensecrf import _checks

_log = logging.getLogger(__name__)


def unary_from_labels(
    labels: ArrayLike, n_labels: int, gt_prob: float, zero_unsure: bool = True
) -> NDArray[np.float32]:
    """Unary energies of a label map that is right with probability gt_prob.

    ``-log(gt_prob)`` for the given label, ``-log((1 - gt_prob) / (n_labels - 1))`` for the others.

    Args:
        labels: Int[*spatial]. With zero_unsure 1..n_labels, and 0 where the label is unknown, which makes all
            labels equal there; else 0..n_labels - 1.
        n_labels: L ≥ 2; the 0 of zero_unsure is not counted.
        gt_prob: in (0, 1).

    Returns:
        Float32[L, N], N points in row-major order.

    Raises:
        IndexError: labels out of range, or not integers.
        ValueError: gt_prob out of (0, 1) (an AssertionError too). ZeroDivisionError: fewer than two labels.

    >>> np.exp(-unary_from_labels(np.array([1, 0, 2]), 2, gt_prob=0.75)).round(2).T.tolist()
    [[0.75, 0.25], [0.5, 0.5], [0.25, 0.75]]
    """
    if not 0 < gt_prob < 1:
        raise _checks.OutOfRange(f"gt_prob: expected a probability in (0, 1), got {gt_prob!r}")
    count = _checks.integer("n_labels", n_labels)
    if count < 2:
        raise ZeroDivisionError(
            f"n_labels: expected at least 2 labels to share 1 - gt_prob, got {count}; "
            "the 0 of zero_unsure is not counted"
        )
    given = np.asarray(labels).reshape(-1)
    if given.dtype.kind not in "iu":
        raise IndexError(
            f"labels: expected integers, got {_checks.describe(given)}; convert with labels.astype(np.int64)"
        )
    first = 1 if zero_unsure else 0
    index = given.astype(np.int64) - first  # in 64 bits, so that the 0 of a uint8 map does not wrap to 255
    known = index >= 0 if zero_unsure else np.ones(index.shape, bool)
    bad = given[(index < -first) | (index >= count)]
    if bad.size:
        also = " or 0 = unsure" if zero_unsure else "; if 0 means unsure, pass zero_unsure=True"
        raise IndexError(f"labels: expected {first}..{count - 1 + first}{also}, got {bad[0]}")
    energy = np.full((count, index.size), -np.log((1 - gt_prob) / (count - 1)), np.float32)
    energy[index[known], np.flatnonzero(known)] = -np.log(gt_prob)
    energy[:, ~known] = np.log(count)
    return energy


def compute_unary(labels: ArrayLike, M: int, GT_PROB: float = 0.5) -> NDArray[np.float32]:
    """`unary_from_labels` under its deprecated name; logs a warning."""
    _log.warning("compute_unary is deprecated, use unary_from_labels(labels, n_labels, gt_prob)")
    return unary_from_labels(labels, M, GT_PROB)


def unary_from_softmax(
    sm: ArrayLike, scale: float | None = None, clip: float | None = 1e-5
) -> NDArray[np.float32]:
    """Unary energies ``-log p`` of probabilities.

    Args:
        sm: Float[L, *spatial], probabilities p of the labels.
        scale: in (0, 1], the confidence in the probabilities: ``p ← scale p + (1 - scale) / L``.
        clip: p is first clipped to [clip, 1], so that no energy is infinite; None: no clipping.

    Returns:
        Float32[L, N], C-contiguous, N points in row-major order.

    Raises:
        ValueError: scale out of (0, 1] (an AssertionError too), no label axis.

    >>> np.exp(-unary_from_softmax(np.array([[0.5, 1.0], [0.5, 0.0]]), scale=0.5)).round(2).tolist()
    [[0.5, 0.75], [0.5, 0.25]]
    """
    p = np.asarray(sm)
    if p.ndim < 1 or p.shape[0] < 1:
        raise ValueError(f"sm: expected probabilities [labels, ...], got {_checks.describe(p)}")
    if scale is not None:
        if not 0 < scale <= 1:
            raise _checks.OutOfRange(f"scale: expected a number in (0, 1], got {scale!r}; None keeps sm")
        p = scale * p + (1 - scale) / p.shape[0]
    if clip is not None:
        p = np.clip(p, clip, 1.0)
    return np.ascontiguousarray(-np.log(p).reshape(p.shape[0], -1), np.float32)


def softmax_to_unary(sm: ArrayLike, GT_PROB: float = 1) -> NDArray[np.float32]:
    """`unary_from_softmax` without clip under its deprecated name; logs a warning."""
    _log.warning("softmax_to_unary is deprecated, use unary_from_softmax(sm, scale, clip)")
    return unary_from_softmax(sm, None if GT_PROB == 1 else GT_PROB, clip=None)


def create_pairwise_gaussian(sdims: Sequence[float], shape: Sequence[int]) -> NDArray[np.float32]:
    """Positions over bandwidths, for `DenseCRF.addPairwiseEnergy`.

    Args:
        sdims: bandwidths in pixels, one per axis, in the order of `shape`.
        shape: shape of the grid, with any number of axes.

    Returns:
        Float32[axes, N], features in the order of `shape`: y, x for a picture, whereas
        `DenseCRF2D.addPairwiseGaussian` has x, y. This changes the lattice's results slightly.

    Raises:
        ValueError: fewer bandwidths than axes; IndexError: more; TypeError: not a sequence.

    >>> create_pairwise_gaussian((2, 1), (2, 2)).tolist()
    [[0.0, 0.0, 0.5, 0.5], [0.0, 1.0, 0.0, 1.0]]
    """
    if isinstance(sdims, Number):
        raise TypeError(f"sdims: expected one bandwidth per axis of {tuple(shape)}, got {sdims!r}")
    if len(sdims) < len(shape):
        raise ValueError(
            f"sdims: expected {len(shape)} bandwidths for shape {tuple(shape)}, got {len(sdims)}"
        )
    return _over("sdims", _positions(tuple(shape)), sdims).reshape(len(shape), -1)


def create_pairwise_bilateral(
    sdims: Sequence[float], schan: float | Sequence[float], img: ArrayLike, chdim: int = -1
) -> NDArray[np.float32]:
    """Positions and channels over their bandwidths, for `DenseCRF.addPairwiseEnergy`.

    Args:
        sdims: bandwidths in pixels, one per spatial axis in the picture's order.
        schan: bandwidths in the picture's units, a number or one per channel.
        img: any array of numbers with any number of spatial axes and channels.
        chdim: the axis of the channels; -1 means no such axis (not the last axis!).

    Returns:
        Float32[axes + channels, N], N pixels in row-major order: positions (y, x for a picture), channels.

    Raises:
        IndexError: more bandwidths than axes or channels; TypeError: not a sequence.

    Warns:
        UserWarning: fewer bandwidths than axes or channels; as in pydensecrf the others are 1.

    >>> create_pairwise_bilateral((1, 1), 10, np.full((1, 1, 3), 50, np.uint8), chdim=2).ravel().tolist()
    [0.0, 0.0, 5.0, 5.0, 5.0]
    """
    image = np.asarray(img)
    channels = image[None] if chdim == -1 else np.moveaxis(image, chdim, 0)
    channels = channels.astype(np.float32)  # a copy
    if isinstance(schan, Number):
        channels /= schan
    else:
        channels = _over("schan", channels, schan)
    places = _over("sdims", _positions(channels.shape[1:]), sdims)
    return np.concatenate([places, channels]).reshape(len(places) + len(channels), -1)


def _positions(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Float32[axes, *shape]."""
    return np.indices(shape, np.float32)


def _over(name: str, rows: NDArray[np.float32], widths: Any) -> NDArray[np.float32]:
    """Divide each row by its width, in place."""
    if len(widths) > len(rows):
        raise IndexError(f"{name}: expected {len(rows)} bandwidths, one per row, got {len(widths)}")
    if len(widths) < len(rows):
        warnings.warn(
            f"{name}: expected {len(rows)} bandwidths, got {len(widths)}; the others are set to 1",
            UserWarning,
            stacklevel=3,
        )
    for row, width in zip(rows, widths, strict=False):
        row /= width
    return rows
