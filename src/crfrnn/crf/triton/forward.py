# SPDX-License-Identifier: MIT
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportMissingImports=false
"""All iterations of mean field on the GPU, for up to 256 labels.

x ← (1 - η) x + η (U + Σ_m A_m K_m softmax(x)), K_m = post · (filter · pre). For a lattice, `pre` is
multiplied into the barycentric weights once per call. The loop never synchronises with the device, so a CUDA
graph can capture it; sums run in fixed orders, so every run gives the same bits.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from crfrnn.crf.triton.band import SECTOR, Band
from crfrnn.crf.triton.kernels import start_kernel, update_kernel
from crfrnn.crf.triton.problem import LatticeKernel, Problem, SeparableKernel, given, times
from crfrnn.lattice.triton.filter import Passes
from crfrnn.lattice.triton.launch import Launcher, ceil_div, on_device

SLICED_IN_REGISTERS = 32  # labels; more are sliced by a separate kernel


class Messages(NamedTuple):
    """Messages of an iteration's kernels."""

    lattice: Tensor | None  # rows of the first lattice: of its vertices, or sliced, of pixels
    dense: Tensor | None  # rows of the first separable kernel, without `post`
    extra: Tensor | None  # the sum of all others, with compatibility applied


class Plan:
    """Applies the kernels in an iteration; the first of each kind is fused into the update."""

    def __init__(self, problem: Problem, total: int, stride: int) -> None:
        kernels, labels = problem.kernels, problem.labels
        kinds = [type(kernel) for kernel in kernels]
        self._problem = problem
        self.lattice, self.dense = (
            kinds.index(kind) if kind in kinds else None for kind in (LatticeKernel, SeparableKernel)
        )
        self.post = None if self.dense is None else kernels[self.dense].post
        self.extra = len(kernels) > sum(m is not None for m in (self.lattice, self.dense))
        self._inward = {m: k.inward(k.pre) for m, k in enumerate(kernels) if isinstance(k, LatticeKernel)}
        self._ways = [
            Passes(k.structure, labels, k.weights)
            if isinstance(k, LatticeKernel)
            else Band(problem.grid, total, k.theta, stride)
            for k in kernels
        ]
        self.sliced: LatticeKernel | None = None  # the lattice, if it is sliced in registers
        self.lattice_stride = labels
        if self.lattice is not None and labels <= SLICED_IN_REGISTERS:
            kernel, way = kernels[self.lattice], self._ways[self.lattice]
            assert isinstance(kernel, LatticeKernel) and isinstance(way, Passes)
            self.sliced, self.lattice_stride = kernel, way.width
        self._outward = [
            k.scaled(k.post) if isinstance(k, LatticeKernel) and k is not self.sliced else None
            for k in kernels
        ]

    def messages(self, q: Tensor) -> Messages:
        """Messages of marginals [P, stride]."""
        labels = self._problem.labels
        rows = message = extra = None
        for m, (kernel, way) in enumerate(zip(self._problem.kernels, self._ways, strict=True)):
            if isinstance(way, Passes):
                part, out = way.spread(q[:, :labels], self._inward[m], False), self._outward[m]
                if out is not None:
                    part = way.gather(part, out)
                if m == self.lattice:
                    rows = part
                    continue
            else:
                part = way(q, kernel.pre)
                if m == self.dense:
                    message = part
                    continue
                part = times(part[:, :labels], kernel.post)
            extra = torch.zeros_like(q) if extra is None else extra
            extra[:, :labels] += part @ self._problem.transform[m].mT
        return Messages(rows, message, extra)


def forward(
    problem: Problem, unary: Tensor, initial: Tensor | None, iterations: int, keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Float[B, L, N] -> logits, Q of each iteration Float[T, P, L] (empty unless `keep`), all finite."""
    pictures, labels, points = unary.shape
    total = pictures * points
    stride = labels if keep else ceil_div(labels, SECTOR) * SECTOR  # the saved Q is not padded
    first = unary if initial is None else initial
    logits = first.clone()
    marginals = unary.new_empty(iterations if keep else 0, total, labels)
    room = None if keep and iterations else unary.new_empty(total, stride)
    programs, constants = problem.launch(total)
    constants |= {"PADDED": stride % SECTOR == 0, "SECTOR": SECTOR}
    bad = torch.empty(programs, dtype=torch.int32, device=unary.device)
    held = (given(problem.mask, unary), given(problem.clamp, unary))
    with on_device(unary):
        plan = Plan(problem, total, stride)
        start = marginals[0] if room is None else room
        Launcher(start_kernel, **constants)(
            programs, 1, first, start, bad, *held, points, labels, stride, total
        )
        middle, last = (_update(plan, end, problem.damping != 1, constants) for end in (False, True))
        lattice_transform, dense_transform = (problem.transform[m or 0] for m in (plan.lattice, plan.dense))
        slices, vertices = (unary, unary, unary), 0  # weights, corners and factors of the pixels
        if plan.sliced is not None:
            slices = (plan.sliced.weights, plan.sliced.structure.corner, given(plan.sliced.post, unary))
            vertices = plan.sliced.structure.vertices
        numbers = (points, labels, stride, plan.lattice_stride, vertices, total, problem.damping)
        for t in range(iterations):
            update = last if t + 1 == iterations else middle
            q = marginals[t] if room is None else room
            after = q if update is last else marginals[t + 1] if room is None else room
            rows, message, extra = plan.messages(q)
            update(
                programs, 1, unary, logits, after, given(extra, unary), given(rows, unary), *slices,
                lattice_transform, given(message, unary), given(plan.post, unary), dense_transform, *held,
                *numbers,
            )  # fmt: skip
            del rows, message, extra  # free memory for the next iteration
        return logits, marginals, _finite(problem, bad, unary if initial is not None else None)


def _update(plan: Plan, last: bool, damped: bool, constants: dict[str, Any]) -> Launcher:
    """The pixel kernel of an iteration; its third argument is `after`, the marginals that it writes."""
    own = plan.sliced
    return Launcher(
        update_kernel, 2, SIZE=1 if own is None else own.structure.size,
        LATTICE=plan.lattice is not None, SLICED=own is None,
        LATTICE_SCALED=own is not None and own.post is not None, DENSE=plan.dense is not None,
        DENSE_SCALED=plan.post is not None, EXTRA=plan.extra, DAMPED=damped, WRITE_X=last or damped,
        WRITE_Q=not last, **constants,
    )  # fmt: skip


def _finite(problem: Problem, bad: Tensor, unary: Tensor | None) -> Tensor:
    """Bool[]: the start and, if different, the unary are finite at all valid pixels."""
    finite = bad.amax() == 0
    if unary is None:
        return finite
    fine = torch.isfinite(unary)
    if problem.mask is not None:
        fine |= problem.mask.view(len(unary), 1, -1) == 0
    return finite & fine.all()
