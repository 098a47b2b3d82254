# SPDX-License-Identifier: MIT
"""A problem as a flat set of tensors, the arguments of the mean-field operators and their backends."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from crfrnn.crf.kernels import GaussianKernel
from crfrnn.crf.problem import Problem
from crfrnn.lattice import Lattice, Separable

Group = list[Tensor]
Groups = tuple[Group, Group, Group, Group, Group]


class KernelParts(NamedTuple):
    """post · (K (pre · v)), where K is a lattice or a Gaussian over the grid."""

    weights: Tensor  # barycentric, of a lattice
    tables: tuple[Tensor, ...]  # its structure
    theta: Tensor | None  # Float64[axes] in the order x, y, z; None: a lattice
    pre: Tensor | None  # Float[B * N]
    post: Tensor | None


class KernelGradient(NamedTuple):
    """Gradients accumulated by the backend over the iterations; None if not needed."""

    weights: Tensor | None
    theta: Tensor | None
    pre: Tensor | None
    post: Tensor | None


class Parts(NamedTuple):
    """Everything but the logits: x ← (1 - η) x + η (U + Σ_m A_m K_m softmax(x))."""

    transform: Tensor  # [K, L, L], A_m = -μ W_m
    kernels: tuple[KernelParts, ...]
    grid: tuple[int, ...]
    mask: Tensor | None  # Bool[B, N]
    clamp: Tensor | None  # Int32[B, N], -1 = free
    iterations: int
    damping: float
    in_play: float = 0.0  # δ

    @staticmethod
    def of(
        transform: Tensor,
        weights: Sequence[Tensor],
        tables: Sequence[Tensor],
        thetas: Sequence[Tensor],
        pres: Sequence[Tensor],
        posts: Sequence[Tensor],
        grid: Sequence[int],
        *rest: Any,
    ) -> Parts:
        """Build from an operator's arguments, in which an empty tensor is an absent part of a kernel."""
        each = len(tables) // len(weights)
        kernels = (
            # If everything is masked, a lattice has no points and its weights are empty too.
            KernelParts(weight, tuple(tables[m * each : (m + 1) * each]), *map(_or_none, others))
            for m, (weight, *others) in enumerate(zip(weights, thetas, pres, posts, strict=True))
        )
        return Parts(transform, tuple(kernels), tuple(grid), *rest)


def _or_none(tensor: Tensor) -> Tensor | None:
    return tensor if tensor.numel() else None


def take_apart(problem: Problem) -> Groups:
    """Weights, tables, thetas, pres and posts of its kernels, as `Parts.of` takes them."""
    unary = problem.unary
    none, batch, pixels = unary.new_empty(0), unary.shape[0], math.prod(unary.shape[2:])
    kernels: list[Any] = list(problem.kernels)
    each = max([len(k.operator.structure) for k in kernels if isinstance(k.operator, Lattice)], default=0)
    groups: Groups = ([], [], [], [], [])
    for kernel in kernels:
        if isinstance(kernel.operator, Lattice):
            own = ([kernel.operator.weights], list(kernel.operator.structure), [none])
        else:
            own = ([none], [none] * each, [kernel.operator.theta.double()])
        scales = (
            [none if s is None else s.float().expand(batch, pixels).reshape(-1)]
            for s in (kernel.pre, kernel.post)
        )
        for group, tensors in zip(groups, (*own, *scales), strict=True):
            group.extend(tensors)
    return groups


def why_not(problem: Problem, backend: str, most_labels: int) -> str | None:
    """Why the operators cannot run a problem on any backend, or None if they can."""
    unary = problem.unary
    if unary.dtype != torch.float32:
        return "unary: not float32; float64 runs in plain torch"
    if problem.activation != "softmax":
        return "activation: not softmax"
    if not problem.kernels or math.prod(unary.shape) == 0:
        return "kernels, unary: nothing to filter"
    if unary.shape[1] > most_labels:
        return f"unary: more than {most_labels} labels"
    for kernel in problem.kernels:
        reason = _why_not(kernel, unary, backend)
        if reason is not None:
            return reason
    return None


def _why_not(kernel: Any, unary: Tensor, backend: str) -> str | None:
    if type(kernel) is not GaussianKernel or kernel.self_term is not None or kernel.reverse:
        return "kernels: not a GaussianKernel, or one without its self term, or transposed"
    operator = kernel.operator
    if isinstance(operator, Lattice):
        if operator.backend != backend or operator.weights.device != unary.device:
            return "kernels: a lattice on a different backend or device than the unary"
        same = operator.shape[0] == unary.shape[0] and operator.weights.dtype == unary.dtype
        return None if same else "kernels: a lattice of a different batch size or dtype than the unary"
    if not isinstance(operator, Separable):
        return "kernels: an exact sum over all pairs"
    if len(operator.grid) > 3 or operator.theta.device != unary.device:
        return "kernels: a grid of more than three axes, or bandwidths on another device"
    same = len(operator.grid) == unary.ndim - 2
    # Compared number by number: for torch.compile two tuples of symbolic sizes are never equal.
    if not same or any(n != m for n, m in zip(operator.grid, unary.shape[2:], strict=True)):
        return "kernels: a different grid than the unary"
    return None
