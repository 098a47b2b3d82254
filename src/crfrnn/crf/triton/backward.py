# SPDX-License-Identifier: MIT
"""Backward pass through all iterations of mean field on the GPU. Formulas: native/mean_field_backward.cpp.

K_m acts on pixels and A_m on labels, so they commute: Kᵀ g is filtered once and used for the gradients of
both the marginals (Aᵀ Kᵀ g) and A (Kᵀ g · Qᵀ).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from crfrnn.crf.parts import KernelGradient
from crfrnn.crf.triton.band import Band
from crfrnn.crf.triton.kernels import back_kernel
from crfrnn.crf.triton.problem import LatticeKernel, Problem, SeparableKernel, given
from crfrnn.lattice.triton.filter import Passes
from crfrnn.lattice.triton.launch import Launcher, on_device

PIECE = 2048  # pixels of one product


def backward(
    problem: Problem, grad: Tensor, marginals: Tensor, gradients: Sequence[KernelGradient]
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of unary, start (both Float[B, L, N]) and A; those of the kernels are added in place."""
    pictures, labels, points = grad.shape
    total = problem.points
    programs, constants = problem.launch()
    g = grad.mT.clone(memory_format=torch.contiguous_format).view(total, labels)
    du, transform = torch.zeros_like(g), torch.zeros_like(problem.transform)
    step = problem.damping
    with on_device(grad):
        ways = [
            LatticeBack(kernel, labels, out)
            if isinstance(kernel, LatticeKernel)
            else SeparableBack(problem.grid, kernel, labels, out, total)
            for kernel, out in zip(problem.kernels, gradients, strict=True)
        ]
        # The kernel that needs the most memory goes first, while dQ is not yet allocated.
        turns = sorted(enumerate(ways), key=lambda turn: -turn[1].room)
        update = Launcher(back_kernel, 2, 3, **constants)
        held = (given(problem.mask, g), given(problem.clamp, g))
        for t in reversed(range(len(marginals))):
            q, dq = marginals[t], None
            ahead = g if step == 1 else step * g
            for m, way in turns:
                h = way(q, ahead, problem.transform[m])
                transform[m] += _gram(h, q)
                dq = h @ problem.transform[m] if dq is None else dq.addmm_(h, problem.transform[m])
                del h
            dq = torch.zeros_like(g) if dq is None else dq
            update(programs, 1, g, du, q, dq, *held, labels, labels, q.stride(0), total, step)
            del dq, ahead  # free memory for the next iteration's lattice
    du, g = (rows.view(pictures, points, labels).mT.contiguous() for rows in (du, g))
    return du, g, transform


def _gram(h: Tensor, q: Tensor) -> Tensor:
    """hᵀ q, [L, L], in pieces: one product over all pixels might be split differently from run to run."""
    whole = len(h) // PIECE * PIECE
    tail = h[whole:].mT @ q[whole:]
    first, second = (rows[:whole].view(-1, PIECE, rows.shape[1]) for rows in (h, q))
    return tail + torch.bmm(first.mT, second).sum(0)


class LatticeBack:
    """Kᵀ g of a lattice, [P, L]; its own gradients are accumulated in place over the iterations.

    All uses of a set of rows come before the next set is allocated, so at most two are held.
    """

    def __init__(self, kernel: LatticeKernel, labels: int, out: KernelGradient) -> None:
        self._kernel, self._out = kernel, out
        self._passes = Passes(kernel.structure, labels, kernel.weights)
        self._wanted = any(part is not None for part in (out.weights, out.pre, out.post))
        self._weights = kernel.scaled(kernel.pre)  # of the reverse slice
        self._into = kernel.inward(kernel.post)
        self._ahead = kernel.inward(kernel.pre) if self._wanted else None
        self.room = 2 * self._passes.width * max((t.numel() for t in kernel.structure.bounds), default=0)

    def __call__(self, q: Tensor, g: Tensor, a: Tensor) -> Tensor:
        passes, out, kernel = self._passes, self._out, self._kernel
        if self._ahead is not None:
            self._add_dots(g @ a, passes.spread(q, self._ahead, False), out.post, kernel.post)
        back = passes.spread(g, self._into, True)
        if self._wanted:
            self._add_dots(q @ a.mT, back, out.pre, kernel.pre)
        return passes.gather(back, self._weights)

    def _add_dots(self, pixels: Tensor, rows: Tensor, factor: Tensor | None, scale: Tensor | None) -> None:
        """<pixels[p], rows[corner[p, r]]>, added to the gradients of a pixel's factor and of the weights."""
        weights = self._out.weights
        if factor is None:
            if weights is not None:
                self._passes.corner_dots(pixels, rows, weights, True, scale)
            return
        dots = torch.empty_like(self._kernel.weights)
        self._passes.corner_dots(pixels, rows, dots, add=False)
        factor.add_((self._kernel.weights * dots).sum(1))
        if weights is not None:
            weights.add_(dots) if scale is None else weights.addcmul_(dots, scale.unsqueeze(1))


class SeparableBack:
    """Kᵀ g of a Gaussian over the grid, [P, L]; its own gradients are accumulated in place."""

    def __init__(
        self, grid: Sequence[int], kernel: SeparableKernel, labels: int, out: KernelGradient, total: int
    ) -> None:
        self._kernel, self._out, self._axes = kernel, out, len(grid)
        self._band = Band(grid, total, kernel.theta, labels)
        self.room = (2 if out.post is None and out.theta is None else 3) * total * labels

    def __call__(self, q: Tensor, g: Tensor, a: Tensor) -> Tensor:
        kernel, out, band = self._kernel, self._out, self._band
        if out.post is not None or out.theta is not None:
            g_hat = g @ a
            if out.post is not None:
                out.post.add_(band(q, kernel.pre).mul_(g_hat).sum(1))
            if out.theta is not None:
                if kernel.post is not None:
                    g_hat.mul_(kernel.post.unsqueeze(1))
                for axis in range(self._axes):
                    along = band(q, kernel.pre, axis).mul_(g_hat)
                    out.theta[axis] += along.sum(dtype=torch.float64).to(out.theta.dtype)
                    del along
            del g_hat
        back = band(g, kernel.post)
        if out.pre is not None:
            out.pre.add_((q @ a.mT).mul_(back).sum(1))
        return back if kernel.pre is None else back.mul_(kernel.pre.unsqueeze(1))
