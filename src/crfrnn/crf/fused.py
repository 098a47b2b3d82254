# SPDX-License-Identifier: MIT
"""The whole inference as one native operator: forward in one call, backward in one call, no graph in between.

Everything that does not mix pixels is folded into A_m = -μ W_m before, so the operator knows only
x ← (1 - η) x + η (U + Σ_m A_m K_m softmax(x)) and returns the gradients of U, A_m and of what K_m is made of.
"""

from __future__ import annotations

import contextlib
import importlib
import math
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from crfrnn.crf.kernels import GaussianKernel
from crfrnn.crf.problem import Problem
from crfrnn.lattice import Lattice, Separable
from crfrnn.lattice import backend as backends

with contextlib.suppress(ImportError):  # without the compiled module the GPU's operator works all the same
    from crfrnn.crf import ops  # noqa: F401  registers torch.ops.crfrnn.mean_field

MOST_LABELS = {"cpu": 1024, "triton": 256}  # what fits the native core's stack, a GPU program's registers

_triton_ops: ModuleType | None = None


def _load_triton_ops() -> ModuleType:
    """The GPU's operators, imported once."""
    global _triton_ops
    if _triton_ops is None:
        _triton_ops = importlib.import_module("crfrnn.crf.triton.ops")
    return _triton_ops


if backends.is_imported("triton"):  # torch.compile cannot trace an import
    _load_triton_ops()


def can(problem: Problem) -> str | None:
    """None where one operator runs the problem, or why it does not."""
    unary = problem.unary
    if unary.dtype != torch.float32:
        return "computed in float64"
    if problem.activation != "softmax":
        return "another activation than softmax"
    if not problem.kernels:
        return "no kernels"
    backend = _backend(problem)
    if backend not in MOST_LABELS or backends.why_not(backend, unary.device) is not None:
        return "no operator for this backend"
    if not 1 <= unary.shape[1] <= MOST_LABELS[backend]:
        return f"more than {MOST_LABELS[backend]} labels"
    if math.prod(unary.shape) == 0:
        return "no pixels"
    reasons = (kernel_reason(kernel, unary, backend) for kernel in problem.kernels)
    return next((reason for reason in reasons if reason), None)


def _backend(problem: Problem) -> str:
    """That of the first lattice; without one the device decides."""
    for kernel in problem.kernels:
        operator = getattr(kernel, "operator", None)
        if isinstance(operator, Lattice):
            return operator.backend
    return backends.BY_DEVICE.get(problem.unary.device.type, "")


def kernel_reason(kernel: Any, unary: Tensor, backend: str) -> str | None:
    if type(kernel) is not GaussianKernel or kernel.self_term is not None or kernel.reverse:
        return "another kernel than a GaussianKernel with its self term"
    operator = kernel.operator
    if isinstance(operator, Lattice):
        same = operator.backend == backend and operator.weights.device == unary.device
        if not same or operator.weights.dtype != torch.float32:
            return "lattices of another backend, device or dtype"
        return None if operator.shape[0] == unary.shape[0] else "one lattice for a batch"
    if not isinstance(operator, Separable):
        return "a sum over all pairs"
    if len(operator.grid) > 3 or len(operator.grid) != unary.ndim - 2:
        return "a grid of another number of axes"
    # Number by number: for torch.compile two tuples of free sizes are never equal.
    if any(n != m for n, m in zip(operator.grid, unary.shape[2:], strict=True)):
        return "another grid than the unary's"
    return None if operator.theta.device == unary.device else "bandwidths on another device"


def run(problem: Problem) -> Tensor:
    """Logits Float[B, L, *spatial] after the last iteration."""
    unary, initial, kernels, mask, clamp = (
        problem.unary, problem.initial, problem.kernels, problem.mask, problem.clamp
    )  # fmt: skip
    batch = unary.shape[0]
    grid = list(unary.shape[2:])
    pixels = math.prod(grid)
    transform = problem.transforms()
    if _backend(problem) == "triton":
        return _load_triton_ops().run(problem, transform)
    problem.check_weight_values()
    made_of = parts(kernels, batch, pixels)
    inputs = [unary, transform, *(t for part in made_of for t in part)]
    inputs += [] if initial is None else [initial]
    keep = problem.iterations > 0 and torch.is_grad_enabled() and any(t.requires_grad for t in inputs)
    logits, _ = torch.ops.crfrnn.mean_field(
        unary.flatten(2),
        None if initial is None else initial.flatten(2),
        transform,
        *made_of,
        [1] * (3 - len(grid)) + grid if len(grid) <= 3 else [1, 1, pixels],
        None if mask is None else mask.flatten(1),
        None if clamp is None else clamp.flatten(1).to(torch.int32),
        problem.iterations,
        problem.damping,
        keep,
    )
    return logits.view(unary.shape)


def parts(kernels: Sequence[Any], batch: int, pixels: int) -> list[list[Tensor]]:
    """What the native operator takes kernels apart into: weights, tables, thetas, pres, posts."""
    none = kernels[0].features.new_empty(0)
    made_of: list[list[Tensor]] = [[], [], [], [], []]
    for kernel in kernels:
        operator = kernel.operator
        if isinstance(operator, Lattice):
            own = (operator.weights, operator.structure[0], none)
        else:
            own = (none, none, _padded_theta(operator.theta))  # pyright: ignore[reportAttributeAccessIssue]
        scales = (
            none if s is None else s.float().expand(batch, pixels).reshape(-1)
            for s in (kernel.pre, kernel.post)
        )
        for part, tensor in zip(made_of, (*own, *scales), strict=True):
            part.append(tensor)
    return made_of


def _padded_theta(theta: Tensor) -> Tensor:
    """θ in the order x, y, z to three numbers, outermost axis first; a missing axis has length 1."""
    theta = theta.flip(0).double()
    return torch.cat([theta.new_ones(3 - len(theta)), theta])
