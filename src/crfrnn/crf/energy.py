# SPDX-License-Identifier: MIT
"""Gibbs energy and mean-field free energy of a dense CRF, with checks that they exist.

The pairwise term must be a symmetric quadratic form: every kernel must be a symmetric operator (normalisation
"none" or "symmetric", and ``kernel.symmetrized()`` for a lattice, whose axis blurs do not commute) and every
μ W_m a symmetric matrix. Otherwise the updates still run, but they do not minimise an energy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from crfrnn.crf import validate
from crfrnn.crf.iteration import Iteration, Kernel
from crfrnn.crf.mean_field import solve
from crfrnn.crf.problem import Problem

TOLERANCE = 1e-5  # relative to the largest entry; allows for float32 rounding of a product


def gibbs_energy(
    labels: Tensor,
    unary: Tensor,
    kernels: Sequence[Kernel],
    weights: Sequence[Tensor | float],
    compatibility: Tensor,
    *,
    mask: Tensor | None = None,
) -> Tensor:
    """Energy of a labelling, one number per picture.

    ``E(x) = -Σ_i U_i(x_i) + ½ Σ_{i,j} Σ_m [μ W_m](x_i, x_j) K_m(i, j)``, the second sum over ordered pairs.

    The kernels are used as built: one that keeps its self term also contributes
    ``½ [μ W](x_i, x_i) K(i, i)``. Build it with ``exclude_self=True`` for the paper's sum over i < j.

    Args:
        labels: Int[B, \\*spatial] in 0..L-1; masked pixels are ignored.
        unary, kernels, weights, compatibility, mask: as in `mean_field`, kernels and μ W_m symmetric.

    Returns:
        Float[B].

    Raises:
        ValueError: if no energy exists.

    Source: Zheng et al., ICCV 2015, eq. 1.

    >>> import torch
    >>> from crfrnn import GaussianKernel, gibbs_energy
    >>> kernel = GaussianKernel.spatial((1, 2), 1.0, normalization="none", exclude_self=True)
    >>> unary = torch.zeros(1, 2, 1, 2)
    >>> same = gibbs_energy(torch.tensor([[[0, 0]]]), unary, [kernel], [1.0], -torch.eye(2))
    >>> round(float(same), 4)  # one pair at distance 1: -exp(-1/2)
    -0.6065
    """
    unary = validate.check_unary(unary)
    mask = validate.check_mask(mask, unary)
    labels = validate.check_labels("labels", labels, unary, None, "a label of the unary to every pixel", mask)
    problem = Problem.of(unary, kernels, weights, compatibility, mask=mask)
    with torch.autocast(unary.device.type, enabled=False):
        # A labelling is an inference with every pixel clamped: its marginals are one-hot vectors.
        model = _symmetric(replace(problem, clamp=labels))
        return _expected_energy(model, model.marginals(model.unary))


def free_energy(
    logits: Tensor,
    unary: Tensor,
    kernels: Sequence[Kernel],
    weights: Sequence[Tensor | float],
    compatibility: Tensor,
    *,
    mask: Tensor | None = None,
    clamp: Tensor | None = None,
) -> Tensor:
    """Mean-field (variational) free energy of ``Q = softmax(logits)``, one number per picture.

    ``F(Q) = Σ_i Σ_l Q_i(l) (log Q_i(l) - U_i(l)) + ½ Σ_m <Q, K_m Q (μ W_m)ᵀ>``. With kernels without a self
    term this is ``KL(Q ‖ P) - log Z`` of ``P(x) = exp(-E(x)) / Z``, an upper bound of -log Z. If a kernel
    keeps its self term, the stationary points of F are the fixed points of the updates with that self term.

    Args:
        logits: Float[B, L, \\*spatial], usually the output of `mean_field`; for probabilities, pass
            ``q.log()``.
        unary, kernels, weights, compatibility, mask, clamp: as in `mean_field`, kernels and μ W_m
            symmetric.

    Returns:
        Float[B], differentiable.

    Raises:
        ValueError: if no free energy exists.

    Source: Koller & Friedman, *Probabilistic Graphical Models*, 2009, section 11.5. pydensecrf's
    klDivergence lacks the ½.

    >>> import torch
    >>> from crfrnn import GaussianKernel, free_energy
    >>> kernel = GaussianKernel.spatial((1, 1), 1.0, normalization="none", exclude_self=True)
    >>> unary = torch.tensor([[[[1.0]], [[0.0]]]])  # one pixel: F at its optimum is -log(e + 1)
    >>> round(float(free_energy(unary, unary, [kernel], [1.0], -torch.eye(2))), 4)
    -1.3133
    """
    unary = validate.check_unary(unary)
    mask = validate.check_mask(mask, unary)
    problem = Problem.of(unary, kernels, weights, compatibility, mask=mask, clamp=clamp)
    remedy = "give what mean_field returned for this unary"
    logits = validate.check_like_unary("logits", logits, unary, remedy)
    usable = logits.detach().clamp(min=torch.finfo(logits.dtype).min)  # -inf is the logit of q = 0
    validate.check_finite("logits", usable, remedy, None if mask is None else mask.unsqueeze(1))
    with torch.autocast(unary.device.type, enabled=False):
        return _free_energy(_symmetric(problem), logits)


def free_energy_trace(
    unary: Tensor,
    kernels: Sequence[Kernel],
    weights: Sequence[Tensor | float],
    compatibility: Tensor,
    iterations: int = 5,
    *,
    mask: Tensor | None = None,
    clamp: Tensor | None = None,
    damping: float = 1.0,
    initial: Tensor | None = None,
) -> Tensor:
    """Free energy before the first and after every iteration, Float[T + 1, B].

    Arguments as in `mean_field`; with ``damping=monotone_damping(kernels, weights, compatibility)`` the
    trace never increases.

    >>> import torch
    >>> from crfrnn import GaussianKernel, free_energy_trace
    >>> kernel = GaussianKernel.spatial((4, 4), 1.0, normalization="symmetric")
    >>> trace = free_energy_trace(torch.randn(1, 2, 4, 4), [kernel], [3.0], -torch.eye(2), iterations=6)
    >>> bool((trace.diff(dim=0) <= 1e-4).all())
    True
    """
    unary = validate.check_unary(unary)
    iterations = validate.check_count("iterations", iterations, 0, "0 gives the free energy of the start")
    step = Problem.of(
        unary, kernels, weights, compatibility, 1, mask=validate.check_mask(mask, unary), clamp=clamp,
        damping=damping, initial=initial,
    )  # fmt: skip
    with torch.no_grad(), torch.autocast(unary.device.type, enabled=False):
        model = _symmetric(step)
        logits = step.unary if step.initial is None else step.initial
        trace = [_free_energy(model, logits)]
        for _ in range(iterations):
            logits = solve(replace(step, initial=logits.to(step.unary.dtype)))
            trace.append(_free_energy(model, logits))
    return torch.stack(trace)


def _free_energy(model: Iteration, logits: Tensor) -> Tensor:
    """F of Q = softmax(logits), Float[B, L, *spatial]."""
    x = logits.flatten(2).mT.to(model.unary.dtype)
    if model.valid is not None:
        x = torch.where(model.valid, x, torch.zeros_like(x))
    q = model.marginals(x)
    # -inf logits times Q = 0 must give 0, not NaN; clamped pixels are certain and have no entropy.
    log_q = torch.log_softmax(x, -1).clamp(min=torch.finfo(x.dtype).min)
    if model.known is not None:
        log_q = torch.where(model.known, torch.zeros_like(log_q), log_q)
    return (q * log_q).sum((1, 2)) + _expected_energy(model, q)


def _expected_energy(model: Iteration, q: Tensor) -> Tensor:
    return (q * (0.5 * model.pairwise(q) - model.unary)).sum((1, 2))


def _symmetric(problem: Problem) -> Iteration:
    """The iteration; rejected unless it minimises an energy."""
    problem.check_values()
    for index, (kernel, weight) in enumerate(zip(problem.kernels, problem.weights, strict=True)):
        check_symmetric_kernel(index, kernel)
        label_form(index, weight, problem.compatibility)
    return problem.iteration()


def check_symmetric_kernel(index: int, kernel: Any) -> None:
    """Reject an operator without a true ``is_symmetric``."""
    if not getattr(kernel, "is_symmetric", False):
        mode = getattr(kernel, "normalization", "unknown")
        raise ValueError(
            f"kernels[{index}]: expected a symmetric operator, because otherwise no free energy exists; got "
            f"{type(kernel).__name__} with normalization {mode!r}; use normalization='none' or 'symmetric' "
            "and kernel.symmetrized()"
        )


def label_form(index: int, weight: Tensor, compatibility: Tensor) -> Tensor:
    """μ W_m, a detached Float[L, L]; rejected unless symmetric."""
    weight, compatibility = weight.detach(), compatibility.detach()
    form = compatibility @ weight if weight.ndim == 2 else compatibility * weight
    if float((form - form.mT).abs().amax()) > TOLERANCE * float(form.abs().amax()):
        raise ValueError(
            f"compatibility @ weights[{index}]: expected a symmetric matrix, because otherwise no "
            "free energy exists; got an asymmetric one; use one weight for all labels and a symmetric "
            "compatibility"
        )
    return form
