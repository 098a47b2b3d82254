# SPDX-License-Identifier: MIT
"""Mean field on a GPU, or in Triton's interpreter: the same bits in every run."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from crfrnn.crf.parts import KernelGradient, Parts, why_not
from crfrnn.crf.problem import Problem as Inference
from crfrnn.crf.triton.backward import backward
from crfrnn.crf.triton.forward import forward
from crfrnn.crf.triton.problem import LatticeKernel, Problem, SeparableKernel
from crfrnn.lattice.triton.filter import Structure

MOST_LABELS = 256  # limit of a program's registers
CHECKS_LATER: bool = True


def can(problem: Inference) -> str | None:
    return why_not(problem, "triton", MOST_LABELS)


def kept(unary: Tensor, iterations: int) -> tuple[int, ...]:
    batch, labels, points = unary.shape
    return iterations, batch * points, labels


def mean_field(
    parts: Parts, unary: Tensor, initial: Tensor | None, keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    logits, marginals, finite = forward(_problem(parts, unary), unary, initial, parts.iterations, keep)
    return logits, marginals, finite & ((0 * parts.transform).sum() == 0)  # 0 · x is 0 only for finite x


def gradients(
    parts: Parts, grad: Tensor, kept: Tensor, started: bool, kernels: Sequence[KernelGradient]
) -> tuple[Tensor, Tensor, Tensor]:
    to_unary, start, to_transform = backward(_problem(parts, grad), grad, kept, kernels)
    if not started:  # the start is the unary, so its gradient belongs to the unary
        to_unary, start = to_unary.add_(start), grad.new_empty(0)
    return to_unary, start, to_transform


def _problem(parts: Parts, planes: Tensor) -> Problem:
    kernels: list[LatticeKernel | SeparableKernel] = []
    for kernel in parts.kernels:
        pre, post = (None if s is None else s.contiguous() for s in (kernel.pre, kernel.post))
        if kernel.theta is None:
            structure = Structure.of(kernel.tables)
            kernels.append(LatticeKernel(structure, kernel.weights.contiguous(), pre, post))
        else:
            kernels.append(SeparableKernel(kernel.theta.float().contiguous(), pre, post))
    mask = None if parts.mask is None else parts.mask.flatten().to(torch.uint8)
    clamp = None if parts.clamp is None else parts.clamp.flatten()
    return Problem(
        parts.transform.contiguous(), tuple(kernels), parts.grid, mask, clamp, parts.damping,
        planes.shape[0] * planes.shape[2], parts.in_play,
    )  # fmt: skip
