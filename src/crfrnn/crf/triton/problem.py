# SPDX-License-Identifier: MIT
"""The inputs of mean field on the GPU."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from crfrnn.lattice.triton.filter import Structure, shares
from crfrnn.lattice.triton.launch import block, ceil_div, power_of_2


class LatticeKernel(NamedTuple):
    """A lattice with its per-pixel factors."""

    structure: Structure
    weights: Tensor  # [P, d+1]
    pre: Tensor | None  # [P]
    post: Tensor | None

    def scaled(self, scale: Tensor | None) -> Tensor:
        return self.weights if scale is None else self.weights * scale.unsqueeze(1)

    def inward(self, scale: Tensor | None) -> Tensor:
        """Splat weights with per-pixel factors, in summation order."""
        return shares(self.scaled(scale), self.structure)


class SeparableKernel(NamedTuple):
    """A Gaussian over the grid with its per-pixel factors."""

    theta: Tensor  # Float[axes] in the order x, y, z
    pre: Tensor | None
    post: Tensor | None


class Problem(NamedTuple):
    """Everything that is constant over the iterations."""

    transform: Tensor  # [K, L, L], A_m = -μ W_m
    kernels: tuple[LatticeKernel | SeparableKernel, ...]
    grid: tuple[int, ...]
    mask: Tensor | None  # UInt8[P]
    clamp: Tensor | None  # Int32[P]
    damping: float
    points: int  # P, pixels of the whole batch
    in_play: float = 0.0  # δ

    @property
    def labels(self) -> int:
        return self.transform.shape[1]

    def launch(self) -> tuple[int, dict[str, object]]:
        """Programs and constants of a kernel over blocks of pixels."""
        wide = max(power_of_2(self.labels), 16)
        # Block sizes without register spills (tests/gpu/triton_targets.py).
        high = block(32 if wide == 64 else 16, max(self.points, 16))
        flags = {"MASKED": self.mask is not None, "CLAMPED": self.clamp is not None}
        return ceil_div(self.points, high), {
            **flags,
            "BLOCK": high,
            "LABELS": wide,
            "num_warps": 16 if wide > 128 else 8 if wide > 32 else 4,
        }


def times(rows: Tensor, scale: Tensor | None) -> Tensor:
    return rows if scale is None else rows * scale.unsqueeze(1)


def given(tensor: Tensor | None, other: Tensor) -> Tensor:
    return other if tensor is None else tensor
