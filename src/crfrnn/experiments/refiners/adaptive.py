# SPDX-License-Identifier: MIT
"""PAMR and PAR: repeated averaging of probabilities over dilated 3 × 3 windows, weighted by colours."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from crfrnn.crf.likeliest import likeliest
from crfrnn.experiments.refiners.refiner import Range, Refiner
from crfrnn.experiments.refiners.scene import Scene

DILATIONS = (1, 2, 4, 8, 12, 24)
_REACH = max(DILATIONS)
_AROUND = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)]
_TINY = 1e-6  # least deviation, for equal colours


def _offsets() -> Iterator[tuple[int, int]]:
    return ((y * d, x * d) for d in DILATIONS for y, x in _AROUND)


def _shifts(planes: Tensor) -> Iterator[Tensor]:
    """Float[C, H, W] shifted to each of the 48 neighbours, with replicated borders."""
    height, width = planes.shape[1:]
    wide = F.pad(planes[None], (_REACH,) * 4, mode="replicate")[0]
    for y, x in _offsets():
        yield wide[:, _REACH + y : _REACH + y + height, _REACH + x : _REACH + x + width]


def _colours(image: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
    """|I_i - I_j| / σ_i of every neighbour j, Float32[48, 3, H, W]; σ_i over i and its neighbours."""
    colours = torch.from_numpy(image).permute(2, 0, 1).float()
    around = torch.stack([*_shifts(colours)])
    sigma = torch.cat([around, colours[None]]).std(0, correction=0).clamp(min=_TINY)
    return (around - colours).abs_(), sigma


def _averaged(p: Tensor, weights: Tensor, iterations: int) -> NDArray[np.int64]:
    """Repeat p_i ← Σ_j w_ij p_j; weights Float[48, H, W]."""
    for _ in range(iterations):
        total = torch.zeros_like(p)
        for weight, seen in zip(weights, _shifts(p), strict=True):
            total.addcmul_(weight, seen)
        p = total
    return likeliest(p)


@torch.no_grad()
def pamr(scene: Scene, *, contrast: float, iterations: int) -> NDArray[np.int64]:
    """``α_ij = softmax_j of the colours' mean of -|I_i - I_j| / (w σ_i)``, w the `contrast`.

    The paper divides by σ², whose unit differs from that of the difference; w compensates for it.
    """
    difference, sigma = _colours(scene.image)
    weights = (-difference / (contrast * sigma)).mean(1).softmax(0)
    return _averaged(scene.probabilities, weights, iterations)


@torch.no_grad()
def par(
    scene: Scene, *, contrast: float, nearness: float, share: float, iterations: int
) -> NDArray[np.int64]:
    """``κ_ij = softmax_j(-(|I_i - I_j| / (w₁ σ_i))²) + w₃ softmax_j(-(|P_i - P_j| / (w₂ σ_P))²)``.

    P are positions, and σ_P their deviation over the neighbours; w₁, w₂, w₃ are `contrast`, `nearness`,
    `share`. The square is taken per colour and averaged over the colours.
    """
    difference, sigma = _colours(scene.image)
    colours = (-((difference / (contrast * sigma)) ** 2)).mean(1).softmax(0)
    distance = torch.tensor([[*_offsets()]]).float()[0].norm(dim=1)
    places = (-((distance / (nearness * distance.std(correction=0))) ** 2)).softmax(0)
    return _averaged(scene.probabilities, colours + share * places[:, None, None], iterations)


PAMR = Refiner(
    "pamr", "PAMR", "Araslanov & Roth, CVPR 2020, arXiv:2005.08104, section 3.4", pamr,
    {"contrast": 0.1, "iterations": 10},
    {"contrast": Range(0.02, 2.0), "iterations": Range(1, 20, whole=True)},
)  # fmt: skip
PAR = Refiner(
    "par", "PAR", "Ru et al., CVPR 2022, arXiv:2203.02664, section 3.4", par,
    {"contrast": 0.3, "nearness": 0.3, "share": 0.01, "iterations": 15},
    {"contrast": Range(0.05, 3.0), "nearness": Range(0.05, 3.0), "share": Range(1e-3, 1.0),
     "iterations": Range(1, 20, whole=True)},
)  # fmt: skip
