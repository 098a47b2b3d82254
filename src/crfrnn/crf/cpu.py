# SPDX-License-Identifier: MIT
"""Mean field in the native core (native/mean_field.hpp): the same bits for any number of threads."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from crfrnn import _native
from crfrnn.crf.parts import KernelGradient, KernelParts, Parts, why_not
from crfrnn.crf.problem import Problem

MOST_LABELS = 1024  # limit of the core's stack buffers
AXES = 3  # of its grid, outermost first; a missing axis has length 1
CHECKS_LATER: bool = False


def can(problem: Problem) -> str | None:
    return why_not(problem, "cpu", MOST_LABELS)


def kept(unary: Tensor, iterations: int) -> tuple[int, ...]:
    """Size of the saved Q of all iterations, padded because SIMD packs read past the last number."""
    return (iterations * (unary.numel() + _native.row_room),)


def mean_field(
    parts: Parts, unary: Tensor, initial: Tensor | None, keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    logits = torch.empty_like(unary)
    marginals = torch.from_numpy(_native.rows(*kept(unary, parts.iterations if keep else 0)))
    _native.mean_field(_problem(parts, len(unary)), unary, initial, logits, marginals if keep else None)
    return logits, marginals, unary.new_ones((), dtype=torch.bool)


def labels(parts: Parts, unary: Tensor) -> Tensor:
    """The label of the largest logit of each pixel, Int16[B, N], without writing the logits."""
    found = torch.empty(unary.shape[0], unary.shape[2], dtype=torch.int16)
    _native.mean_field_labels(_problem(parts, len(unary)), unary, found)
    return found


def memory(like: Tensor) -> Tensor:
    """Uninitialised Float32 of this shape, in memory that the core reuses across calls."""
    return torch.from_numpy(_native.rows(like.numel())).view(like.shape)


def gradients(
    parts: Parts, grad: Tensor, kept: Tensor, started: bool, kernels: Sequence[KernelGradient]
) -> tuple[Tensor, Tensor, Tensor]:
    to_unary, to_transform = torch.empty_like(grad), torch.empty_like(parts.transform)
    start = torch.empty_like(grad) if started else None
    thetas = [None if k.theta is None else k.theta.new_zeros(AXES, dtype=torch.float64) for k in kernels]
    native = [
        _native.KernelGradient(weights=kernel.weights, theta=theta, pre=kernel.pre, post=kernel.post)
        for kernel, theta in zip(kernels, thetas, strict=True)
    ]
    _native.mean_field_backward(_problem(parts, len(grad)), grad, kept, to_unary, start, to_transform, native)
    for kernel, theta in zip(kernels, thetas, strict=True):
        if kernel.theta is not None and theta is not None:
            kernel.theta.copy_(theta.flip(0)[: len(kernel.theta)])
    return to_unary, grad.new_empty(0) if start is None else start, to_transform


def update(parts: Parts, unary: Tensor, marginals: Tensor, normalize: bool, out: Tensor | None) -> Tensor:
    """One iteration over rows Float32[N, L], starting from Q, not x; without a gradient (crf/update.py)."""
    out = memory(unary) if out is None else out
    _native.update(_problem(parts, 1), unary, marginals, normalize, out)
    return out


def _problem(parts: Parts, batch: int) -> _native.Problem:
    grid, mask, clamp = parts.grid, parts.mask, parts.clamp
    return _native.Problem(
        kernels=[_kernel(kernel) for kernel in parts.kernels],
        transform=parts.transform.contiguous(),
        batch=batch,
        grid=[1] * (AXES - len(grid)) + [*grid] if len(grid) <= AXES else [1, 1, math.prod(grid)],
        mask=None if mask is None else mask.to(torch.uint8).contiguous(),
        clamp=None if clamp is None else clamp.contiguous(),
        iterations=parts.iterations,
        damping=parts.damping,
        in_play=parts.in_play,
        threads=torch.get_num_threads(),
    )


def _kernel(kernel: KernelParts) -> _native.Kernel:
    pre, post = (None if s is None else s.contiguous() for s in (kernel.pre, kernel.post))
    if kernel.theta is None:
        return _native.Kernel.lattice(kernel.weights.contiguous(), kernel.tables[0], pre, post)
    theta = kernel.theta.tolist()
    return _native.Kernel.separable([1.0] * (AXES - len(theta)) + theta[::-1], pre, post)
