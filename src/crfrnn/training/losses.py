# SPDX-License-Identifier: MIT
"""What fitting minimises: cross entropy over the pixels that count, and the Lovász-softmax for mean IU."""

from __future__ import annotations

import torch
from torch import Tensor

from crfrnn.crf import robust_log_likelihood
from crfrnn.io import VOID


def weighted_cross_entropy(
    logits: Tensor, truth: Tensor, weights: Tensor | None = None, robustness: float = 0.0
) -> Tensor:
    """``Σ_i w_i (-log(softmax(x_i)[t_i] + ε)) / Σ_i w_i`` over the pixels that are not void: a scalar.

    Args:
        logits: Float[L, H, W].
        truth: Int64[H, W], 255 = void.
        weights: Float[H, W], ≥ 0; all 1 by default.
        robustness: ε ≥ 0; 0 is the cross entropy.

    >>> weighted_cross_entropy(torch.zeros(2, 1, 2), torch.tensor([[0, 255]])).item()
    0.6931471824645996
    """
    losses = robust_log_likelihood(
        logits[None], truth[None], robustness=robustness, ignore_index=VOID, reduction="none"
    )[0]
    weight = (truth != VOID).to(losses.dtype)
    if weights is not None:
        weight = weight * weights
    return (losses * weight).sum() / weight.sum().clamp(min=1)


def lovasz_softmax(logits: Tensor, truth: Tensor) -> Tensor:
    """The Lovász extension of the Jaccard loss 1 - IU, mean over the labels that occur: a scalar.

    For a label c the errors ``m_i = |[t_i = c] - p_i(c)|`` are sorted downwards; the loss is
    ``Σ_i m_(i) g_i`` with g the steps of the Jaccard loss as the sorted pixels become errors one by one.

    Args:
        logits: Float[L, H, W].
        truth: Int64[H, W], 255 = void; a picture of void alone costs 0.

    Source: Berman, Triki & Blaschko, CVPR 2018, doi:10.1109/CVPR.2018.00464, eqs. 8-9 and algorithm 1.

    >>> lovasz_softmax(torch.tensor([[[9.0, -9.0]], [[-9.0, 9.0]]]), torch.tensor([[0, 1]])) < 1e-6
    tensor(True)
    """
    valid = truth != VOID
    labels = truth[valid]
    probabilities = logits.softmax(0)[:, valid]
    present = labels.unique().tolist()
    if not present:
        return logits.sum() * 0
    losses = []
    for label in present:
        hit = (labels == label).to(probabilities.dtype)
        errors, order = (hit - probabilities[label]).abs().sort(descending=True)
        losses.append(errors @ _jaccard_steps(hit[order]))
    return torch.stack(losses).mean()


def _jaccard_steps(hit: Tensor) -> Tensor:
    """The gradient of the Lovász extension: how the Jaccard loss grows with every further error."""
    total = hit.sum()
    jaccard = 1 - (total - hit.cumsum(0)) / (total + (1 - hit).cumsum(0))
    return torch.cat([jaccard[:1], jaccard[1:] - jaccard[:-1]])
