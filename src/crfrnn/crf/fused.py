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

from crfrnn import _native
from crfrnn.crf.kernels import GaussianKernel
from crfrnn.lattice import Lattice, Separable

MOST_LABELS = 1024  # rows of labels the native core keeps on its stack

_library = torch.library.Library("crfrnn", "FRAGMENT")
# One entry a kernel; an empty tensor is a part that the kernel does not have.
_KERNELS = "Tensor[] weights, Tensor[] tables, Tensor[] thetas, Tensor[] pres, Tensor[] posts"
_REST = "int[] grid, Tensor? mask, Tensor? clamp, int iterations, float damping"
_library.define(
    f"mean_field(Tensor unary, Tensor? initial, Tensor transform, {_KERNELS}, {_REST}, bool keep)"
    " -> (Tensor, Tensor)"
)
_library.define(
    f"mean_field_backward(Tensor grad, Tensor marginals, Tensor transform, {_KERNELS}, {_REST}, bool started, bool[] wanted)"
    " -> Tensor[]"
)


def supports(unary: Tensor, kernels: Sequence[Any], activation: str, batch: int) -> bool:
    """Whether the native operator can run this inference: float32 on the CPU, softmax, plain Gaussian kernels."""
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
        return operator.backend == "cpu" and operator.shape[0] == batch and operator.weights.dtype == torch.float32
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
    batch, labels = unary.shape[:2]
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
            own = (none, none, _padded_theta(operator.theta))
        scales = (none if s is None else s.float().expand(batch, pixels).reshape(-1) for s in (kernel.pre, kernel.post))
        for part, tensor in zip(parts, (*own, *scales), strict=True):
            part.append(tensor)
    inputs = [unary, transform, *(t for part in parts for t in part)] + ([] if initial is None else [initial])
    keep = torch.is_grad_enabled() and any(t.requires_grad for t in inputs)
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
    """θ in the order x, y, z to three numbers, outermost axis first; an axis that is not there has length 1."""
    theta = theta.flip(0).double()
    return torch.cat([theta.new_ones(3 - len(theta)), theta])


def _kernel_tuples(*parts: Sequence[Tensor]) -> list[tuple[Any, ...]]:
    """(weights, table, θ, pre, post) of each kernel as the native core takes them: None for what it does not have."""
    kernels = [[t.contiguous() if t.numel() else None for t in kernel] for kernel in zip(*parts, strict=True)]
    return [(w, table, None if theta is None else theta.tolist(), *scales) for w, table, theta, *scales in kernels]


def _width(labels: int) -> int:
    """Numbers in a stored row of labels (native/mean_field.hpp)."""
    return -(-labels // 16) * 16 if labels <= 32 else -(-labels // 32) * 32


def _marginals(unary: Tensor, iterations: int, keep: bool) -> Tensor:
    rows = (iterations if keep else 0, unary.shape[0] * unary.shape[2], _width(unary.shape[1]))
    return unary.new_empty(rows)


def _bits(mask: Tensor | None) -> Tensor | None:
    return None if mask is None else mask.to(torch.uint8).contiguous()


def _forward(
    unary, initial, transform, weights, tables, thetas, pres, posts, grid, mask, clamp, iterations, damping, keep
):  # noqa: ANN001, ANN202
    unary = unary.contiguous()
    logits = torch.empty_like(unary)
    marginals = _marginals(unary, iterations, keep)
    _native.mean_field(
        unary,
        None if initial is None else initial.contiguous(),
        transform.contiguous(),
        _kernel_tuples(weights, tables, thetas, pres, posts),
        grid,
        _bits(mask),
        None if clamp is None else clamp.contiguous(),
        iterations,
        damping,
        torch.get_num_threads(),
        logits,
        marginals if keep else None,
    )
    return logits, marginals


def _backward(
    grad, marginals, transform, weights, tables, thetas, pres, posts, grid, mask, clamp, iterations, damping, started, wanted
):  # noqa: ANN001, ANN202
    grad = grad.contiguous()
    out = _gradients(grad, transform, weights, thetas, pres, posts, started, wanted)
    count = len(weights)
    groups = [out[3 + i * count : 3 + (i + 1) * count] for i in range(4)]
    _native.mean_field_backward(
        grad,
        marginals,
        transform.contiguous(),
        _kernel_tuples(weights, tables, thetas, pres, posts),
        grid,
        _bits(mask),
        None if clamp is None else clamp.contiguous(),
        iterations,
        damping,
        torch.get_num_threads(),
        out[0],
        out[1] if started else None,
        out[2],
        [tuple(t if t.numel() else None for t in kernel) for kernel in zip(*groups, strict=True)],
    )
    return out


def _gradients(grad, transform, weights, thetas, pres, posts, started, wanted):  # noqa: ANN001, ANN202
    """Room for the gradients: unary, initial, transform, then weights, θ, pre and post of each kernel; empty = unwanted."""
    out = [torch.empty_like(grad), torch.empty_like(grad) if started else grad.new_empty(0), torch.empty_like(transform)]
    for tensor, want in zip([*weights, *thetas, *pres, *posts], wanted, strict=True):
        out.append(torch.zeros_like(tensor, memory_format=torch.contiguous_format) if want else grad.new_empty(0))
    return out


_library.impl("mean_field", _forward, "CPU")
_library.impl("mean_field_backward", _backward, "CPU")


@torch.library.register_fake("crfrnn::mean_field")
def _(unary, initial, transform, weights, tables, thetas, pres, posts, grid, mask, clamp, iterations, damping, keep):  # noqa: ANN001, ANN202
    return torch.empty_like(unary, memory_format=torch.contiguous_format), _marginals(unary, iterations, keep)


@torch.library.register_fake("crfrnn::mean_field_backward")
def _(grad, marginals, transform, weights, tables, thetas, pres, posts, grid, mask, clamp, iterations, damping, started, wanted):  # noqa: ANN001, ANN202
    return _gradients(grad, transform, weights, thetas, pres, posts, started, wanted)


def _keep(ctx: Any, inputs: Any, output: Any) -> None:
    (_, initial, transform, *kernels, grid, mask, clamp, ctx.iterations, ctx.damping, _) = inputs
    ctx.started, ctx.grid, ctx.count = initial is not None, grid, len(kernels[0])
    ctx.save_for_backward(output[1], transform, mask, clamp, *(t for group in kernels for t in group))
    ctx.mark_non_differentiable(output[1])


def _differentiate(ctx: Any, grad: Tensor, _: Any) -> tuple[Any, ...]:
    marginals, transform, mask, clamp, *flat = ctx.saved_tensors
    n = ctx.count
    weights, tables, thetas, pres, posts = (flat[i * n : (i + 1) * n] for i in range(5))
    wanted = [t.requires_grad for group in (weights, thetas, pres, posts) for t in group]
    out = torch.ops.crfrnn.mean_field_backward(
        grad, marginals, transform, weights, tables, thetas, pres, posts, ctx.grid, mask, clamp, ctx.iterations,
        ctx.damping, ctx.started, wanted,
    )  # fmt: skip
    groups = [
        [t if want else None for t, want in zip(out[3 + i * n : 3 + (i + 1) * n], wanted[i * n : (i + 1) * n], strict=True)]
        for i in range(4)
    ]
    none = [None] * n
    return (
        out[0], out[1] if ctx.started else None, out[2], groups[0], none, groups[1], groups[2], groups[3],
        *([None] * 6),
    )  # fmt: skip


torch.library.register_autograd("crfrnn::mean_field", _differentiate, setup_context=_keep, lib=_library)
