# SPDX-License-Identifier: MIT
"""Lattice: an immutable value, built once per kernel and batch and reused for many filters."""

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
    barycentric weights S and the stencil v + ½(n₁ + n₂) along each axis; with quality "high" three
    axes are blurred at once by the product of their stencils, which also connects vertices across a missing
    one. The amplitude depends on the lattice (in five sparse dimensions about half of the exact sum): divide
    by the filter's response to ones.

    Adams, Baek & Davis, Computer Graphics Forum 29(2), 2010, doi:10.1111/j.1467-8659.2009.01645.x.

    >>> lattice = Lattice.build(torch.rand(2, 30, 3), backend="reference")
    >>> lattice.filter(torch.ones(2, 30, 4)).shape
    torch.Size([2, 30, 4])
    """

    weights: Tensor  # barycentric, differentiable in the features; rows in the backend's own order
    structure: Structure  # private to the backend
    backend: str
    shape: tuple[int, int]  # (B, N)

    is_symmetric = False  # with missing vertices the axis blurs do not commute

    @staticmethod
    def build(
        features: Tensor,
        quality: str | Quality = "default",
        mask: Tensor | None = None,
        backend: str | None = None,
    ) -> Lattice:
        """Build the lattice of the points.

        features  Float[B, N, d], d = 1..32 (GPU: 1..8), in units of the bandwidths; half types use float32
        quality   "classic" | "default" | "high" | "finest", see `crfrnn.lattice.quality`
        mask      Bool[B, N], True = valid: a masked point creates no vertex, sends nothing and receives 0
        backend   None: chosen by the device; "reference" is plain torch and works on every device
        """
        return Lattice.of_checked(check_features(features, mask), get_quality(quality), mask, backend)

    @staticmethod
    def of_checked(features: Tensor, setting: Quality, mask: Tensor | None, backend: str | None) -> Lattice:
        """`build` for features returned by `check_features`."""
        refuse_torchscript("Lattice.build")
        name = choose(features.device, "lattice", features.dtype, features.shape[2], backend)
        weights, *structure = ops.build(name, features.contiguous(), mask, *setting[:4])
        if setting.unit_diagonal:
            weights = reference.unit_diagonal(weights)
        return Lattice(weights, tuple(structure), name, (features.shape[0], features.shape[1]))

    def filter(self, values: Tensor, reverse: bool = False) -> Tensor:
        """Float[B, N, C] -> Float[B, N, C]; `reverse`: the adjoint. A lattice of batch 1 fits any batch.

        In float64 if values or features are, else in float32. Differentiable in values and features.
        Bit-identical from run to run on the CPU.
        """
        return self.apply(check_values(values, *self.shape, self.weights.device), reverse)

    def apply(self, values: Tensor, reverse: bool = False) -> Tensor:
        """`filter` of values returned by `check_values`."""
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
        """The self term of each point, Float[B, N]: the diagonal of the actual operator."""
        simplices = find(self.backend).simplices(*joined(self.structure), weights=self.weights)
        return split(reference.diagonal(self.weights, simplices), self.structure).view(self.shape)

    @property
    def num_vertices(self) -> int:
        """Number of vertices of the whole batch."""
        return find(self.backend).num_vertices(*self.structure)

    def to(self, device: torch.device | str) -> Lattice:
        """The same lattice on another device; only the backend "reference" works on every device."""
        device = torch.device(device)
        choose(device, "lattice", self.weights.dtype, self.weights.shape[-1] - 1, self.backend)
        return Lattice(
            self.weights.to(device), tuple(t.to(device) for t in self.structure), self.backend, self.shape
        )
