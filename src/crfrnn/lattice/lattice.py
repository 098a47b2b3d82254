# SPDX-License-Identifier: MIT
"""Lattice: a frozen value, built once per kernel and batch, filtered with many times."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from crfrnn.lattice import ops, reference
from crfrnn.lattice.backend import choose, find
from crfrnn.lattice.quality import Quality, get_quality
from crfrnn.lattice.samples import Structure, joined, split
from crfrnn.lattice.validate import check_features, check_values, compute_dtype, refuse_torchscript


@dataclass(frozen=True, eq=False)
class Lattice:
    """A Gaussian filter over scattered points, O(N): the permutohedral lattice.

    filter(v)_i ≈ Σ_j exp(-½ |f_i - f_j|²) v_j, unnormalised: S · B_d ⋯ B_0 · Sᵀ / (1 + 2^-d) with the
    barycentric weights S and the stencil v + ½(n₁ + n₂) along each axis; with quality "high" the product of
    three axes' stencils at once, so that no path ends at a missing vertex between two existing ones. Its
    amplitude depends on the lattice (about half the exact sum's in five sparse dimensions): divide by the
    filter's response to ones.

    Adams, Baek & Davis, Computer Graphics Forum 29(2), 2010, doi:10.1111/j.1467-8659.2009.01645.x.

    >>> lattice = Lattice.build(torch.rand(2, 30, 3), backend="reference")
    >>> lattice.filter(torch.ones(2, 30, 4)).shape
    torch.Size([2, 30, 4])
    """

    weights: Tensor  # barycentric, differentiable in the features; rows in the backend's own order
    structure: Structure  # private to the backend
    backend: str
    shape: tuple[int, int]  # (B, N)

    is_symmetric = False  # where vertices are missing the axis blurs do not commute

    @staticmethod
    def build(
        features: Tensor,
        quality: str | Quality = "default",
        mask: Tensor | None = None,
        backend: str | None = None,
    ) -> Lattice:
        """Find the lattice of the points.

        features  Float[B, N, d], d = 1..32 (a GPU: 8), in units of the bandwidths; half precision: in float32
        quality   "classic" | "default" | "high" | "finest", see `crfrnn.lattice.quality`
        mask      Bool[B, N], True = valid: a masked point makes no vertex, sends nothing and receives 0
        backend   None chooses by the device; "reference" is plain torch and works on every device
        """
        return Lattice.of_checked(check_features(features, mask), get_quality(quality), mask, backend)

    @staticmethod
    def of_checked(features: Tensor, setting: Quality, mask: Tensor | None, backend: str | None) -> Lattice:
        """`build`, of features that `check_features` gave."""
        refuse_torchscript("Lattice.build")
        name = choose(features.device, "lattice", features.dtype, features.shape[2], backend)
        weights, *structure = ops.build(name, features.contiguous(), mask, *setting[:4])
        if setting.unit_diagonal:
            weights = reference.unit_diagonal(weights)
        return Lattice(weights, tuple(structure), name, (features.shape[0], features.shape[1]))

    def filter(self, values: Tensor, reverse: bool = False) -> Tensor:
        """Float[B, N, C] -> Float[B, N, C]; `reverse` gives the adjoint. A lattice of batch 1 serves any.

        In float64 where values or features are, else in float32. Differentiable in values and features.
        Bit-identical from run to run on the CPU.
        """
        return self.apply(check_values(values, *self.shape, self.weights.device), reverse)

    def apply(self, values: Tensor, reverse: bool = False) -> Tensor:
        """`filter` of values as `check_values` gives them."""
        batch, points = self.shape
        dtype = compute_dtype(values, self.weights)
        values, weights = values.to(dtype), self.weights.to(dtype)
        pictures, _, channels = values.shape
        if pictures == batch:
            rows = values.reshape(pictures * points, channels)
            return ops.filter(self.backend, rows, weights, reverse, *self.structure).view(values.shape)
        # One lattice for the whole batch: pictures become channels.
        rows = values.transpose(0, 1).reshape(points, pictures * channels)
        out = ops.filter(self.backend, rows, weights, reverse, *self.structure)
        return out.view(points, pictures, channels).transpose(0, 1)

    def diagonal(self) -> Tensor:
        """What each point receives from itself, Float[B, N]: the diagonal of the operator that runs."""
        simplices = find(self.backend).simplices(*joined(self.structure), weights=self.weights)
        return split(reference.diagonal(self.weights, simplices), self.structure).view(self.shape)

    @property
    def num_vertices(self) -> int:
        """Vertices of the whole batch."""
        return find(self.backend).num_vertices(*self.structure)

    def to(self, device: torch.device | str) -> Lattice:
        """The same lattice on another device; only the backend "reference" works on every device."""
        device = torch.device(device)
        choose(device, "lattice", self.weights.dtype, self.weights.shape[-1] - 1, self.backend)
        return Lattice(
            self.weights.to(device), tuple(t.to(device) for t in self.structure), self.backend, self.shape
        )
