# SPDX-License-Identifier: MIT
"""The data-set IoU loss against the confusion matrix and against the gradient of the whole set."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from crfrnn.evaluation import confusion_matrix, mean_iu_of_truth
from crfrnn.training.losses import SetIoU


def _pictures() -> list[tuple[str, torch.Tensor, torch.Tensor, torch.Tensor]]:
    out = []
    for number in range(4):
        truth = torch.randint(0, 3, (5, 6 + number))
        where = torch.rand(truth.shape) > 0.2
        out.append((f"p{number}", torch.randn(4, *truth.shape, dtype=torch.float64), truth, where))
    return out


def test_hard_predictions_give_one_minus_the_mean_iu_of_the_set() -> None:
    loss, matrix = SetIoU(4), np.zeros((4, 4), np.int64)
    for name, logits, truth, where in _pictures():
        value = loss(name, 1e4 * logits, truth, where)
        labels = logits.argmax(0)
        matrix += confusion_matrix(truth[where].numpy(), labels[where].numpy(), 4)
    assert float(value) == pytest.approx(1 - float(mean_iu_of_truth(matrix)), abs=1e-9)


def test_the_mean_of_the_pictures_gradients_is_the_gradient_of_the_set() -> None:
    pictures = _pictures()
    scale = torch.ones(4, 1, 1, dtype=torch.float64, requires_grad=True)
    kept = SetIoU(4)
    for name, logits, truth, where in pictures:
        kept.remember(name, logits, truth, where)
    total = sum(kept(name, scale * logits, truth, where) for name, logits, truth, where in pictures)
    (ours,) = torch.autograd.grad(total / len(pictures), scale)

    hits, union = torch.zeros(4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
    for _, logits, truth, where in pictures:
        p = (scale * logits).softmax(0)[:, where]
        hot = torch.nn.functional.one_hot(truth[where], 4).T
        hits = hits + (p * hot).sum(1)
        union = union + (p + hot - p * hot).sum(1)
    # Label 3 is absent from the truth, so the mean is over three labels, whatever is predicted.
    (theirs,) = torch.autograd.grad(1 - (hits / union)[:3].mean(), scale)
    assert torch.allclose(ours, theirs)
