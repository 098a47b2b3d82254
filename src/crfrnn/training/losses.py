# SPDX-License-Identifier: MIT
"""Training losses: cross entropy, the Lovász-softmax, and the IoU of a batch or of a data set."""

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
        truth: Int64[H, W], 255 = void; for a picture of only void the loss is 0.

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


def soft_iou(logits: Tensor, truth: Tensor) -> Tensor:
    """1 - mean IU of a batch with probabilities for predictions, over the labels that occur: a scalar.

    ``1 - mean_c I_c / U_c`` with ``I_c = Σ_i [t_i = c] p_i(c)`` and ``U_c = Σ_i ([t_i = c] + p_i(c)) - I_c``,
    the sums over all pixels of the batch. Unlike `SetIoU` it keeps no state between steps.

    Args:
        logits: Float[B, L, H, W].
        truth: Int64[B, H, W], 255 = void; for a batch of only void the loss is 0.

    Source: Rahman & Wang, *Optimizing Intersection-Over-Union in Deep Neural Networks*, ISVC 2016,
    doi:10.1007/978-3-319-50835-1_22.

    >>> soft_iou(torch.zeros(1, 2, 1, 2), torch.tensor([[[0, 1]]]))
    tensor(0.6667)
    """
    valid = truth != VOID
    true = torch.bincount(truth[valid], minlength=logits.shape[1]).to(logits.dtype)
    present = true > 0
    if not bool(present.any()):
        return logits.sum() * 0
    p = logits.softmax(1) * valid.unsqueeze(1)
    hit = p.gather(1, torch.where(valid, truth, 0).unsqueeze(1))
    # Probabilities of void pixels are set to 0, so the label that they are counted under does not matter.
    hits = torch.zeros_like(true).index_add(0, torch.where(valid, truth, 0).flatten(), hit.flatten())
    union = p.sum((0, 2, 3)) + true - hits
    return 1 - (hits / union)[present].mean()


def _jaccard_steps(hit: Tensor) -> Tensor:
    """The gradient of the Lovász extension: the increase of the Jaccard loss with every further error."""
    total = hit.sum()
    jaccard = 1 - (total - hit.cumsum(0)) / (total + (1 - hit).cumsum(0))
    return torch.cat([jaccard[:1], jaccard[1:] - jaccard[:-1]])


Masses = tuple[Tensor, Tensor, Tensor]  # hits, predicted mass, true pixels of every label: Float64[L] each


class SetIoU:
    """1 - mean IU over a data set with probabilities for predictions, to first order in each picture.

    With ``I_c = Σ_i [t_i = c] p_i(c)`` and ``U_c = Σ_i ([t_i = c] + p_i(c)) - I_c``, summed over all
    pictures, the loss is ``1 - mean_c I_c / U_c`` over the labels that occur in the truth. VOC counts labels
    over the data set, so the mean of the pictures' scores is a different figure. The latest counts of every
    picture are kept (3 L numbers); a picture's gradient is ``-N mean_c (∂I_c / U_c - I_c ∂U_c / U_c²)``
    with the kept sums for I and U: its mean over the N pictures of an epoch is the gradient of the whole
    loss as long as the parameters move little.

    Args:
        num_labels: L.

    >>> loss = SetIoU(2)
    >>> truth = torch.tensor([[0, 1]])
    >>> loss.remember("a", torch.tensor([[[9.0, -9.0]], [[-9.0, 9.0]]]), truth, truth >= 0)
    >>> loss("a", torch.zeros(2, 1, 2), truth, truth >= 0)
    tensor(0.6667)
    """

    def __init__(self, num_labels: int) -> None:
        self.num_labels = num_labels
        self._kept: dict[str, Masses] = {}
        self._sums: Masses = (torch.zeros(0), torch.zeros(0), torch.zeros(0))

    def remember(self, name: str, logits: Tensor, truth: Tensor, where: Tensor) -> None:
        """Count a picture without a gradient; `where` Bool[H, W] marks the pixels that count."""
        with torch.no_grad():
            self._replace(name, self._count(logits, truth, where))

    def __call__(self, name: str, logits: Tensor, truth: Tensor, where: Tensor) -> Tensor:
        """Float[L, H, W], Int64[H, W], Bool[H, W] → a scalar whose value is that of the whole data set."""
        new = self._count(logits, truth, where)
        self._replace(name, new)
        hits, mass, true = self._sums
        union = mass + true - hits
        present = true > 0
        share = len(self._kept) / present.sum().clamp(min=1)
        safe = torch.where(present, union, torch.ones_like(union))
        step = new[0] / safe - hits / safe**2 * (new[1] - new[0])
        linear = -share * torch.where(present, step, torch.zeros_like(step)).sum()
        value = 1 - (hits / safe)[present].mean() if bool(present.any()) else hits.new_zeros(())
        return (linear - linear.detach() + value).to(logits.dtype)

    def _replace(self, name: str, counts: Masses) -> None:
        self._kept[name] = (counts[0].detach(), counts[1].detach(), counts[2])
        # Sum again: incremental updates would accumulate rounding errors.
        hits, mass, true = (torch.stack(parts).sum(0) for parts in zip(*self._kept.values(), strict=True))
        self._sums = hits, mass, true

    def _count(self, logits: Tensor, truth: Tensor, where: Tensor) -> Masses:
        p, labels = logits.softmax(0)[:, where].double(), truth[where]
        hits = p.gather(0, labels[None])[0]
        zeros = p.new_zeros(self.num_labels)
        true = torch.bincount(labels, minlength=self.num_labels).double()
        return zeros.index_add(0, labels, hits), p.sum(1), true
