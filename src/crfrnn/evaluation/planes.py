# SPDX-License-Identifier: MIT
"""Morphology on eight binary masks at a time: one bit of a byte per label, loops over shifts.

About twenty byte-wise operations on pictures erode or dilate all labels of a typical picture, which makes
the boundary metrics as cheap as the confusion matrix.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Planes = NDArray[np.uint8]
WIDTH = 8
_BITS = (np.arange(256)[:, None] >> np.arange(WIDTH) & 1).astype(np.int64)  # [byte, bit]


def groups(labels: Sequence[int]) -> Iterator[Sequence[int]]:
    """The labels in groups that fit a byte."""
    for start in range(0, len(labels), WIDTH):
        yield labels[start : start + WIDTH]


def planes(labels: NDArray[Any], group: Sequence[int], mask: NDArray[np.bool_]) -> Planes:
    """UInt8[H, W] with bit k set where the label is ``group[k]`` and the pixel is under the mask."""
    labels = np.where(mask, labels, 0)  # values outside the mask are arbitrary
    table = np.zeros(int(labels.max(initial=0)) + 1, np.uint8)
    for bit, label in enumerate(group):
        if label < len(table):
            table[label] = 1 << bit
    return table[labels] * mask


def counts(bytes_: Planes, group: Sequence[int]) -> NDArray[np.int64]:
    """Pixels of each mask: Int64[len(group)]."""
    return (np.bincount(bytes_.ravel(), minlength=256) @ _BITS)[: len(group)]


def erode_square(bytes_: Planes, steps: int) -> Planes:
    """`steps` erosions by a 3×3 square, or one by a square of side 2·steps+1; outside is empty."""
    padded = np.pad(bytes_, steps)
    for _ in range(2):
        padded = _all_of(padded, 2 * steps + 1).T
    return padded


def _all_of(rows: Planes, length: int) -> Planes:
    """AND over windows of `length` rows, doubling the window while it fits."""
    size = 1
    while 2 * size <= length:
        rows = rows[: len(rows) - size] & rows[size:]
        size *= 2
    rest = length - size
    return rows[: len(rows) - rest] & rows[rest:]


def dilate_disk(bytes_: Planes, radius: int) -> Planes:
    """Dilation by the disk x² + y² ≤ radius²."""
    height = len(bytes_)
    out = np.zeros((height + 2 * radius, bytes_.shape[1]), np.uint8)
    wide, half = bytes_.copy(), 0
    for dy in range(radius, -1, -1):  # the disk's rows, shortest first
        reach = math.isqrt(radius**2 - dy**2)
        for shift in range(half + 1, reach + 1):
            wide[:, shift:] |= bytes_[:, :-shift]
            wide[:, :-shift] |= bytes_[:, shift:]
        half = reach
        out[radius - dy : radius - dy + height] |= wide
        out[radius + dy : radius + dy + height] |= wide
    return out[radius : radius + height]


def edges(bytes_: Planes) -> Planes:
    """Pixels that differ from their right, lower or lower right neighbour (beyond the picture: the same)."""
    right, lower, diagonal = bytes_.copy(), bytes_.copy(), bytes_.copy()
    right[:, :-1] = bytes_[:, 1:]
    lower[:-1] = bytes_[1:]
    diagonal[:-1, :-1] = bytes_[1:, 1:]
    # The last row and column have only one neighbour, as in the DAVIS code.
    diagonal[-1, :-1] = bytes_[-1, 1:]
    diagonal[:-1, -1] = bytes_[1:, -1]
    return (bytes_ ^ right) | (bytes_ ^ lower) | (bytes_ ^ diagonal)
