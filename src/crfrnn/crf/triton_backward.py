# SPDX-License-Identifier: MIT
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportMissingImports=false
"""Back through all iterations of mean field on the GPU. Formulas: native/mean_field_backward.cpp.

K_m acts on pixels, A_m on labels, so they commute: Kᵀ g is filtered once and serves the gradient of the
marginals (Aᵀ Kᵀ g) as well as that of A (Kᵀ g · Qᵀ).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from crfrnn.crf import triton_kernels
from crfrnn.crf.triton_problem import LatticeKernel, Problem, SeparableKernel, band, given, inward, times
from crfrnn.lattice import triton_filter
from crfrnn.lattice.triton_launch import on_device

PIECE = 2048  # pixels of one product


class KernelGradient(NamedTuple):
    """Sums over the iterations; None where nobody asked."""

    weights: Tensor | None
    theta: Tensor | None
    pre: Tensor | None
    post: Tensor | None


def backward(
    problem: Problem, grad: Tensor, marginals: Tensor, gradients: Sequence[KernelGradient]
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the unary, the start (both Float[B, L, N]) and A; the kernels' own are added in place."""
    pictures, labels, points = grad.shape
    total = pictures * points
    grid, constants = problem.launch(total)
    g = grad.mT.clone(memory_format=torch.contiguous_format).view(total, labels)
    du, transform = torch.zeros_like(g), torch.zeros_like(problem.transform)
    step = problem.damping
    with on_device(grad):
        into = [inward(k, k.post) for k in problem.kernels]
        for t in reversed(range(len(marginals))):
            q = marginals[t]
            scaled = g if step == 1 else step * g
            dq = torch.zeros_like(g)
            for m, kernel in enumerate(problem.kernels):
                a = problem.transform[m]
                if isinstance(kernel, LatticeKernel):
                    back = triton_filter.spread(scaled, into[m], kernel.structure, True)
                    h = triton_filter.gather(back, kernel.scaled(kernel.pre), kernel.structure, labels)
                    _lattice_gradient(kernel, a, q, scaled, back, gradients[m])
                else:
                    back = band(problem, scaled, kernel.theta, kernel.post)
                    h = times(back, kernel.pre)
                    _separable_gradient(problem, kernel, a, q, scaled, back, gradients[m])
                dq.addmm_(h, a)
                transform[m] += _gram(h, q)
                del back, h  # room for the next kernel's
            triton_kernels.back_kernel[grid](
                g, du, q, dq, given(problem.mask, g), given(problem.clamp, g), labels, labels, q.stride(0),
                total, step, **constants,
            )  # fmt: skip
    du, g = (rows.view(pictures, points, labels).mT.contiguous() for rows in (du, g))
    return du, g, transform


def _gram(h: Tensor, q: Tensor) -> Tensor:
    """hᵀ q, [L, L], in pieces: one product over all pixels might be split differently from run to run."""
    whole = len(h) // PIECE * PIECE
    tail = h[whole:].mT @ q[whole:]
    first, second = (rows[:whole].view(-1, PIECE, rows.shape[1]) for rows in (h, q))
    return tail + torch.bmm(first.mT, second).sum(0)


def _lattice_gradient(
    kernel: LatticeKernel, a: Tensor, q: Tensor, g: Tensor, back: Tensor, out: KernelGradient
) -> None:
    if out.weights is None and out.pre is None and out.post is None:
        return
    share = triton_filter.shares(kernel.scaled(kernel.pre), kernel.structure)
    ahead = triton_filter.spread(q, share, kernel.structure, False)
    sliced, spread = torch.empty_like(kernel.weights), torch.empty_like(kernel.weights)
    triton_filter.corner_dots(g @ a, ahead, kernel.structure, sliced, add=False)
    triton_filter.corner_dots(q @ a.mT, back, kernel.structure, spread, add=False)
    if out.post is not None:
        out.post.add_((kernel.weights * sliced).sum(1))
    if out.pre is not None:
        out.pre.add_((kernel.weights * spread).sum(1))
    if out.weights is not None:
        out.weights.add_(times(sliced, kernel.post)).add_(times(spread, kernel.pre))


def _separable_gradient(
    problem: Problem,
    kernel: SeparableKernel,
    a: Tensor,
    q: Tensor,
    g: Tensor,
    back: Tensor,
    out: KernelGradient,
) -> None:
    if out.pre is not None:
        out.pre.add_(((q @ a.mT) * back).sum(1))
    if out.post is None and out.theta is None:
        return
    g_hat = g @ a
    if out.post is not None:
        out.post.add_((g_hat * band(problem, q, kernel.theta, kernel.pre)).sum(1))
    if out.theta is not None:
        g_hat = times(g_hat, kernel.post)
        for axis in range(len(problem.grid)):
            along = band(problem, q, kernel.theta, kernel.pre, axis)
            out.theta[axis] += (g_hat * along).sum(dtype=torch.float64).to(out.theta.dtype)
