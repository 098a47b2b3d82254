# SPDX-License-Identifier: MIT
"""Mean field on the GPU as a torch operator: schema, implementation, fake, gradient, and what calls it."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from crfrnn.crf import second_order
from crfrnn.crf.problem import Problem as InferenceProblem
from crfrnn.crf.triton.backward import KernelGradient, backward
from crfrnn.crf.triton.forward import forward
from crfrnn.crf.triton.problem import LatticeKernel, Problem, SeparableKernel
from crfrnn.lattice import Lattice, Separable
from crfrnn.lattice.triton.filter import Structure
from crfrnn.lattice.validate import readable

_library = torch.library.Library("crfrnn", "FRAGMENT")
_TABLES = 7  # tensors of a lattice's structure
# One entry a kernel, seven in `tables`; an empty tensor is a part that the kernel does not have.
_KERNELS = "Tensor[] weights, Tensor[] tables, Tensor[] thetas, Tensor[] pres, Tensor[] posts"
_REST = "int[] grid, Tensor? mask, Tensor? clamp, float damping"
_library.define(
    f"triton_mean_field(Tensor unary, Tensor? initial, Tensor transform, {_KERNELS}, {_REST},"
    " int iterations, bool keep) -> (Tensor, Tensor, Tensor)"
)
_library.define(
    f"triton_mean_field_backward(Tensor grad, Tensor marginals, Tensor transform, {_KERNELS}, {_REST},"
    " bool[] wanted) -> Tensor[]"
)

_checking: ContextVar[bool] = ContextVar("crfrnn_checking", default=True)


@contextmanager
def unchecked() -> Iterator[None]:
    """Inside, mean field on the GPU does not ask whether the unary is finite: no wait at a call's end."""
    token = _checking.set(False)
    try:
        yield
    finally:
        _checking.reset(token)


def run(problem: InferenceProblem, transform: Tensor) -> Tensor:
    """Logits Float[B, L, *spatial]; A_m = `transform[m]`."""
    unary, initial, mask, clamp = problem.unary, problem.initial, problem.mask, problem.clamp
    batch, grid = unary.shape[0], list(unary.shape[2:])
    none = unary.new_empty(0)
    parts: list[list[Tensor]] = [[], [], [], [], []]
    kernel: Any
    for kernel in problem.kernels:
        operator = kernel.operator
        if isinstance(operator, Lattice):
            own = ([operator.weights], list(operator.structure), [none])
        else:
            own = ([none], [none] * _TABLES, [operator.theta.float()])
        scales = (
            [none if s is None else s.float().expand(batch, math.prod(grid)).reshape(-1)]
            for s in (kernel.pre, kernel.post)
        )
        for part, tensors in zip(parts, (*own, *scales), strict=True):
            part.extend(tensors)
    inputs = [unary, transform, *(t for part in parts for t in part)] + ([] if initial is None else [initial])
    keep = problem.iterations > 0 and torch.is_grad_enabled() and any(t.requires_grad for t in inputs)
    logits, _, finite = torch.ops.crfrnn.triton_mean_field(
        unary.flatten(2), None if initial is None else initial.flatten(2), transform, *parts, grid,
        None if mask is None else mask.flatten().to(torch.uint8),
        None if clamp is None else clamp.flatten().to(torch.int32), problem.damping, problem.iterations, keep,
    )  # fmt: skip
    # The one place that waits for the device: after all has been queued. 0 · x is 0 of finite numbers only.
    if (
        readable(finite)  # first: torch 2.11 cannot trace a context variable
        and _checking.get()
        and not bool(finite & ((0 * transform.detach()).sum() == 0))
    ):
        problem.check_values()
    return logits.view(unary.shape)


def _problem(transform, weights, tables, thetas, pres, posts, grid, mask, clamp, damping) -> Problem:
    kernels: list[LatticeKernel | SeparableKernel] = []
    for m, (weight, theta, *scales) in enumerate(zip(weights, thetas, pres, posts, strict=True)):
        pre, post = (s.contiguous() if s.numel() else None for s in scales)
        if weight.numel():
            structure = Structure.of(tables[m * _TABLES : (m + 1) * _TABLES])
            kernels.append(LatticeKernel(structure, weight.contiguous(), pre, post))
        else:
            kernels.append(SeparableKernel(theta.contiguous(), pre, post))
    return Problem(transform.contiguous(), tuple(kernels), tuple(grid), mask, clamp, damping)


def _forward(unary, initial, transform, weights, tables, thetas, pres, posts, grid, mask, clamp, damping,
             iterations, keep):  # fmt: skip
    problem = _problem(transform, weights, tables, thetas, pres, posts, grid, mask, clamp, damping)
    start = None if initial is None else initial.contiguous()
    return forward(problem, unary.contiguous(), start, iterations, keep)


def _backward(grad, marginals, transform, weights, tables, thetas, pres, posts, grid, mask, clamp, damping,
              wanted):  # fmt: skip
    problem = _problem(transform, weights, tables, thetas, pres, posts, grid, mask, clamp, damping)
    out = _gradients(grad, transform, weights, thetas, pres, posts, wanted)
    kernels = len(weights)
    groups = [[t if t.numel() else None for t in out[i * kernels : (i + 1) * kernels]] for i in range(4)]
    kinds = [KernelGradient(*kernel) for kernel in zip(*groups, strict=True)]
    return [*backward(problem, grad, marginals, kinds), *out]


def _gradients(grad, transform, weights, thetas, pres, posts, wanted):
    """Zeros for the gradients of weights, θ, pre, post; empty = unwanted."""
    return [
        torch.zeros_like(t, memory_format=torch.contiguous_format) if want else grad.new_empty(0)
        for t, want in zip([*weights, *thetas, *pres, *posts], wanted, strict=True)
    ]


_library.impl("triton_mean_field", _forward, "CompositeExplicitAutograd")
_library.impl("triton_mean_field_backward", _backward, "CompositeExplicitAutograd")


@torch.library.register_fake("crfrnn::triton_mean_field")
def _(unary, initial, transform, weights, tables, thetas, pres, posts, grid, mask, clamp, damping, iterations,
      keep):  # fmt: skip
    batch, labels, points = unary.shape
    marginals = unary.new_empty(iterations if keep else 0, batch * points, labels)
    return unary.new_empty(unary.shape), marginals, unary.new_empty((), dtype=torch.bool)


@torch.library.register_fake("crfrnn::triton_mean_field_backward")
def _(grad, marginals, transform, weights, tables, thetas, pres, posts, grid, mask, clamp, damping, wanted):
    own = _gradients(grad, transform, weights, thetas, pres, posts, wanted)
    return [grad.new_empty(grad.shape), grad.new_empty(grad.shape), torch.empty_like(transform), *own]


def _keep(ctx: Any, inputs: Any, output: Any) -> None:
    (unary, initial, transform, *kernels, ctx.grid, mask, clamp, ctx.damping, ctx.iterations, _) = inputs
    ctx.started, ctx.counts = initial is not None, [len(group) for group in kernels]
    flat = [t for group in kernels for t in group]
    ctx.save_for_backward(output[1], unary, initial, transform, mask, clamp, *flat)
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)  # or zeros as large as all marginals would come back with them


def _differentiate(ctx: Any, grad: Tensor | None, *_: Any) -> tuple[Any, ...]:
    marginals, unary, initial, transform, mask, clamp, *flat = ctx.saved_tensors
    if grad is None:
        return None, None, None, [None] * ctx.counts[0], *([None] * n for n in ctx.counts[1:]), *([None] * 6)
    groups: list[list[Tensor]] = []
    for count in ctx.counts:
        groups.append(flat[:count])
        flat = flat[count:]
    weights, tables, thetas, pres, posts = groups
    if second_order.needed(grad):
        *own, parts = second_order.differentiate(
            grad, unary, initial, transform, groups,
            functools.partial(_operator, ctx.grid, (len(unary), unary.shape[2])),
            mask, clamp, ctx.iterations, ctx.damping,
        )  # fmt: skip
        return *own, *parts, *([None] * 6)
    wanted = [t.requires_grad for group in (weights, thetas, pres, posts) for t in group]
    to_unary, start, matrices, *own = torch.ops.crfrnn.triton_mean_field_backward(
        grad, marginals, transform, *groups, ctx.grid, mask, clamp, ctx.damping, wanted
    )
    n = len(weights)
    parts = [
        [
            g if want else None
            for g, want in zip(own[i * n : (i + 1) * n], wanted[i * n : (i + 1) * n], strict=True)
        ]
        for i in range(4)
    ]
    if not ctx.started:  # the start is the unary: what reached it came from there
        to_unary = to_unary + start
    return (
        to_unary, start if ctx.started else None, matrices, parts[0], [None] * len(tables), *parts[1:],
        *([None] * 6),
    )  # fmt: skip


def _operator(
    grid: Sequence[int], shape: tuple[int, int], weights: Tensor, tables: Sequence[Tensor], theta: Tensor
) -> Lattice | Separable:
    """A kernel's operator from its parts."""
    return (
        Lattice(weights, tuple(tables), "triton", shape) if weights.numel() else Separable(tuple(grid), theta)
    )


torch.library.register_autograd(
    "crfrnn::triton_mean_field", _differentiate, setup_context=_keep, lib=_library
)
