# SPDX-License-Identifier: MIT
"""The GPU backend: Triton kernels, float32 and float64, any channel count, the same bits in every run.

Points keep the caller's order; masked ones have weights 0 and no vertex.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from crfrnn.lattice.reference import Simplices
from crfrnn.lattice.triton import build as triton_build
from crfrnn.lattice.triton import filter as triton_filter
from crfrnn.lattice.triton.exact import gaussian_pull, gaussian_sum
from crfrnn.lattice.triton.filter import Structure
from crfrnn.lattice.triton.launch import INTERPRETED

differentiable = False
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


def build(
    features: Tensor, mask: Tensor | None, scale: float, rings: int, ring_support: int, padded: bool
) -> list[Tensor]:
    """Float[B, N, d], d = 1..8 -> barycentric weights Float[B·N, d+1] and the structure."""
    if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
        raise ValueError(
            "features: a lattice learns its size from the device, expected a stream that is not captured, "
            "got one that is; build kernels before torch.cuda.graph(...) and capture mean_field alone"
        )
    return [*triton_build.build(features.detach(), mask, scale, rings, ring_support)]


def fake_build(
    features: Tensor, mask: Tensor | None, scale: float, rings: int, ring_support: int, padded: bool
) -> list[Tensor]:
    """Sizes come from the data: torch.compile breaks its graph here and continues after it.

    `fullgraph=True` requires `torch._dynamo.config.capture_dynamic_output_shape_ops`.
    """
    context = torch.library.get_ctx()
    points, size = features.shape[0] * features.shape[1], features.shape[2] + 1
    entries = points * size if mask is None else context.new_dynamic_size(min=0)
    vertices = context.new_dynamic_size(min=1)
    bounds = [features.new_empty(context.new_dynamic_size(min=0), dtype=torch.int64) for _ in range(3)]
    index = torch.int32 if points * size * (1 + 2 * size) ** rings < 2**31 else torch.int64
    return [
        features.new_empty(points, size),
        features.new_empty(points, size, dtype=index),
        features.new_empty(points, size, dtype=torch.int8),
        features.new_empty(size, 2, vertices, dtype=index),
        features.new_empty(entries, dtype=index),
        *bounds,
    ]


def filter(values: Tensor, weights: Tensor, reverse: bool, *structure: Tensor) -> Tensor:
    return triton_filter.filter(values, weights, Structure.of(structure), reverse)


def weight_gradient(x: Tensor, g: Tensor, weights: Tensor, *structure: Tensor) -> Tensor:
    return triton_filter.weight_gradient(x, g, weights, Structure.of(structure))


def feature_gradient(grad_weights: Tensor, features: Tensor, scale: float, *structure: Tensor) -> Tensor:
    return triton_build.feature_gradient(grad_weights, structure[1], scale).view(features.shape)


def num_vertices(*structure: Tensor) -> int:
    return Structure.of(structure).vertices


def simplices(*structure: Tensor, weights: Tensor | None = None) -> Simplices:
    corner, rank, neighbour = structure[:3]
    return Simplices(corner, neighbour, rank, len(corner), None)


def gaussian_gradients(
    features: Tensor, values: Tensor, queries: Tensor, grad: Tensor, wanted: Sequence[bool]
) -> list[Tensor]:
    """K is symmetric in its two lists of points: each gradient is a forward product with them exchanged."""
    none = values.new_empty(0)
    return [
        gaussian_pull(features, queries, values, grad) if wanted[0] else none,
        gaussian_sum(queries, grad, features) if wanted[1] else none,
        gaussian_pull(queries, features, grad, values) if wanted[2] else none,
    ]
