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


def supports(unary: Tensor, kernels: Sequence[Any], activation: str, batch: int) -> bool:
    """Whether one operator can run this: float32, softmax, plain Gaussian kernels, native or in Triton."""
    if unary.dtype != torch.float32 or activation != "softmax" or not kernels:
        return False
    backend = _backend(unary, kernels)
    if backend not in MOST_LABELS or backends.why_not(backend, unary.device) is not None:
        return False
    if not 1 <= unary.shape[1] <= MOST_LABELS[backend] or math.prod(unary.shape) == 0:
        return False
    return all(_supported(kernel, unary, batch, backend) for kernel in kernels)


def _backend(unary: Tensor, kernels: Sequence[Any]) -> str:
    """That of the first lattice; without one the device decides."""
    for kernel in kernels:
        if isinstance(getattr(kernel, "operator", None), Lattice):
            return kernel.operator.backend
    return backends.BY_DEVICE.get(unary.device.type, "")


def _supported(kernel: Any, unary: Tensor, batch: int, backend: str) -> bool:
    if type(kernel) is not GaussianKernel or kernel.self_term is not None or kernel.reverse:
        return False
    operator = kernel.operator
    if isinstance(operator, Lattice):
        return (
            operator.backend == backend
            and operator.shape[0] == batch
            and operator.weights.dtype == torch.float32
            and operator.weights.device == unary.device
        )
    if not isinstance(operator, Separable) or len(operator.grid) != unary.ndim - 2:
        return False
    # Not tuples at once: for torch.compile two tuples of free sizes are never equal.
    if any(n != m for n, m in zip(operator.grid, unary.shape[2:], strict=True)):
        return False
    return len(operator.grid) <= 3 and operator.theta.device == unary.device


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
    batch = unary.shape[0]
    grid = list(unary.shape[2:])
    pixels = math.prod(grid)
    transform = transforms(weights, compatibility)
    if looks_later(unary, kernels):
        triton_ops = _load_triton_ops()
        looked_at = {f"weights[{m}]": weight for m, weight in enumerate(weights)}
        looked_at["compatibility"] = compatibility
        return triton_ops.run(unary, kernels, transform, iterations, mask, clamp, damping, initial, looked_at)
    made_of = parts(kernels, batch, pixels)
    inputs = [unary, transform, *(t for part in made_of for t in part)]
    inputs += [] if initial is None else [initial]
    keep = iterations > 0 and torch.is_grad_enabled() and any(t.requires_grad for t in inputs)
    logits, _ = torch.ops.crfrnn.mean_field(
        unary.flatten(2),
        None if initial is None else initial.flatten(2),
        transform,
        *made_of,
        [1] * (3 - len(grid)) + grid if len(grid) <= 3 else [1, 1, pixels],
        None if mask is None else mask.flatten(1),
        None if clamp is None else clamp.flatten(1).to(torch.int32),
        iterations,
        damping,
        keep,
    )
    return logits.view(unary.shape)


def looks_later(unary: Tensor, kernels: Sequence[Any]) -> bool:
    """True on a GPU: whether values are finite is asked once, after all is queued."""
    return _backend(unary, kernels) == "triton"


def transforms(weights: Sequence[Tensor], compatibility: Tensor) -> Tensor:
    """A_m = -μ W_m, Float[kernels, L, L]."""
    return torch.stack([-(compatibility * w if w.ndim < 2 else compatibility @ w) for w in weights])


def parts(kernels: Sequence[GaussianKernel], batch: int, pixels: int) -> list[list[Tensor]]:
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
