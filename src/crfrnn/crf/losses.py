# SPDX-License-Identifier: MIT
"""Losses that use the CRF's own marginals and kernels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real

import torch
from torch import Tensor

from crfrnn.crf import validate
from crfrnn.crf.binary import two_labels
from crfrnn.crf.iteration import Kernel
from crfrnn.crf.problem import Problem
from crfrnn.lattice.validate import check_choice

REDUCTIONS = ("mean", "sum", "none")


def robust_log_likelihood(
    logits: Tensor,
    target: Tensor,
    *,
    robustness: float = 0.01,
    ignore_index: int = 255,
    reduction: str = "mean",
) -> Tensor:
    """Negative robust log-likelihood of the labels, to be minimised.

    ``-log(Q_i(target_i) + ε)`` per pixel, ``Q = softmax(logits)``: like the cross-entropy where Q is large,
    but the loss of a pixel is at most -log ε and its gradient vanishes as Q → 0, so that mislabelled
    pixels do not dominate.

    Args:
        logits: Float[B, L, \\*spatial]; L = 1 is the logit z of the foreground, equivalent to [0, z].
        target: Int[B, \\*spatial]; pixels equal to `ignore_index` are excluded.
        robustness: ε ≥ 0; 0 is the cross-entropy.
        reduction: "mean" over the pixels counted (0 if there are none), "sum", or "none": Float[B,
            \\*spatial] with 0 at ignored pixels.

    Source: Krähenbühl & Koltun, *Parameter Learning and Convergent Inference for Dense Random Fields*,
    ICML 2013; gave no improvement for CRF-RNN in Zheng et al., ICCV 2015.

    >>> import torch
    >>> logits, target = torch.tensor([[[50.0], [0.0]]]), torch.tensor([[1]])
    >>> round(float(robust_log_likelihood(logits, target, robustness=0.01)), 3)  # -log 0.01, not 50
    4.605
    """
    logits = two_labels(validate.check_unary(logits, "logits"), 1)
    check_choice("reduction", reduction, REDUCTIONS)
    if isinstance(robustness, bool) or not isinstance(robustness, Real):
        raise TypeError(f"robustness: expected a number ≥ 0, got {validate.describe(robustness)}")
    robustness = float(robustness)
    if not robustness >= 0 or math.isinf(robustness):
        raise ValueError(
            f"robustness: expected a finite number ≥ 0, got {robustness}; 0 is the cross-entropy"
        )
    remedy = f"ignore_index ({ignore_index}) to pixels without a label"
    target = validate.check_labels("target", target, logits, ignore_index, remedy)
    counted = target != ignore_index
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    log_q = torch.log_softmax(logits.to(dtype), 1)
    log_q = log_q.gather(1, torch.where(counted, target, 0).unsqueeze(1)).squeeze(1)
    if robustness:
        log_q = torch.logaddexp(log_q, log_q.new_tensor(math.log(robustness)))
    loss = torch.where(counted, -log_q, torch.zeros_like(log_q))
    if reduction == "none":
        return loss
    return loss.sum() if reduction == "sum" else loss.sum() / counted.sum().clamp(min=1)


def dense_crf_loss(
    logits: Tensor,
    kernels: Sequence[Kernel],
    weights: Sequence[Tensor | float],
    *,
    mask: Tensor | None = None,
    normalized_cut: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """Dense-CRF regularised loss for weak supervision: the cost of separating similar pixels.

    ``R(S) = Σ_l Σ_m w_m(l) S_lᵀ K_m (1 - S_l)`` with ``S = softmax(logits)``, or with `normalized_cut`
    ``R(S) = Σ_l [Σ_m w_m(l) S_lᵀ K_m (1 - S_l)] / [Σ_m w_m(l) 1ᵀ K_m S_l]``, whose value lies in 0..L.
    With a mask, S and 1 are both 0 at masked pixels, which then do not contribute. The sum runs over ordered
    pairs, and includes i = j if the kernels do; no matrix of N² entries is formed.

    Args:
        logits: Float[B, L, \\*spatial], usually the network's, before any CRF; L = 1 means [0, z].
        kernels: any operators over the pixels; unnormalised (normalization="none") for the paper's W.
        weights: one per kernel, a number or [L].
        mask: Bool[B, \\*spatial], True = valid.
        reduction: "none" gives R per picture, Float[B]; "sum" adds the pictures; "mean" divides each R by
            its number of valid pixels (not with `normalized_cut`, which is scale-invariant) and averages
            over pictures.

    Source: Tang et al., *On Regularized Losses for Weakly-supervised CNN Segmentation*, ECCV 2018,
    doi:10.1007/978-3-030-01270-0_31. Their published code drops the constant and computes -Σ_l S_lᵀ W S_l.

    >>> import torch
    >>> from crfrnn import GaussianKernel, dense_crf_loss
    >>> kernel = GaussianKernel.spatial((1, 2), 1.0, method="exact", normalization="none")
    >>> flat = torch.tensor([[[[30.0, 30.0]], [[0.0, 0.0]]]])
    >>> round(float(dense_crf_loss(flat, [kernel], [1.0])), 4)  # one segment cuts nothing
    0.0
    """
    logits = two_labels(validate.check_unary(logits, "logits"), 1)
    check_choice("reduction", reduction, REDUCTIONS)
    size = logits.shape[1]
    identity = torch.eye(size, device=logits.device)
    problem = Problem.of(logits, kernels, weights, identity, mask=validate.check_mask(mask, logits))
    with torch.autocast(logits.device.type, enabled=False):
        problem.check_values()
        model = problem.iteration()
        if any(weight.ndim == 2 for weight in model.weights):
            raise ValueError(
                "weights: expected a number or [L] per kernel, got [L, L]; labels do not mix in this loss"
            )
        s = model.marginals(model.unary)
        ones = torch.ones_like(s[..., :1]) if model.valid is None else model.valid.to(s.dtype)
        # Filter the complement, K(1 - S): unlike K1 - KS it is exactly 0 where S is exactly 1.
        cut = (s * model.pairwise(ones - s)).sum(1)
        if normalized_cut:
            volume = (ones * model.pairwise(s)).sum(1)
            # A label without mass has no cut; define its 0/0 as 0.
            empty = volume == 0
            loss = torch.where(
                empty, torch.zeros_like(cut), cut / torch.where(empty, torch.ones_like(volume), volume)
            )
            loss = loss.sum(1)
        else:
            loss = cut.sum(1)
            if reduction == "mean":
                loss = loss / ones.sum((1, 2)).clamp(min=1)
    if reduction == "none":
        return loss
    return loss.sum() if reduction == "sum" else loss.sum() / max(len(loss), 1)
