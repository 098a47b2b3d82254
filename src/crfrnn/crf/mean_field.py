# SPDX-License-Identifier: MIT
"""Mean-field inference of a dense CRF as a pure function (Algorithm 1 of Zheng et al., ICCV 2015)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from crfrnn.crf import fused, validate
from crfrnn.crf.implicit import fixed_point
from crfrnn.crf.iteration import ACTIVATIONS, Iteration, Kernel
from crfrnn.crf.recompute import recomputed
from crfrnn.lattice.validate import refuse_torchscript

# The logit of a clamped label over the 0 of all others: softmax of it is 1 to the last bit, also in float64.
CLAMPED_LOGIT = 100.0
GRADIENTS = ("unrolled", "implicit")
PRECISIONS = ("auto", "float32")


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
    precision: str = "auto",
) -> Tensor:
    """Logits of the marginals after `iterations` parallel mean-field updates.

    ``x ← (1 - damping)·x + damping·(U - μ Σ_m W_m (K_m Q))`` with ``Q = softmax(x)``, from ``x = U``.

    With ``activation="sigmoid"`` labels may overlap: each is a problem of two labels of its own, absent and
    present, with logits [0, U_l] and the weight w_ml for both. The difference of its two updates is
    ``x_l ← U_l + Σ_m w_ml (K_m Q_l - K_m (1 - Q_l))``, so for all labels at once

    ``x ← (1 - damping)·x + damping·(U - μ Σ_m W_m K_m (2 Q - 1))`` with ``Q = sigmoid(x)``,

    where μ = -I keeps the labels apart; other entries let one label speak for or against another.

    Args:
        unary: Float[B, L, \\*spatial], the logits U = -ψ_u; half types are computed in float32,
            float64 in float64.
        kernels: operators with ``kernel @ Float[B, N, L]``, N pixels in row-major order, usually
            `GaussianKernel`.
        weights: one per kernel: a number, [L] (the diagonal of W) or [L, L].
        compatibility: μ, Float[L, L], any matrix; -I rewards neighbours that agree.
        iterations: T ≥ 0, the number of times the update is applied; 0 returns the start.
        mask: Bool[B, \\*spatial], True = valid. Masked pixels send nothing and their output is the unary,
            whatever it holds.
        clamp: Int[B, \\*spatial], the label where it is known, -1 where free. Q is one-hot there in every
            iteration; the output there is 100 at that label and 0 elsewhere, also after zero iterations.
        activation: "softmax"; "relu": max(x, 0) over its sum (uniform where nothing is positive); or
            "sigmoid": each label present or absent by itself. It takes no clamp.
        damping: step size in (0, 1]; see `monotone_damping`.
        tolerance: stop when max|ΔQ| over the whole batch falls below it. Reads values, so not under
            `torch.compile`.
        initial: logits to start from instead of the unary, Float[B, L, \\*spatial].
        gradient: "unrolled" goes back through all iterations, keeping one x per iteration and recomputing
            the rest; "implicit" differentiates the converged fixed point in memory that does not depend
            on T, at most twice.
        precision: "auto" or "float32": the same today, rows are stored in float32 either way.

    Returns:
        Float[B, L, \\*spatial] in the unary's dtype: x, not normalised.

    Raises:
        TypeError, ValueError: naming the argument, what was expected, what came and the remedy.

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
    dtype = validate.check_unary(unary).dtype
    if activation != "sigmoid":
        validate.warn_of_one_label(unary)
    iterations = validate.check_count("iterations", iterations, 0, "0 returns the unary")
    tolerance = validate.check_tolerance(tolerance)
    validate.check_choice("gradient", gradient, GRADIENTS)
    validate.check_choice("precision", precision, PRECISIONS)
    if unary.is_meta:  # shapes alone
        return torch.empty_like(unary)
    # Autocast would round the messages to half precision and with them the differences that decide a label.
    with torch.autocast(unary.device.type, enabled=False):
        if gradient == "unrolled" and tolerance is None and not validate.transformed():
            logits = _fused(
                unary, kernels, weights, compatibility, iterations, mask, clamp, activation, damping, initial
            )
            if logits is not None:
                return logits
        update = prepare(unary, kernels, weights, compatibility, mask, clamp, activation, damping)
        start = update.unary if initial is None else _start(initial, unary, update)
        if gradient == "implicit":
            logits = fixed_point(update, start, iterations, tolerance)
        else:
            logits = _unrolled(update, start, iterations, tolerance)
        if update.known is not None and update.evidence is not None:
            logits = torch.where(update.known, CLAMPED_LOGIT * update.evidence, logits)
        logits = logits.mT.reshape(unary.shape).to(dtype)
        return (logits if mask is None else torch.where(mask.unsqueeze(1), logits, unary)).contiguous()


def prepare(
    unary: Tensor,
    kernels: Sequence[Kernel],
    weights: Sequence[Tensor | float],
    compatibility: Tensor,
    mask: Tensor | None = None,
    clamp: Tensor | None = None,
    activation: str = "softmax",
    damping: float = 1.0,
) -> Iteration:
    """Check the arguments of an inference and bring them to pixels × labels in the computing dtype."""
    unary, mask = validate.check_unary(unary), validate.check_mask(mask, unary)
    validate.check_unary_values(unary, mask)
    clamp = validate.check_clamp(clamp, unary, mask)
    validate.check_choice("activation", activation, ACTIVATIONS)
    if activation == "sigmoid" and clamp is not None:
        raise ValueError(
            "clamp: expected None with activation='sigmoid', whose labels overlap, got a label per pixel; "
            "say what is known in the unary: 100 where a label is present, -100 where it is absent"
        )
    unary = unary if unary.dtype == torch.float64 else unary.float()
    kernels, weights = validate.check_kernels(kernels, weights, unary, math.prod(unary.shape[2:]))
    compatibility = validate.check_weight("compatibility", compatibility, unary, matrix_only=True)
    pixels = _pixels(unary)
    valid = known = evidence = None
    if mask is not None:
        valid = mask.flatten(1).unsqueeze(-1)
        # Padding may hold anything, NaN too: it must reach neither the messages nor a gradient.
        pixels = torch.where(valid, pixels, torch.zeros_like(pixels))
    if clamp is not None:
        labels = clamp.flatten(1).unsqueeze(-1)
        known = labels >= 0 if valid is None else (labels >= 0) & valid
        evidence = (labels == torch.arange(unary.shape[1], device=unary.device)).to(pixels.dtype)
    damping = validate.check_damping(damping)
    return Iteration(pixels, kernels, weights, compatibility, activation, damping, valid, known, evidence)


def _fused(
    unary: Tensor,
    kernels: Sequence[Kernel],
    weights: Sequence[Tensor | float],
    compatibility: Tensor,
    iterations: int,
    mask: Tensor | None,
    clamp: Tensor | None,
    activation: str,
    damping: float,
    initial: Tensor | None,
) -> Tensor | None:
    """The same in one native operator, which checks the values itself, or None where it does not apply."""
    dtype, start = unary.dtype, unary
    unary, mask = validate.check_unary(unary), validate.check_mask(mask, unary)
    clamp = validate.check_clamp(clamp, unary, mask)
    validate.check_choice("activation", activation, ACTIVATIONS)
    unary = unary if unary.dtype == torch.float64 else unary.float()
    if not isinstance(kernels, Sequence) or not fused.supports(unary, kernels, activation, unary.shape[0]):
        return None
    values = not fused.looks_later(unary, kernels)
    kernels, checked = validate.check_kernels(kernels, weights, unary, math.prod(unary.shape[2:]), values)
    compatibility = validate.check_weight("compatibility", compatibility, unary, True, values)
    damping = validate.check_damping(damping)
    if initial is not None:
        initial = check_initial(initial, start).float()
    logits = fused.run(unary, kernels, checked, compatibility, iterations, mask, clamp, damping, initial)
    if clamp is not None:
        labels = torch.arange(unary.shape[1], device=unary.device).view(1, -1, *[1] * (unary.ndim - 2))
        known = clamp.unsqueeze(1)
        logits = torch.where(known >= 0, CLAMPED_LOGIT * (known == labels), logits)
    logits = logits.to(dtype)
    return logits if mask is None else torch.where(mask.unsqueeze(1), logits, start)


def _unrolled(update: Iteration, logits: Tensor, iterations: int, tolerance: float | None) -> Tensor:
    """Apply the update T times, keeping only x of each iteration for the backward pass."""
    # The compiler chooses itself what to recompute, and torch.func knows no hooks on saved tensors.
    lean = torch.is_grad_enabled() and not torch.compiler.is_compiling() and not validate.transformed()
    for _ in range(iterations):
        before = logits
        logits = recomputed(update, logits) if lean else update(logits)
        if tolerance is not None and update.change(before, logits) < tolerance:
            break
    return logits


def _pixels(grid: Tensor) -> Tensor:
    """[B, L, *spatial] to [B, N, L]: the labels of one pixel lie side by side."""
    return grid.flatten(2).mT.contiguous()


def check_initial(initial: Tensor, unary: Tensor) -> Tensor:
    """Logits to start from, of the unary's shape and device."""
    initial = validate.check_tensor("initial", initial, "floating-point logits shaped as unary")
    if not initial.is_floating_point():
        raise TypeError(f"initial: expected floating-point logits, got {validate.describe(initial)}")
    if initial.shape != unary.shape:
        raise ValueError(
            f"initial: expected the shape of unary {tuple(unary.shape)}, got {validate.describe(initial)}; "
            "resize it to the picture first"
        )
    validate.check_device("initial", initial, unary)
    return initial


def _start(initial: Tensor, unary: Tensor, update: Iteration) -> Tensor:
    logits = _pixels(check_initial(initial, unary)).to(update.unary.dtype)
    if update.valid is not None:
        logits = torch.where(update.valid, logits, torch.zeros_like(logits))
    validate.check_finite("initial", logits, "start from the unary instead: initial=None")
    return logits
