# SPDX-License-Identifier: MIT
"""Pictures and scores that are read rectangle by rectangle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class Windowed(Protocol):
    """A picture, or its scores, read in parts and never held in memory as a whole."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, rows, columns."""
        ...

    def read(self, rows: slice, columns: slice) -> NDArray[Any]:
        """[C, h, w], a copy."""
        ...

    def valid(self, rows: slice, columns: slice) -> NDArray[np.bool_] | None:
        """Bool[h, w], False where there is no data; None if there is data everywhere."""
        ...


@dataclass(frozen=True)
class InMemory:
    """An array [C, H, W], also one that numpy maps from a file (``numpy.load(name, mmap_mode="r")``).

    >>> InMemory(np.zeros((3, 8, 9), np.uint8)).read(slice(2, 5), slice(0, 9)).shape
    (3, 3, 9)
    """

    values: NDArray[Any]

    @property
    def shape(self) -> tuple[int, int, int]:
        channels, height, width = self.values.shape
        return channels, height, width

    def read(self, rows: slice, columns: slice) -> NDArray[Any]:
        return np.array(self.values[:, rows, columns])

    def valid(self, rows: slice, columns: slice) -> NDArray[np.bool_] | None:
        return None


def valid_in_all(rows: slice, columns: slice, *sources: Windowed) -> NDArray[np.bool_] | None:
    """Bool[h, w], True where all sources have data; None if they have data everywhere."""
    found = [valid for source in sources if (valid := source.valid(rows, columns)) is not None]
    return np.logical_and.reduce(found) if found else None


def finite(image: Windowed, rows: slice, columns: slice, valid: NDArray[np.bool_] | None) -> NDArray[Any]:
    """A rectangle of the guide, [C, h, w].

    Raises: ValueError for NaN or infinity where there is data.
    """
    values = image.read(rows, columns)
    if values.dtype.kind != "f":
        return values
    bad = ~np.isfinite(values).all(0)
    bad = bad if valid is None else bad & valid
    if bad.any():
        y, x = (int(i) for i in np.argwhere(bad)[0])
        raise ValueError(
            f"image: expected finite numbers where there is data, got NaN or infinity in {int(bad.sum())} "
            f"pixels of a tile, the first at row {rows.start + y}, column {columns.start + x}; mark them "
            "as missing in the file, by its nodata value in all bands or a mask, or write numbers there"
        )
    return values
