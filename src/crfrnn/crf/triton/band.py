# SPDX-License-Identifier: MIT
"""The Gaussian over the grid on the GPU, axis by axis, as products of banded matrices with tiles of rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from crfrnn.crf.triton.kernels import CUT, band_kernel
from crfrnn.lattice.triton.launch import INTERPRETED, Launcher, block, ceil_div, power_of_2

SECTOR = 8  # float32 numbers in 32 bytes


class Axis(NamedTuple):
    """Rows as [outer, length, width] along one axis, and a program's tile of them."""

    length: int
    width: int
    programs: int
    tile: dict[str, int]


class Band:
    """Gaussians over the grid of rows Float32[P, stride], one after another; θ stays on the device."""

    def __init__(self, grid: Sequence[int], points: int, theta: Tensor, stride: int) -> None:
        self._theta, self._stride, self._axes = theta, stride, list[Axis]()
        step = 1
        for length in reversed(grid):  # x is the last axis of the grid
            width = step * stride
            high, taps, columns = band_tile(length, width)
            programs = points // (length * step) * ceil_div(length, high) * ceil_div(width, columns)
            self._axes.append(
                Axis(length, width, programs, {"BLOCK": high, "TAPS": taps, "COLUMNS": columns})
            )
            step *= length
        self._known: dict[tuple[int, bool, bool], Launcher] = {}

    def __call__(self, rows: Tensor, scale: Tensor | None, derivative: int | None = None) -> Tensor:
        """Filter after multiplying by `scale` Float32[P]; with `derivative`, d/dθ of that axis."""
        for number, axis in enumerate(self._axes):
            out = torch.empty_like(rows)
            self._launcher(number, scale is not None, derivative == number)(
                axis.programs, 1, rows, out, rows if scale is None else scale, self._theta[number:],
                axis.length, axis.width, self._stride, CUT,
            )  # fmt: skip
            rows, scale = out, None
        return rows

    def _launcher(self, number: int, scaled: bool, derivative: bool) -> Launcher:
        known = self._known.get((number, scaled, derivative))
        if known is None:
            constants: dict[str, Any] = {"PADDED": self._stride % SECTOR == 0, "SECTOR": SECTOR}
            known = self._known[number, scaled, derivative] = Launcher(
                band_kernel, 0, 2, SCALED=scaled, DERIVATIVE=derivative, **constants,
                **self._axes[number].tile,
            )  # fmt: skip
        return known


def band_tile(length: int, width: int) -> tuple[int, int, int]:
    """Rows, taps and columns of a program; in the interpreter, as many as Triton allows in one tile."""
    high = block(64, max(length, 16))
    taps = min(max(power_of_2(length), 16), 64) if INTERPRETED else 32
    most = 2**20 // high if INTERPRETED else 64
    return high, taps, min(max(power_of_2(width), 16), most)
