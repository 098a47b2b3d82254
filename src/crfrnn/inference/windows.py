# SPDX-License-Identifier: MIT
"""Overlapping windows over a picture, and blending of their results."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

# Windows start at multiples of this unless they are small, so that the cells of a network's coarse maps have
# the same positions in a tile as in the whole picture.
ALIGN = 32
SMALLEST_ALIGNED = 8 * ALIGN
MARGIN = 0.4  # share of the overlap taken from one tile alone, as a tile lacks context near its edge


@dataclass(frozen=True)
class Window:
    """The pixels start..stop-1 of an axis.

    Attributes:
        weights: Float32[stop - start]; those of all windows over one pixel sum to 1.
    """

    start: int
    stop: int
    weights: NDArray[np.float32]


class Tile(NamedTuple):
    """The content of a rectangle: `values` are blended with its neighbours, the rest is equal in all tiles.

    values: Float32[C, h, w]; before: Int[h, w] or None; valid: Bool[h, w], True where there is data, or None.
    """

    values: NDArray[np.float32]
    before: NDArray[Any] | None = None
    valid: NDArray[np.bool_] | None = None


def windows(length: int, tile: int, overlap: int) -> list[Window]:
    """Cover 0..length-1 with the fewest equal windows of at most `tile` pixels, evenly spread.

    Neighbours share at least `overlap` pixels (limited to a quarter of `tile`). Of the shared pixels, the
    first two fifths are taken from one window and the last two fifths from the other, since a network and a
    CRF lack context near the edge of a tile; between them the weights change linearly.

    Args: length, tile ≥ 1; overlap ≥ 0; all in pixels.

    >>> [(w.start, w.stop) for w in windows(1000, 512, 64)]
    [(0, 392), (288, 680), (608, 1000)]
    >>> windows(27, 16, 4)[1].weights[:6].tolist()
    [0.0, 0.0, 0.5, 1.0, 1.0, 1.0]
    """
    if length <= tile:
        return [Window(0, length, np.ones(length, np.float32))]
    align = ALIGN if tile >= SMALLEST_ALIGNED else 1
    size = tile - (tile - length) % align  # so that the last window ends with the picture and starts aligned
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


def faded(
    rows: list[Window], columns: list[Window], infer: Callable[[slice, slice], Tile]
) -> Iterator[tuple[int, int, Tile]]:
    """Yield top, left and content of every finished rectangle, in order; each pixel occurs once.

    ``values = Σ_t w_t values_t`` with ``Σ_t w_t = 1``. One tile is held in memory, and the part of its row
    that overlaps the next row.

    Args: rows, columns: from `windows`; infer: called once for each tile.
    """
    seam: NDArray[np.float32] | None = None  # weighted values of the overlap with the next row of tiles
    carried = 0  # number of its valid rows
    deepest = max(row.stop - row.start - _own(rows, i) for i, row in enumerate(rows))
    for i, row in enumerate(rows):
        high = _own(rows, i)
        deep = row.stop - row.start - high
        beside: NDArray[np.float32] | None = None
        for j, column in enumerate(columns):
            wide = _own(columns, j)
            own = slice(column.start, column.start + wide)
            ready = [infer(slice(row.start, row.stop), slice(column.start, column.stop))]
            if len(rows) * len(columns) > 1:
                p, before, valid = ready.pop()
                p *= row.weights[:, None] * column.weights
                if beside is not None:
                    p[:, :, : beside.shape[2]] += beside
                beside = p[:, :, wide:].copy()
                if carried and seam is not None:
                    p[:, :carried, :wide] += seam[:, :carried, own]
                if deep:
                    if seam is None:
                        seam = np.empty((len(p), deepest, columns[-1].stop), np.float32)
                    seam[:, :deep, own] = p[:, high:, :wide]
                before, valid = (None if part is None else part[:high, :wide] for part in (before, valid))
                ready.append(Tile(p[:, :high, :wide], before, valid))
                del p, before, valid  # free a large tile before the next one is made
            yield row.start, column.start, ready.pop()
        carried = deep


def _count(length: int, size: int, shared: int, align: int) -> int:
    """The number of windows of this size; 0 if they are too small to advance."""
    step = (size - shared) // align * align
    return 1 + math.ceil((length - size) / step) if step > 0 else 0


def _ramp(length: int) -> NDArray[np.float32]:
    span = max((1 - 2 * MARGIN) * length, 1)
    places = np.arange(length, dtype=np.float32) + 0.5 - (length - span) / 2
    return np.clip(places / span, 0, 1).astype(np.float32)


def _own(found: list[Window], i: int) -> int:
    """The number of pixels of a window that no later one covers."""
    return (found[i + 1].start if i + 1 < len(found) else found[i].stop) - found[i].start
