# SPDX-License-Identifier: MIT
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportMissingImports=false
"""What mean field on the GPU works on, and the Gaussian over its grid."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from crfrnn.crf import triton_kernels
from crfrnn.lattice import triton_filter
from crfrnn.lattice.triton_filter import Structure
from crfrnn.lattice.triton_launch import FUSED, INTERPRETED, block, ceil_div, power_of_2


class LatticeKernel(NamedTuple):
    """A lattice with the factors of the pixels."""

    structure: Structure
    weights: Tensor  # [P, d+1]
    pre: Tensor | None  # [P]
    post: Tensor | None

    def scaled(self, scale: Tensor | None) -> Tensor:
        return self.weights if scale is None else self.weights * scale.unsqueeze(1)


class SeparableKernel(NamedTuple):
    """A Gaussian over the grid with the factors of the pixels."""

    theta: Tensor  # Float[axes] in the order x, y, z
    pre: Tensor | None
    post: Tensor | None


class Problem(NamedTuple):
    """What stays the same over the iterations."""

    transform: Tensor  # [K, L, L], A_m = -μ W_m
    kernels: tuple[LatticeKernel | SeparableKernel, ...]
    grid: tuple[int, ...]
    mask: Tensor | None  # UInt8[P]
    clamp: Tensor | None  # Int32[P]
    damping: float

    @property
    def labels(self) -> int:
        return self.transform.shape[1]

    def launch(self, total: int) -> tuple[tuple[int], dict[str, object]]:
        """Grid and constants of a kernel over blocks of pixels."""
        wide = max(power_of_2(self.labels), 16)
        # What needs no stack beside its registers (tests/triton_targets.py).
        high = block(32 if wide == 64 else 16, max(total, 16))
        flags = {"MASKED": self.mask is not None, "CLAMPED": self.clamp is not None}
        return (ceil_div(total, high),), {
            **flags,
            "BLOCK": high,
            "LABELS": wide,
            "num_warps": 8 if wide > 32 else 4,
            **FUSED,
        }


def band(
    problem: Problem, rows: Tensor, theta: Tensor, scale: Tensor | None, derivative: int | None = None
) -> Tensor:
    """The Gaussian over the grid of rows [P, stride], `scale` first; with `derivative` d/dθ of that axis."""
    total, stride = rows.shape
    axes = len(problem.grid)
    step = 1
    for axis in range(axes):  # x is the last axis of the grid
        length = problem.grid[axes - 1 - axis]
        width = step * stride
        out = torch.empty_like(rows)
        high, taps, columns = band_tile(length, width)
        outer = total // (length * step)
        triton_kernels.band_kernel[(outer * ceil_div(length, high) * ceil_div(width, columns),)](
            rows, out, rows if scale is None else scale, theta[axis:], length, width, stride, length * width,
            length * width, triton_kernels.CUT, SCALED=scale is not None, DERIVATIVE=derivative == axis,
            BLOCK=high, TAPS=taps, COLUMNS=columns, **FUSED,
        )  # fmt: skip
        rows, scale, step = out, None, step * length
    return rows


def band_tile(length: int, width: int) -> tuple[int, int, int]:
    """Rows, taps and columns of a program of `band`; interpreted, as many as Triton takes in one tile."""
    high = block(64, max(length, 16))
    taps = min(max(power_of_2(length), 16), 64) if INTERPRETED else 32
    most = 2**20 // high if INTERPRETED else 64
    return high, taps, min(max(power_of_2(width), 16), most)


def inward(kernel: LatticeKernel | SeparableKernel, scale: Tensor | None) -> Tensor:
    """Weights of a splat with the factors of the pixels, in the order of its sums."""
    if isinstance(kernel, SeparableKernel):
        return kernel.theta.new_empty(0)
    return triton_filter.shares(kernel.scaled(scale), kernel.structure)


def times(rows: Tensor, scale: Tensor | None) -> Tensor:
    return rows if scale is None else rows * scale.unsqueeze(1)


def given(tensor: Tensor | None, other: Tensor) -> Tensor:
    return other if tensor is None else tensor
