# SPDX-License-Identifier: MIT
"""The loss of a fitting step, and the constraints on its gradient."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from crfrnn.crf import CRFRNN
from crfrnn.datasets import Sample, UnaryDataset
from crfrnn.evaluation import trimap_bins
from crfrnn.io import VOID
from crfrnn.training.losses import SetIoU, lovasz_softmax, weighted_cross_entropy
from crfrnn.training.recipe import FitConfig, Stage


@dataclass(frozen=True)
class Truth:
    """The target of a picture's logits.

    truth Int64[H, W], near (borders) Bool[H, W], weights Float[H, W] or None: all 1.
    """

    id: str
    truth: Tensor
    near: Tensor
    weights: Tensor | None


class Objective:
    """The loss of a picture under a configuration, and the regulariser towards the start."""

    def __init__(self, data: UnaryDataset, crf: CRFRNN, config: FitConfig) -> None:
        self.config, self.crf = config, crf
        self._start = {name: value.detach().clone() for name, value in crf.named_parameters()}
        self._label_weights = _balanced(data, config.balance) if config.balance else None
        self._borders: dict[str, Tensor] = {}
        self._whole = SetIoU(data.num_labels) if config.set_iou else None
        self._near = SetIoU(data.num_labels) if config.set_iou_trimap else None
        if self._whole or self._near:
            self._remember(data)

    def prepare(self, sample: Sample, corner: tuple[float, float]) -> tuple[Sample, Truth]:
        """Crop a picture and make its target."""
        near = self._near_borders(sample)
        side = self.config.crop
        if side is not None:
            rows, columns = (
                slice(begin, begin + side)
                for begin in (
                    int(share * (max(0, size - side) + 1))
                    for share, size in zip(corner, sample.truth.shape, strict=True)
                )
            )
            image, unary, truth = (x[..., rows, columns] for x in (sample.image, sample.unary, sample.truth))
            sample, near = Sample(sample.id, image, unary, truth), near[rows, columns]
        return sample, Truth(sample.id, sample.truth, near, self._pixel_weights(sample.truth, near))

    def __call__(self, logits: Tensor, target: Truth) -> Tensor:
        """``s·SetIoU + n·SetIoU_near + c·CE_w + l·Lovász``: Float[L, H, W] → a scalar."""
        config, valid = self.config, target.truth != VOID
        loss = logits.new_zeros(())
        if self._whole:
            loss = loss + config.set_iou * self._whole(target.id, logits, target.truth, valid)
        if self._near:
            near = self._near(target.id, logits, target.truth, valid & target.near)
            loss = loss + config.set_iou_trimap * near
        if config.cross_entropy:
            entropy = weighted_cross_entropy(logits, target.truth, target.weights, config.robustness)
            loss = loss + config.cross_entropy * entropy
        if config.lovasz:
            loss = loss + config.lovasz * lovasz_softmax(logits, target.truth)
        return loss

    def _remember(self, data: UnaryDataset) -> None:
        """Initialise the counts over the data set from the unaries, an approximation of the CRF's output."""
        pixels = 0
        for sample in data:
            _, target = self.prepare(sample, (0.0, 0.0))
            valid = target.truth != VOID
            pixels += int((valid & target.near).sum())
            if self._whole:
                self._whole.remember(target.id, sample.unary, target.truth, valid)
            if self._near:
                self._near.remember(target.id, sample.unary, target.truth, valid & target.near)
        if not pixels:  # every picture contains only one label
            self._near = None

    def anchor(self) -> None:
        """Add the gradient of ``anchor · |parameter - start|²``."""
        if not self.config.anchor:
            return
        for name, parameter in self.crf.named_parameters():
            if parameter.grad is not None:
                parameter.grad += 2 * self.config.anchor * (parameter.detach() - self._start[name])

    def _near_borders(self, sample: Sample) -> Tensor:
        if sample.id not in self._borders:
            self._borders[sample.id] = near_borders(sample.truth, self.config.boundary_width)
        return self._borders[sample.id]

    def _pixel_weights(self, truth: Tensor, near: Tensor) -> Tensor | None:
        weights: Tensor | None = None
        if self._label_weights is not None:
            weights = self._label_weights[truth.clamp(max=len(self._label_weights) - 1)]
        if self.config.boundary:
            more = 1 + self.config.boundary * near.float()
            weights = more if weights is None else weights * more
        return weights


def near_borders(truth: Tensor, width: int) -> Tensor:
    """Pixels within `width` (Euclidean) of a border between labels or of void: Bool[H, W].

    >>> near_borders(torch.tensor([[0, 0, 0, 0, 1, 1]]), 1).int().tolist()
    [[0, 0, 1, 1, 1, 1]]
    """
    labels = truth.numpy()
    border = labels == VOID
    across, down = labels[:, 1:] != labels[:, :-1], labels[1:] != labels[:-1]
    border[:, 1:] |= across
    border[:, :-1] |= across
    border[1:] |= down
    border[:-1] |= down
    return torch.from_numpy(trimap_bins(np.where(border, VOID, 0), width) <= width)


def border_weights(labels: Tensor, mask: Tensor, stage: Stage) -> Tensor:
    """1, and 1 + ``stage.boundary`` near borders: Int64[B, H, W], Bool[B, H, W] → Float[B, H, W].

    The edge of the padding (`mask` False) is not a border.
    """
    weights = torch.ones(labels.shape)
    for weight, truth, valid in zip(weights, labels.cpu(), mask.cpu(), strict=True):
        rows, columns = valid.any(1).nonzero().flatten(), valid.any(0).nonzero().flatten()
        if len(rows):
            inside = slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
            weight[inside] += stage.boundary * near_borders(truth[inside], stage.boundary_width)
    return weights.to(labels.device)


def constrain_gradients(crf: CRFRNN, config: FitConfig | Stage) -> None:
    """Project gradients onto the free parameters; equal values with equal gradients stay equal under Adam."""
    if config.share_labels:
        for parameter in (crf.spatial_weights, crf.bilateral_weights):
            if parameter.grad is not None:
                parameter.grad.fill_(parameter.grad.mean())
    if config.share_foreground:
        for parameter in (crf.spatial_weights, crf.bilateral_weights):
            if parameter.grad is not None:
                _tie_foreground(parameter.grad)
    grad = crf.compatibility.grad
    if grad is not None and config.compatibility == "symmetric":
        grad.copy_((grad + grad.T) / 2)
    if grad is not None and config.compatibility == "diagonal":
        grad.mul_(torch.eye(len(grad)))


def _tie_foreground(grad: Tensor) -> None:
    """Average the gradient over entries that are equivalent under permutations of the foreground labels."""
    labels = len(grad)
    if grad.ndim == 1:
        grad[1:] = grad[1:].mean() if labels > 1 else 0
        return
    same, first = torch.eye(labels, dtype=torch.bool), torch.arange(labels) == 0
    row, column = first[:, None], first[None]
    for group in (same & ~row, row & ~column, column & ~row, ~same & ~row & ~column):
        if bool(group.any()):
            grad[group] = grad[group].mean()


def _balanced(data: UnaryDataset, power: float) -> Tensor:
    """Label weights ``share^-power``, scaled so that the mean over pixels is 1: Float[L]."""
    counts = torch.zeros(data.num_labels, dtype=torch.float64)
    for index in range(len(data)):
        truth = data.truth(index)
        counts += torch.bincount(truth[truth != VOID], minlength=data.num_labels)
    share = counts / counts.sum().clamp(min=1)
    weights = torch.where(share > 0, share.clamp(min=1e-9) ** -power, torch.zeros_like(share))
    return (weights / (weights * share).sum().clamp(min=1e-9)).float()
