# SPDX-License-Identifier: MIT
"""The mean IU of a whole data set as a loss, one picture at a time."""

from __future__ import annotations

import torch
from torch import Tensor

Counts = tuple[Tensor, Tensor, Tensor]  # hits, predicted mass, true pixels of every label: Float64[L] each


class SetIoU:
    """1 - mean IU over a data set with probabilities for predictions, to first order in each picture.

    With ``I_c = Σ_i [t_i = c] p_i(c)`` and ``U_c = Σ_i ([t_i = c] + p_i(c)) - I_c``, summed over all
    pictures, the loss is ``1 - mean_c I_c / U_c`` over the labels that occur in the truth. VOC counts labels
    over the data set, so a mean of the pictures' own scores is another figure. The counts of every picture as
    last seen are kept (3 L numbers); a picture's gradient is ``-N mean_c (∂I_c / U_c - I_c ∂U_c / U_c²)``
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
        self._kept: dict[str, Counts] = {}
        self._sums: Counts = (torch.zeros(0), torch.zeros(0), torch.zeros(0))

    def remember(self, name: str, logits: Tensor, truth: Tensor, where: Tensor) -> None:
        """Count a picture without asking for a gradient; `where` Bool[H, W] are the pixels that count."""
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

    def _replace(self, name: str, counts: Counts) -> None:
        self._kept[name] = (counts[0].detach(), counts[1].detach(), counts[2])
        # Summed anew: sums kept up by differences would drift.
        hits, mass, true = (torch.stack(parts).sum(0) for parts in zip(*self._kept.values(), strict=True))
        self._sums = hits, mass, true

    def _count(self, logits: Tensor, truth: Tensor, where: Tensor) -> Counts:
        p, labels = logits.softmax(0)[:, where].double(), truth[where]
        hits = p.gather(0, labels[None])[0]
        zeros = p.new_zeros(self.num_labels)
        true = torch.bincount(labels, minlength=self.num_labels).double()
        return zeros.index_add(0, labels, hits), p.sum(1), true
