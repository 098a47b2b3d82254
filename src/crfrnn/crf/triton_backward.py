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
            dq = _through_kernels(problem, q, g if step == 1 else step * g, into, gradients, transform)
            triton_kernels.back_kernel[grid](
                g, du, q, dq, given(problem.mask, g), given(problem.clamp, g), labels, labels, q.stride(0),
                total, step, **constants,
            )  # fmt: skip
            del dq  # room for the next iteration's lattice
    du, g = (rows.view(pictures, points, labels).mT.contiguous() for rows in (du, g))
    return du, g, transform


def _through_kernels(
    problem: Problem,
    q: Tensor,
    g: Tensor,
    into: Sequence[Tensor],
    gradients: Sequence[KernelGradient],
    transform: Tensor,
) -> Tensor:
    """dQ = Σ_m Aᵀ Kᵀ g, rows; the gradients of A and of the kernels are added in place.

    Lattices first, and of each what needs its rows first: two sets of its rows are held, never more, and no
    plane of this iteration beside them. `g @ a` and `h` are made where they are read and forgotten there.
    """
    dq: Tensor | None = None
    for m in sorted(
        range(len(problem.kernels)), key=lambda m: isinstance(problem.kernels[m], SeparableKernel)
    ):
        kernel, a = problem.kernels[m], problem.transform[m]
        if isinstance(kernel, LatticeKernel):
            h = _back_lattice(kernel, a, q, g, into[m], gradients[m])
        else:
            h = _back_separable(problem, kernel, a, q, g, gradients[m])
        transform[m] += _gram(h, q)
        dq = h @ a if dq is None else dq.addmm_(h, a)
        del h
    return torch.zeros_like(g) if dq is None else dq


def _gram(h: Tensor, q: Tensor) -> Tensor:
    """hᵀ q, [L, L], in pieces: one product over all pixels might be split differently from run to run."""
    whole = len(h) // PIECE * PIECE
    tail = h[whole:].mT @ q[whole:]
    first, second = (rows[:whole].view(-1, PIECE, rows.shape[1]) for rows in (h, q))
    return tail + torch.bmm(first.mT, second).sum(0)


def _back_lattice(
    kernel: LatticeKernel, a: Tensor, q: Tensor, g: Tensor, into: Tensor, out: KernelGradient
) -> Tensor:
    """Kᵀ g, [P, L]."""
    structure, back_weights = kernel.structure, kernel.scaled(kernel.pre)
    wanted = any(part is not None for part in (out.weights, out.pre, out.post))
    if wanted:
        ahead = triton_filter.spread(q, triton_filter.shares(back_weights, structure), structure, False)
        _add_dots(kernel, g @ a, ahead, out.post, kernel.post, out.weights)
        del ahead  # room for the other direction
    back = triton_filter.spread(g, into, structure, True)
    if wanted:
        _add_dots(kernel, q @ a.mT, back, out.pre, kernel.pre, out.weights)
    return triton_filter.gather(back, back_weights, structure, g.shape[1])


def _add_dots(
    kernel: LatticeKernel,
    pixels: Tensor,
    rows: Tensor,
    factor: Tensor | None,
    scale: Tensor | None,
    weights: Tensor | None,
) -> None:
    """<pixels[p], rows[corner[p, r]]>, added to the gradients of a factor of the pixels and the weights."""
    dots = torch.empty_like(kernel.weights)
    triton_filter.corner_dots(pixels, rows, kernel.structure, dots, add=False)
    if factor is not None:
        factor.add_((kernel.weights * dots).sum(1))
    if weights is not None:
        weights.add_(times(dots, scale))


def _back_separable(
    problem: Problem, kernel: SeparableKernel, a: Tensor, q: Tensor, g: Tensor, out: KernelGradient
) -> Tensor:
    """Kᵀ g, [P, L]."""
    if out.post is not None or out.theta is not None:
        g_hat = g @ a
        if out.post is not None:
            out.post.add_(band(problem, q, kernel.theta, kernel.pre).mul_(g_hat).sum(1))
        if out.theta is not None:
            g_hat = times(g_hat, kernel.post)
            for axis in range(len(problem.grid)):
                along = band(problem, q, kernel.theta, kernel.pre, axis).mul_(g_hat)
                out.theta[axis] += along.sum(dtype=torch.float64).to(out.theta.dtype)
                del along
        del g_hat
    back = band(problem, g, kernel.theta, kernel.post)
    if out.pre is not None:
        out.pre.add_((q @ a.mT).mul_(back).sum(1))
    return times(back, kernel.pre)
