# SPDX-License-Identifier: MIT
"""Scores for refinement, computed from pictures or from other scores."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from crfrnn.datasets import PictureSet
from crfrnn.datasets.unaries import UnarySource
from crfrnn.inference import Predictor
from crfrnn.io.scores import SMALLEST

BLOCK = 16
SURE = 0.7


@dataclass(frozen=True)
class NetworkScores:
    """log p of a network at the pictures' original size, without its CRF: (id, size) → Float32[L, H, W].

    Args: predictor: the predictor; pictures: its pictures.
    """

    predictor: Predictor
    pictures: PictureSet

    def __call__(self, name: str, size: tuple[int, int]) -> Tensor:
        (item,) = self.pictures.select([name])
        found = self.predictor(item.image, probabilities=True, use_crf=False).probabilities
        assert found is not None
        return torch.from_numpy(found).clamp_min(SMALLEST).log()


@dataclass(frozen=True)
class CoarseLabels:
    """A label map at 1/16 of the size, right with probability 0.7, as from a transformer's patches.

    The label of a block of 16 × 16 pixels is the one with the greatest mean probability in it; no other
    information is kept: (id, size) → Float32[L, H, W].

    Args: scores: the source of the labels.
    """

    scores: UnarySource

    def __call__(self, name: str, size: tuple[int, int]) -> Tensor:
        p = self.scores(name, size).float().softmax(0)
        labels, height, width = p.shape
        rows, columns = (np.arange(n) // BLOCK for n in (height, width))
        means = torch.nn.functional.avg_pool2d(p[None], BLOCK, ceil_mode=True)[0]
        winners = means.argmax(0)[rows][:, columns]
        present = winners.unique()
        p = torch.full((labels, height, width), SMALLEST)  # for labels that win no block
        p[present] = (1 - SURE) / max(len(present) - 1, 1)
        return p.scatter_(0, winners[None], SURE).log()
