# SPDX-License-Identifier: MIT
"""The GPU backend: Triton kernels, float32 and float64, any channel count, the same bits in every run.

Points keep the caller's order; masked ones have weights 0 and no vertex.
"""

from __future__ import annotations

import torch
from torch import Tensor

from crfrnn.lattice.reference import Simplices
from crfrnn.lattice.triton.build import build as build
from crfrnn.lattice.triton.build import fake_build as fake_build
from crfrnn.lattice.triton.build import feature_gradient as feature_gradient
from crfrnn.lattice.triton.exact import gaussian_gradients as gaussian_gradients
from crfrnn.lattice.triton.exact import gaussian_sum as gaussian_sum
from crfrnn.lattice.triton.filter import filter as filter
from crfrnn.lattice.triton.filter import weight_gradient as weight_gradient
from crfrnn.lattice.triton.launch import INTERPRETED

differentiable = False
# Maximum dimension of a point, by method, limited by the registers of a program.
MOST_DIMENSIONS = {"lattice": 8, "exact": 16}


def can(device: torch.device, method: str, dtype: torch.dtype, dimension: int) -> str | None:
    if device.type != "cuda" and not INTERPRETED:
        return (
            f'backend: "triton" works on CUDA tensors, got one on {device}; use .cuda(), or backend=None, '
            "which chooses by the device"
        )
    if method == "exact" and (dtype != torch.float32 or dimension > MOST_DIMENSIONS[method]):
        return (
            f"features: expected float32 and 1 to {MOST_DIMENSIONS[method]} numbers per point for an exact "
            f'sum by backend "triton", got {dtype} and {dimension}; pass backend=None, which uses torch'
        )
    if dimension > MOST_DIMENSIONS[method]:
        return (
            f"features: expected 1 to {MOST_DIMENSIONS[method]} numbers per point on a GPU, got {dimension}; "
            "project the guide to 3 to 5 principal components (guide_components=3), or compute on the CPU, "
            "which takes 32"
        )
    return None


def num_vertices(*structure: Tensor) -> int:
    return structure[2].shape[-1] - 1


def simplices(*structure: Tensor, weights: Tensor | None = None) -> Simplices:
    corner, rank, neighbour = structure[:3]
    return Simplices(corner, neighbour, rank, len(corner), None)
