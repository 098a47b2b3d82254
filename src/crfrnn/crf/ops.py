# SPDX-License-Identifier: MIT
"""Mean field as a torch operator (native/mean_field.hpp): schema, implementation, fake, gradient."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from crfrnn import _native
from crfrnn.crf import second_order
from crfrnn.lattice import Lattice, Separable

_library = torch.library.Library("crfrnn", "FRAGMENT")
# One entry a kernel; an empty tensor is a part that the kernel does not have.
_KERNELS = "Tensor[] weights, Tensor[] tables, Tensor[] thetas, Tensor[] pres, Tensor[] posts"
_REST = "SymInt[] grid, Tensor? mask, Tensor? clamp, int iterations, float damping"
_library.define(
    f"mean_field(Tensor unary, Tensor? initial, Tensor transform, {_KERNELS}, {_REST}, bool keep)"
    " -> (Tensor, Tensor)"
)
_library.define(
    f"mean_field_backward(Tensor grad, Tensor marginals, Tensor transform, {_KERNELS}, {_REST}, bool started,"
    " bool[] wanted)"
    " -> Tensor[]"
)


def _problem(transform, kernels, batch, grid, mask, clamp, iterations, damping):
    """The native core's problem; an empty tensor is a part that a kernel does not have."""
    native = []
    for weights, table, theta, *scales in zip(*kernels, strict=True):
        pre, post = (s.contiguous() if s.numel() else None for s in scales)
        # A lattice may have no point, where a mask leaves none: then its weights are empty, its table is not.
        if table.numel():
            native.append(_native.Kernel.lattice(weights.contiguous(), table, pre, post))
        else:
            native.append(_native.Kernel.separable(theta.tolist(), pre, post))
    return _native.Problem(
        kernels=native,
        transform=transform.contiguous(),
        batch=batch,
        grid=grid,
        mask=None if mask is None else mask.to(torch.uint8).contiguous(),
        clamp=None if clamp is None else clamp.contiguous(),
        iterations=iterations,
        damping=damping,
        threads=torch.get_num_threads(),
    )


def _plane_numbers(unary: Tensor, iterations: int, keep: bool) -> int:
    """What Q of every iteration takes (native/mean_field.hpp, Problem::plane)."""
    return iterations * (unary.numel() + _native.row_room) if keep else 0


# Long argument lists are taken apart here, in the order of the schema.


def _forward(unary, initial, transform, *rest):
    *kernels, grid, mask, clamp, iterations, damping, keep = rest
    unary = unary.contiguous()
    problem = _problem(transform, kernels, len(unary), grid, mask, clamp, iterations, damping)
    logits = torch.empty_like(unary)
    marginals = torch.from_numpy(_native.rows(_plane_numbers(unary, iterations, keep)))
    initial = None if initial is None else initial.contiguous()
    _native.mean_field(problem, unary, initial, logits, marginals if keep else None)
    return logits, marginals


def _backward(grad, marginals, transform, *rest):
    *kernels, grid, mask, clamp, iterations, damping, started, wanted = rest
    weights, _, thetas, pres, posts = kernels
    grad = grad.contiguous()
    problem = _problem(transform, kernels, len(grad), grid, mask, clamp, iterations, damping)
    out = _gradients(grad, transform, weights, thetas, pres, posts, started, wanted)
    count = len(weights)
    groups = [out[3 + i * count : 3 + (i + 1) * count] for i in range(4)]
    grads = []
    for kernel in zip(*groups, strict=True):
        of_weights, of_theta, of_pre, of_post = (t if t.numel() else None for t in kernel)
        grads.append(_native.KernelGradient(weights=of_weights, theta=of_theta, pre=of_pre, post=of_post))
    _native.mean_field_backward(problem, grad, marginals, out[0], out[1] if started else None, out[2], grads)
    return out


def _gradients(grad, transform, weights, thetas, pres, posts, started, wanted):
    """Room for the gradients of unary, initial, transform, weights, θ, pre, post; empty = unwanted."""
    out = [
        torch.empty_like(grad),
        torch.empty_like(grad) if started else grad.new_empty(0),
        torch.empty_like(transform),
    ]
    for tensor, want in zip([*weights, *thetas, *pres, *posts], wanted, strict=True):
        out.append(
            torch.zeros_like(tensor, memory_format=torch.contiguous_format) if want else grad.new_empty(0)
        )
    return out


def row_memory(points: int, labels: int) -> Tensor:
    """Float32[N, L] of any values, from the memory that the core keeps from call to call."""
    return torch.from_numpy(_native.rows(points * labels)).view(points, labels)


def update(unary, marginals, transform, parts, normalize, out):
    """One iteration over rows Float32[N, L]; no operator of torch: it has no gradient (crf/update.py)."""
    problem = _problem(transform, parts, 1, [1, 1, len(unary)], None, None, 1, 1.0)
    _native.update(problem, unary, marginals, normalize, out)


_library.impl("mean_field", _forward, "CPU")
_library.impl("mean_field_backward", _backward, "CPU")


@torch.library.register_fake("crfrnn::mean_field")
def _(unary, initial, transform, *rest):
    *_, iterations, _, keep = rest
    logits = torch.empty_like(unary, memory_format=torch.contiguous_format)
    return logits, unary.new_empty(_plane_numbers(unary, iterations, keep))


@torch.library.register_fake("crfrnn::mean_field_backward")
def _(grad, marginals, transform, *rest):
    weights, _, thetas, pres, posts, *_, started, wanted = rest
    return _gradients(grad, transform, weights, thetas, pres, posts, started, wanted)


def _keep(ctx: Any, inputs: Any, output: Any) -> None:
    (unary, initial, transform, *kernels, ctx.grid, mask, clamp, ctx.iterations, ctx.damping, _) = inputs
    ctx.started, ctx.count = initial is not None, len(kernels[0])
    flat = [t for group in kernels for t in group]
    ctx.save_for_backward(output[1], unary, initial, transform, mask, clamp, *flat)
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)  # or zeros as large as all marginals would come back with them


def _differentiate(ctx: Any, grad: Tensor | None, _: Any) -> tuple[Any, ...]:
    if grad is None:
        return None, None, None, *([[None] * ctx.count] * 5), *([None] * 6)
    marginals, unary, initial, transform, mask, clamp, *flat = ctx.saved_tensors
    n = ctx.count
    parts = weights, tables, thetas, pres, posts = [flat[i * n : (i + 1) * n] for i in range(5)]
    if second_order.needed(grad):
        *own, groups = second_order.differentiate(
            grad, unary, initial, transform, parts,
            functools.partial(_operator, ctx.grid, (len(unary), unary.shape[2])),
            mask, clamp, ctx.iterations, ctx.damping,
        )  # fmt: skip
        return *own, *groups, *([None] * 6)
    wanted = [t.requires_grad for group in (weights, thetas, pres, posts) for t in group]
    out = torch.ops.crfrnn.mean_field_backward(
        grad, marginals, transform, weights, tables, thetas, pres, posts, ctx.grid, mask, clamp,
        ctx.iterations, ctx.damping, ctx.started, wanted,
    )  # fmt: skip
    groups = [
        [
            t if want else None
            for t, want in zip(out[3 + i * n : 3 + (i + 1) * n], wanted[i * n : (i + 1) * n], strict=True)
        ]
        for i in range(4)
    ]
    none = [None] * n
    return (
        out[0], out[1] if ctx.started else None, out[2], groups[0], none, groups[1], groups[2], groups[3],
        *([None] * 6),
    )  # fmt: skip


def _operator(
    grid: Sequence[int], shape: tuple[int, int], weights: Tensor, table: Sequence[Tensor], theta: Tensor
) -> Lattice | Separable:
    """A kernel's operator from its parts; θ of the grid's axes, outermost first."""
    if table[0].numel():
        return Lattice(weights, tuple(table), "cpu", shape)
    return Separable(tuple(grid), theta.flip(0).float())


torch.library.register_autograd("crfrnn::mean_field", _differentiate, setup_context=_keep, lib=_library)
