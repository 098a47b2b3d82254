# SPDX-License-Identifier: MIT
"""Overlapping windows along one axis, and weights that fade one into the next."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Windows start at multiples of this unless they are small: the cells of a network's coarse maps then lie in
# a tile where they lie in the whole picture.
ALIGN = 32
SMALLEST_ALIGNED = 8 * ALIGN


@dataclass(frozen=True)
class Window:
    """The pixels start..stop-1 of an axis.

    Attributes:
        weights: Float32[stop - start]; those of all windows over one pixel sum to 1.
    """

    start: int
    stop: int
    weights: NDArray[np.float32]


def windows(length: int, tile: int, overlap: int) -> list[Window]:
    """Cover 0..length-1 with the fewest windows of at most `tile` pixels, all of one size, evenly spread.

    Neighbours share at least `overlap` pixels (no more than a quarter of `tile` is asked for). Of the shared
    pixels the first quarter is left to the one window, the last quarter to the other, since a network sees
    too little beside the edge of its tile; between, the weights go from one to the other in a straight line.

    Args: length, tile ≥ 1; overlap ≥ 0; all in pixels.

    >>> [(w.start, w.stop) for w in windows(1000, 512, 64)]
    [(0, 392), (288, 680), (608, 1000)]
    >>> windows(20, 16, 4)[1].weights[:6].tolist()
    [0.0, 0.25, 0.75, 1.0, 1.0, 1.0]
    """
    if length <= tile:
        return [Window(0, length, np.ones(length, np.float32))]
    align = ALIGN if tile >= SMALLEST_ALIGNED else 1
    size = tile - (tile - length) % align  # the last window ends with the picture and starts aligned
    shared = min(overlap, size // 4)
    count = _count(length, size, shared, align)
    while _count(length, size - align, shared, align) == count:
        size -= align
    steps = (length - size) // align
    starts = [i * steps // (count - 1) * align for i in range(count)]
    found = []
    for i, start in enumerate(starts):
        weights = np.ones(size, np.float32)
        if i:
            before = starts[i - 1] + size - start
            weights[:before] = _ramp(before)
        if i + 1 < count:
            behind = start + size - starts[i + 1]
            weights[size - behind :] *= 1 - _ramp(behind)
        found.append(Window(start, start + size, weights))
    return found


def _count(length: int, size: int, shared: int, align: int) -> int:
    """How many windows of this size it takes; 0 where they are too small to get on."""
    step = (size - shared) // align * align
    return 1 + math.ceil((length - size) / step) if step > 0 else 0


def _ramp(length: int) -> NDArray[np.float32]:
    margin = length // 4
    places = np.arange(length, dtype=np.float32) + 0.5 - margin
    return np.clip(places / max(length - 2 * margin, 1), 0, 1).astype(np.float32)
