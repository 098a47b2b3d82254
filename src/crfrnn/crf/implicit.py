# SPDX-License-Identifier: MIT
"""Gradients of the converged fixed point by the implicit function theorem, in memory independent of T.

At a fixed point x* = f(x*, θ) the chain rule gives dx*/dθ = (I - J)⁻¹ ∂f/∂θ with J = ∂f/∂x. The backward
pass therefore solves v = g + Jᵀ v for the incoming gradient g, followed by one vector-Jacobian product of f.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from crfrnn.crf import validate
from crfrnn.crf.iteration import Iteration

ADJOINT_STEPS = 500
FORWARD_LIMIT = 1e-3  # if the last max|ΔQ| is larger, the iteration has not converged
SMALLEST_STEP = 1 / 64


def fixed_point(update: Iteration, logits: Tensor, iterations: int, tolerance: float | None) -> Tensor:
    """Run `iterations` updates; only the last has a graph, and its gradient is replaced by the fixed point's.

    A `RuntimeWarning` is issued if that last step changed Q by more than 1e-3 (or `tolerance`, if larger):
    the iteration has then not converged and the gradient is inaccurate.

    Args:
        update: one iteration, x -> f(x) over [B, N, L].
        logits: the start, [B, N, L]; receives no gradient, because a fixed point does not depend on it.
        iterations: maximum number of updates; stops earlier when max|ΔQ| < `tolerance`.

    Source: Bai, Kolter & Koltun, Deep Equilibrium Models, NeurIPS 2019, theorem 1.
    """
    if validate.transformed():
        raise ValueError(
            "gradient: 'implicit' solves an equation in backward, which neither torch.func nor forward mode "
            "can trace; use gradient='unrolled' there"
        )
    if iterations == 0:
        return logits
    with torch.no_grad():
        for _ in range(iterations - 1):
            before, logits = logits, update(logits)
            if tolerance is not None and update.change(before, logits) < tolerance:
                break
    if not torch.is_grad_enabled():
        return update(logits)
    after = update(logits)
    moved = update.change(logits, after)
    if moved > max(FORWARD_LIMIT, tolerance or 0.0):
        warnings.warn(
            "mean field: gradient='implicit' expects a converged fixed point, but the last iteration "
            f"still moved the marginals by {moved:.2g}; use more iterations, a smaller damping, or "
            "gradient='unrolled'",
            RuntimeWarning,
            stacklevel=3,
        )
    return _attached(update, logits, after)


def _attached(update: Iteration, logits: Tensor, after: Tensor) -> Tensor:
    """`after` = f(logits) at a fixed point, with v instead of g sent back through the recorded iteration."""
    if after.requires_grad:
        after.register_hook(lambda gradient: solve_adjoint(update, logits, gradient))
    return after


def solve_adjoint(update: Iteration, logits: Tensor, gradient: Tensor) -> Tensor:
    """v = g + Jᵀ v with J = ∂f/∂x at the fixed point `logits`.

    For a second derivative, v is a function of g and, through J and x*, of θ. Then
    (I - Jᵀ) dv = dg + d(Jᵀ) v, so the gradient u of v is replaced by the solution of w = u + J w.

    Raises:
        RuntimeError: if the solution is not finite or a third derivative is requested.
    """
    if gradient.numel() == 0:
        return gradient
    with torch.enable_grad():
        point = logits.detach().requires_grad_()
        after = update(point)
    v = _solve(lambda v: torch.autograd.grad(after, point, v, retain_graph=True)[0], gradient.detach())
    if not torch.is_grad_enabled():
        return v
    fixed = _attached(update, logits, update(logits))
    fixed = fixed.view_as(fixed)  # so that the hook applies to the gradient of θ only, not to J
    v = gradient + torch.autograd.grad(update(fixed), fixed, v, create_graph=True)[0]
    v.register_hook(lambda gradient: _solve_forward(update, logits, gradient))
    return v


def _solve_forward(update: Iteration, logits: Tensor, gradient: Tensor) -> Tensor:
    """w = u + J w."""
    if torch.is_grad_enabled():
        raise RuntimeError(
            "gradient: 'implicit' can be differentiated twice, got a second derivative with "
            "create_graph=True; use gradient='unrolled' for the third"
        )
    with torch.enable_grad():  # J w = ∂<Jᵀ z, w>/∂z
        point, z = logits.detach().requires_grad_(), torch.zeros_like(logits).requires_grad_()
        (adjoint,) = torch.autograd.grad(update(point), point, z, create_graph=True)
    return _solve(lambda w: torch.autograd.grad(adjoint, z, w, retain_graph=True)[0], gradient)


def _solve(product: Callable[[Tensor], Tensor], right: Tensor) -> Tensor:
    """Solve v = right + product(v) by v ← v + s·(right + product(v) - v).

    s starts at 1 and is halved whenever the residual grows. Converged means max|residual| ≤ eps^¾ · max|v|
    (6e-6 in float32, 2e-12 in float64). Without convergence in 500 steps a `RuntimeWarning` reports the
    residual; a residual that is not finite raises `RuntimeError`.
    """
    limit = torch.finfo(right.dtype).eps ** 0.75
    v, step, last, size = right, 1.0, math.inf, 0.0
    for _ in range(ADJOINT_STEPS):
        residual = right + product(v) - v
        size = float(residual.abs().amax())
        if not math.isfinite(size):
            raise RuntimeError(
                "mean field: the implicit gradient diverged, so the iteration is not a contraction here; "
                "use a smaller damping, weaker kernel weights, or gradient='unrolled'"
            )
        if size <= limit * float(v.abs().amax()):
            return v + residual
        if size > last:
            step = max(step / 2, SMALLEST_STEP)
        last = size
        v = v + step * residual
    warnings.warn(
        f"mean field: the implicit gradient has residual {size:.2g} after {ADJOINT_STEPS} steps; use a "
        "smaller damping, weaker kernel weights, or gradient='unrolled'",
        RuntimeWarning,
        stacklevel=3,
    )
    return v
