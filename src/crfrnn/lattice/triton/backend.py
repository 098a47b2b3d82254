# SPDX-License-Identifier: MIT
"""The GPU backend: Triton kernels, float32 and float64, any channel count, the same bits in every run.

Points keep the caller's order; masked ones have weights 0 and no vertex.
"""

from __future__ import annotations

import torch
from torch import Tensor

from crfrnn.lattice import reference
from crfrnn.lattice.quality import Quality
from crfrnn.lattice.samples import Structure, joined, split
from crfrnn.lattice.triton import exact as triton_exact  # noqa: F401  registers torch.ops.crfrnn.triton_gaussian_*
from crfrnn.lattice.triton import ops as triton_ops
from crfrnn.lattice.triton.launch import INTERPRETED as INTERPRETED

# Numbers per point: the registers of a program hold no more.
MOST_DIMENSIONS = {"lattice": 8, "exact": 16}


def can(device: torch.device, method: str, dtype: torch.dtype, dimension: int) -> str | None:
    if device.type != "cuda" and not INTERPRETED:
        return (
            f'backend: "triton" works on CUDA tensors, got one on {device}; use .cuda(), or backend=None, '
            "which chooses by the device"
        )
    if dimension > MOST_DIMENSIONS[method]:
        return (
            f"features: expected 1 to {MOST_DIMENSIONS[method]} numbers per point on a GPU, got {dimension}; "
            "project the guide to 3 to 5 principal components (guide_components=3), or compute on the CPU, "
            "which takes 32"
        )
    if method == "exact" and dtype != torch.float32:
        return f'features: expected float32 for the exact sum of backend "triton", got {dtype}'
    return None


def build(features: Tensor, quality: Quality, mask: Tensor | None) -> tuple[Tensor, Structure]:
    """Float[B, N, d], d = 1..8 -> barycentric weights Float[B·N, d+1] and the structure."""
    options = (quality.scale, quality.rings, quality.ring_support)
    weights, *structure = triton_ops.operators.build(features.contiguous(), mask, *options)
    if quality.unit_diagonal:
        weights = reference.unit_diagonal(weights)
        if mask is not None:  # itself of one sample under vmap, where the structure is of all
            weights = torch.where(structure[0] < structure[2].shape[-1] - 1, weights, 0)
    return weights, tuple(structure)


def filter(values: Tensor, weights: Tensor, structure: Structure, reverse: bool) -> Tensor:
    """Splat, blur along axes 0..d (d..0 when `reverse`), slice, times 1 / (1 + 2^-d)."""
    batch, points, channels = values.shape
    out = triton_ops.operators.filter(values.reshape(batch * points, channels), weights, reverse, structure)
    return out.view(batch, points, channels)


def num_vertices(structure: Structure) -> int:
    return structure[2].shape[-1] - 1


def diagonal(weights: Tensor, structure: Structure) -> Tensor:
    """The operator's own diagonal, Float[B·N], 0 at masked points."""
    corner, rank, neighbour = (t.long() for t in joined(structure)[:3])
    return split(reference.diagonal(weights, (corner, neighbour, rank)), structure)
