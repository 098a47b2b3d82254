# SPDX-License-Identifier: MIT
"""Mean-field inference of a dense CRF as a pure function (Algorithm 1 of Zheng et al., ICCV 2015)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from crfrnn.crf import ops, validate
from crfrnn.crf.implicit import fixed_point
from crfrnn.crf.iteration import Iteration, Kernel
from crfrnn.crf.problem import Problem
from crfrnn.crf.recompute import recomputed
from crfrnn.lattice.validate import check_choice, refuse_torchscript

GRADIENTS = ("unrolled", "implicit")


def mean_field(
    unary: Tensor,
    kernels: Sequence[Kernel],
    weights: Sequence[Tensor | float],
    compatibility: Tensor,
    iterations: int = 5,
    *,
    mask: Tensor | None = None,
    clamp: Tensor | None = None,
    activation: str = "softmax",
    damping: float = 1.0,
    tolerance: float | None = None,
    initial: Tensor | None = None,
    gradient: str = "unrolled",
    in_play: float = 0.0,
) -> Tensor:
    """Logits of the marginals after `iterations` parallel mean-field updates.

    ``x ← (1 - damping)·x + damping·(U - μ Σ_m W_m (K_m Q))`` with ``Q = softmax(x)``, from ``x = U``.

    With ``activation="sigmoid"`` labels may overlap: each label is a separate two-label problem, absent and
    present, with logits [0, U_l] and the weight w_ml for both. The difference of its two updates is
    ``x_l ← U_l + Σ_m w_ml (K_m Q_l - K_m (1 - Q_l))``, so for all labels at once

    ``x ← (1 - damping)·x + damping·(U - μ Σ_m W_m K_m (2 Q - 1))`` with ``Q = sigmoid(x)``,

    where μ = -I makes the labels independent; other entries make one label support or suppress another.

    Args:
        unary: Float[B, L, \\*spatial], the logits U = -ψ_u; half types are computed in float32,
            float64 in float64.
        kernels: operators with ``kernel @ Float[B, N, L]``, N pixels in row-major order, usually
            `GaussianKernel`.
        weights: one per kernel: a number, [L] (the diagonal of W) or [L, L].
        compatibility: μ, Float[L, L], any matrix; -I rewards neighbours that agree.
        iterations: T ≥ 0, the number of times the update is applied; 0 returns the start.
        mask: Bool[B, \\*spatial], True = valid. Masked pixels send nothing and their output is the unary,
            unchanged.
        clamp: Int[B, \\*spatial], the label where it is known, -1 where free. Q is one-hot there in every
            iteration, and the output is 100 for that label and 0 for the others, even for T = 0.
        activation: "softmax"; "relu": max(x, 0) over its sum (uniform where nothing is positive); or
            "sigmoid": each label is present or absent independently. "sigmoid" does not support `clamp`.
        damping: step size in (0, 1]; see `monotone_damping`.
        tolerance: stop when max|ΔQ| over the whole batch falls below it. Reads values, so it is not
            supported under `torch.compile`.
        initial: logits to start from instead of the unary, Float[B, L, \\*spatial].
        gradient: "unrolled" backpropagates through all iterations, keeping one x per iteration and
            recomputing the rest; "implicit" differentiates the converged fixed point, at most twice, in
            memory that does not depend on T.
        in_play: δ in [0, 1): in each iteration, a label whose marginal is below δ at every pixel of the batch
            is out of play and sends no message, which saves its filtering cost. It stays in the softmax and
            receives messages. 0: all labels send. The error of one update is at most δ times the largest row
            sum of |Σ_m μ W_m| over the labels out of play, for averaging kernels (normalization "after").
            Not supported with "sigmoid". For gradients, the set of labels in play is constant, and the
            iterations run in plain torch.

    Returns:
        Float[B, L, \\*spatial] in the unary's dtype: x, not normalised.

    Raises:
        TypeError, ValueError: with the argument, the expected and the given value, and the remedy.

    Source: Zheng et al., ICCV 2015, Algorithm 1, doi:10.1109/ICCV.2015.179; damping: Baqué et al., CVPR
    2016, doi:10.1109/CVPR.2016.581.

    >>> import torch
    >>> from crfrnn import GaussianKernel, mean_field
    >>> unary = torch.tensor([[[2.0, 2.0, -0.5, 2.0], [0.0, 0.0, 0.0, 0.0]]])  # one row of 4 pixels, 2 labels
    >>> kernel = GaussianKernel.spatial((4,), theta=1.5)
    >>> mean_field(unary, [kernel], [3.0], -torch.eye(2)).argmax(1).tolist()
    [[0, 0, 0, 0]]
    """
    refuse_torchscript("mean_field")
    unary = validate.check_unary(unary)
    if activation != "sigmoid":
        validate.warn_of_one_label(unary)
    tolerance = validate.check_tolerance(tolerance)
    check_choice("gradient", gradient, GRADIENTS)
    if unary.is_meta:  # shapes only
        validate.check_count("iterations", iterations, 0, "0 returns the unary")
        return torch.empty_like(unary)
    problem = Problem.of(
        unary, kernels, weights, compatibility, iterations, mask=validate.check_mask(mask, unary),
        clamp=clamp, activation=activation, damping=damping, initial=initial, in_play=in_play,
    )  # fmt: skip
    # Autocast would round the messages, and so the small differences that decide a label, to half precision.
    with torch.autocast(unary.device.type, enabled=False):
        return solve(problem, tolerance, gradient)


@torch.no_grad()
def mean_field_labels(
    unary: Tensor,
    kernels: Sequence[Kernel],
    weights: Sequence[Tensor | float],
    compatibility: Tensor,
    iterations: int = 5,
    *,
    mask: Tensor | None = None,
    in_play: float = 0.0,
) -> Tensor:
    """The label of each pixel's largest logit after `mean_field`, for callers that need only labels.

    ``argmax_l x_l``; ties go to the lower label. The native core does not write the logits, which for many
    labels takes as long as some iterations.

    Args:
        unary, kernels, weights, compatibility, iterations, mask, in_play: as for `mean_field`.

    Returns:
        Int16[B, \\*spatial].

    Raises:
        TypeError, ValueError: as `mean_field`.

    >>> import torch
    >>> from crfrnn import GaussianKernel
    >>> unary = torch.tensor([[[2.0, 2.0, -0.5, 2.0], [0.0, 0.0, 0.0, 0.0]]])
    >>> kernel = GaussianKernel.spatial((4,), theta=1.5)
    >>> mean_field_labels(unary, [kernel], [3.0], -torch.eye(2))
    tensor([[0, 0, 0, 0]], dtype=torch.int16)
    """
    unary = validate.check_unary(unary)
    validate.warn_of_one_label(unary)
    unary = ops.single(unary)  # rounding the logits to a half type would make ties
    problem = Problem.of(
        unary, kernels, weights, compatibility, iterations, mask=validate.check_mask(mask, unary),
        in_play=in_play,
    )  # fmt: skip
    with torch.autocast(unary.device.type, enabled=False):
        return ops.labels(problem) if ops.can_label(problem) else solve(problem).max(1).indices.short()


def solve(problem: Problem, tolerance: float | None = None, gradient: str = "unrolled") -> Tensor:
    """`mean_field` of a problem that has been checked, outside autocast."""
    one_call = gradient == "unrolled" and tolerance is None and not validate.transformed()
    if one_call and ops.can(problem) is None:
        return problem.result(ops.run(problem))
    problem.check_values()
    update = problem.iteration()
    start = problem.start(update)
    if gradient == "implicit":
        logits = fixed_point(update, start, problem.iterations, tolerance)
    else:
        logits = _unrolled(update, start, problem.iterations, tolerance)
    return problem.result(logits.mT.reshape(problem.unary.shape))


def _unrolled(update: Iteration, logits: Tensor, iterations: int, tolerance: float | None) -> Tensor:
    """Apply the update T times, keeping only x of each iteration for the backward pass."""
    # The compiler itself decides what to recompute, and torch.func has no hooks on saved tensors.
    lean = torch.is_grad_enabled() and not torch.compiler.is_compiling() and not validate.transformed()
    for _ in range(iterations):
        before = logits
        logits = recomputed(update, logits) if lean else update(logits)
        if tolerance is not None and update.change(before, logits) < tolerance:
            break
    return logits
