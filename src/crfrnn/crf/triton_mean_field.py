# SPDX-License-Identifier: MIT
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportMissingImports=false
"""All iterations of mean field on the GPU: `crfrnn.crf.fused` in Triton, for up to 128 labels.

x ← (1 - η) x + η (U + Σ_m A_m K_m softmax(x)), K_m = post · (filter · pre). The factors of a lattice's pixels
go into its barycentric weights once per call. Nothing in the loop waits for the device, so a CUDA graph can
hold it; sums run in fixed orders, so every run gives the same bits.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from crfrnn.crf import triton_kernels
from crfrnn.crf.triton_problem import LatticeKernel, Problem, SeparableKernel, band, given, inward, times
from crfrnn.lattice import triton_filter
from crfrnn.lattice.triton_filter import Structure
from crfrnn.lattice.triton_launch import ceil_div, on_device

SLICED_IN_REGISTERS = 32  # labels; more are sliced by a kernel of their own


class Plan(NamedTuple):
    """What an iteration needs of the kernels; the first of each kind goes straight into the update."""

    inward: list[Tensor]  # weights of the splats, with `pre`
    outward: list[Tensor | None]  # weights of the slices, with `post`
    lattice: int | None
    dense: int | None
    structure: Structure | None  # of the lattice, where it is sliced in registers
    weights: Tensor | None

    @staticmethod
    def of(problem: Problem) -> Plan:
        kinds = [type(kernel) for kernel in problem.kernels]
        lattice, dense = (kinds.index(k) if k in kinds else None for k in (LatticeKernel, SeparableKernel))
        outward = [k.scaled(k.post) if isinstance(k, LatticeKernel) else None for k in problem.kernels]
        structure = weights = None
        if lattice is not None and problem.labels <= SLICED_IN_REGISTERS:
            kernel, own = problem.kernels[lattice], outward[lattice]
            assert isinstance(kernel, LatticeKernel) and own is not None
            structure, weights = kernel.structure, own / (1 + 2.0 ** (1 - kernel.structure.size))
        into = [inward(k, k.pre) for k in problem.kernels]
        return Plan(into, outward, lattice, dense, structure, weights)


def forward(
    problem: Problem, unary: Tensor, initial: Tensor | None, iterations: int, keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Float[B, L, N] -> logits, Q of each iteration Float[T, P, L] (none unless `keep`), is all finite."""
    pictures, labels, points = unary.shape
    total = pictures * points
    stride = labels if keep else ceil_div(labels, 8) * 8  # whole sectors; what is kept is not padded
    first = unary if initial is None else initial
    logits = first.clone()
    marginals = unary.new_empty(iterations if keep else 0, total, labels)
    room = None if keep and iterations else unary.new_empty(total, stride)
    grid, constants = problem.launch(total)
    bad = torch.empty(grid[0], dtype=torch.int32, device=unary.device)
    held = (given(problem.mask, unary), given(problem.clamp, unary))
    damped = problem.damping != 1
    with on_device(unary):
        plan = Plan.of(problem)
        structure = plan.structure
        lattice_transform, dense_transform = (problem.transform[m or 0] for m in (plan.lattice, plan.dense))
        post = None if plan.dense is None else problem.kernels[plan.dense].post
        triton_kernels.start_kernel[grid](
            first,
            marginals[0] if room is None else room,
            bad,
            *held,
            points,
            labels,
            stride,
            total,
            **constants,
        )
        for t in range(iterations):
            last = t + 1 == iterations
            q = marginals[t] if room is None else room
            after = q if last else marginals[t + 1] if room is None else room
            rows, message, extra = _messages(problem, plan, q)
            triton_kernels.update_kernel[grid](
                unary, logits, after, given(extra, unary), given(rows, unary), given(plan.weights, unary),
                unary if structure is None else structure.corner, lattice_transform, given(message, unary),
                given(post, unary), dense_transform, *held, points, labels, stride,
                0 if rows is None else rows.stride(0), stride, 0 if structure is None else structure.vertices,
                total, problem.damping, SIZE=1 if structure is None else structure.size,
                LATTICE=rows is not None, SLICED=structure is None, DENSE=message is not None,
                SCALED=post is not None, EXTRA=extra is not None, DAMPED=damped, WRITE_X=last or damped,
                WRITE_Q=not last, **constants,
            )  # fmt: skip
            del rows, message, extra  # room for the next iteration's
        return logits, marginals, _finite(problem, bad, unary if initial is not None else None)


def _messages(problem: Problem, plan: Plan, q: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Rows of the first lattice (vertices, or pixels), pixel rows of the first separable kernel, the rest."""
    labels = problem.labels
    rows = message = extra = None
    for m, kernel in enumerate(problem.kernels):
        if isinstance(kernel, LatticeKernel):
            part = triton_filter.spread(q[:, :labels], plan.inward[m], kernel.structure, False)
            if m != plan.lattice or plan.structure is None:
                part = triton_filter.gather(part, plan.outward[m], kernel.structure, labels)
            if m == plan.lattice:
                rows = part
                continue
        else:
            part = band(problem, q, kernel.theta, kernel.pre)
            if m == plan.dense:
                message = part
                continue
            part = times(part[:, :labels], kernel.post)
        extra = torch.zeros_like(q) if extra is None else extra
        extra[:, :labels] += part @ problem.transform[m].mT
    return rows, message, extra


def _finite(problem: Problem, bad: Tensor, unary: Tensor | None) -> Tensor:
    """Bool[]: no start and, where it was not the start, no unary is NaN or infinite outside the mask."""
    finite = bad.amax() == 0
    if unary is None:
        return finite
    fine = torch.isfinite(unary)
    if problem.mask is not None:
        fine |= problem.mask.view(len(unary), 1, -1) == 0
    return finite & fine.all()
