# SPDX-License-Identifier: MIT
"""The gradient of mean field as a differentiable graph, for higher derivatives.

The backward operator of `crfrnn.crf.ops` runs through all iterations in one call and builds no graph. A
backward pass with ``create_graph=True`` therefore repeats the iterations with `crfrnn.crf.iteration`, over
kernels that have derivatives of every order, and differentiates those. Forward mode and torch.func never
reach the operator, because `mean_field` runs the plain iterations for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import torch
from torch import Tensor

from crfrnn.crf.iteration import Iteration, without_padding
from crfrnn.crf.parts import KernelParts, Parts
from crfrnn.crf.recompute import recomputed
from crfrnn.lattice import Lattice, Separable


@dataclass(frozen=True, eq=False)
class ScaledKernel:
    """post · (K (pre · v)) of an operator's parts, where K is a lattice or separable."""

    operator: Lattice | Separable
    pre: Tensor | None  # Float[B * N]
    post: Tensor | None

    def __matmul__(self, values: Tensor) -> Tensor:
        """Float[B, N, L] -> Float[B, N, L]."""
        column = (*values.shape[:2], 1)
        if self.pre is not None:
            values = values * self.pre.view(column)
        values = self.operator.apply(values)
        return values if self.post is None else values * self.post.view(column)


def differentiate(
    grad: Tensor,
    unary: Tensor,
    initial: Tensor | None,
    transform: Tensor,
    groups: Sequence[Sequence[Tensor]],
    rest: Sequence[Any],
    backend: str,
) -> tuple[Any, ...]:
    """Differentiable gradients of <grad, logits> by unary, initial, transform, and lists for `groups`.

    grad, unary, initial: [B, L, N]. groups, rest: the kernels and the remaining arguments of `Parts.of`.
    None for inputs that need no gradient.
    """
    graph = torch.is_grad_enabled()
    # Each input is separated: in the caller's graph one may be a function of another.
    with torch.enable_grad():
        flat = [None if t is None else t.view_as(t) for t in (unary, initial, transform, *chain(*groups))]
        logits = _logits(flat, [len(group) for group in groups], rest, backend)
    wanted = [t for t in flat if t is not None and t.requires_grad]
    found = iter(torch.autograd.grad(logits, wanted, grad, create_graph=graph, allow_unused=True))
    gradients = iter([next(found) if t is not None and t.requires_grad else None for t in flat])
    own = next(gradients), next(gradients), next(gradients)
    return *own, *([*islice(gradients, len(group))] for group in groups)


def _logits(flat: Sequence[Any], counts: Sequence[int], rest: Sequence[Any], backend: str) -> Tensor:
    """x after the last iteration, Float[B, L, N]; flat: unary, initial, transform, `counts` of each group."""
    unary, initial, transform, *others = flat
    tensors = iter(others)
    parts = Parts.of(transform, *([*islice(tensors, count)] for count in counts), *rest)
    shape = unary.shape[0], unary.shape[2]
    kernels = [
        ScaledKernel(_operator(kernel, parts.grid, shape, backend), kernel.pre, kernel.post)
        for kernel in parts.kernels
    ]
    # A_m includes the compatibility and its sign.
    minus = -torch.eye(unary.shape[1], dtype=unary.dtype, device=unary.device)
    update = Iteration.over(
        unary.mT, kernels, transform.unbind(), minus, parts.mask, parts.clamp, damping=parts.damping
    )
    x = without_padding((unary if initial is None else initial).mT, update.valid)
    for _ in range(parts.iterations):
        x = recomputed(update, x)
    return x.mT


def _operator(
    kernel: KernelParts, grid: tuple[int, ...], shape: tuple[int, int], backend: str
) -> Lattice | Separable:
    if kernel.theta is None:
        return Lattice(kernel.weights, kernel.tables, backend, shape)
    return Separable(grid, kernel.theta.float())
