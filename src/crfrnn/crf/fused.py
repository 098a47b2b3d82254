# SPDX-License-Identifier: MIT
"""The whole inference as one native operator: forward in one call, backward in one call, no graph in between.

Everything that does not mix pixels is folded into A_m = -μ W_m before, so the operator knows only
x ← (1 - η) x + η (U + Σ_m A_m K_m softmax(x)) and returns the gradients of U, A_m and of what K_m is made of.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from crfrnn.crf import ops  # noqa: F401  registers torch.ops.crfrnn.mean_field
from crfrnn.crf.kernels import GaussianKernel
from crfrnn.lattice import Lattice, Separable

MOST_LABELS = 1024  # rows of labels the native core keeps on its stack


def supports(unary: Tensor, kernels: Sequence[Any], activation: str, batch: int) -> bool:
    """Whether the native operator can run this: float32 on the CPU, softmax, plain Gaussian kernels."""
    if unary.device.type != "cpu" or unary.dtype != torch.float32 or activation != "softmax" or not kernels:
        return False
    if not 1 <= unary.shape[1] <= MOST_LABELS or math.prod(unary.shape) == 0:
        return False
    return all(_supported(kernel, tuple(unary.shape[2:]), batch) for kernel in kernels)


def _supported(kernel: Any, grid: tuple[int, ...], batch: int) -> bool:
    if type(kernel) is not GaussianKernel or kernel.self_term is not None or kernel.reverse:
        return False
    operator = kernel.operator
    if isinstance(operator, Lattice):
        return (
            operator.backend == "cpu"
            and operator.shape[0] == batch
            and operator.weights.dtype == torch.float32
        )
    return isinstance(operator, Separable) and operator.grid == grid and len(grid) <= 3


def run(
    unary: Tensor,
    kernels: Sequence[GaussianKernel],
    weights: Sequence[Tensor],
    compatibility: Tensor,
    iterations: int,
    mask: Tensor | None,
    clamp: Tensor | None,
    damping: float,
    initial: Tensor | None,
) -> Tensor:
    """Logits Float[B, L, *spatial]; the arguments as `mean_field` has checked them."""
    batch = unary.shape[0]
    grid = list(unary.shape[2:])
    pixels = math.prod(grid)
    transform = torch.stack([-(compatibility * w if w.ndim < 2 else compatibility @ w) for w in weights])
    none = unary.new_empty(0)
    parts: list[list[Tensor]] = [[], [], [], [], []]
    for kernel in kernels:
        operator = kernel.operator
        if isinstance(operator, Lattice):
            own = (operator.weights, operator.structure[0], none)
        else:
            own = (none, none, _padded_theta(operator.theta))  # pyright: ignore[reportAttributeAccessIssue]
        scales = (
            none if s is None else s.float().expand(batch, pixels).reshape(-1)
            for s in (kernel.pre, kernel.post)
        )
        for part, tensor in zip(parts, (*own, *scales), strict=True):
            part.append(tensor)
    inputs = [unary, transform, *(t for part in parts for t in part)] + ([] if initial is None else [initial])
    keep = iterations > 0 and torch.is_grad_enabled() and any(t.requires_grad for t in inputs)
    logits, _ = torch.ops.crfrnn.mean_field(
        unary.flatten(2),
        None if initial is None else initial.flatten(2),
        transform,
        *parts,
        [1] * (3 - len(grid)) + grid if len(grid) <= 3 else [1, 1, pixels],
        None if mask is None else mask.flatten(1),
        None if clamp is None else clamp.flatten(1).to(torch.int32),
        iterations,
        damping,
        keep,
    )
    return logits.view(unary.shape)


def _padded_theta(theta: Tensor) -> Tensor:
    """θ in the order x, y, z to three numbers, outermost axis first; a missing axis has length 1."""
    theta = theta.flip(0).double()
    return torch.cat([theta.new_ones(3 - len(theta)), theta])
