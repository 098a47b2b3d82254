# SPDX-License-Identifier: MIT
"""A segmenter by colour: four labels, each pixel independently, so that tests can compute its output."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from crfrnn import CRFRNN, Segmenter
from crfrnn.models import Preprocessing, register_network

NAMES = ("night", "paper", "skin", "suit")
COLOURS = np.array([[30, 30, 30], [220, 220, 215], [190, 130, 90], [150, 60, 40]])
STEPS = 60.0  # colour steps per unit


class Colours(nn.Module):
    """U(l) = -sharpness · |I - c_l|² / STEPS², without terms that are equal for all labels."""

    def __init__(self, sharpness: float = 1.0) -> None:
        super().__init__()
        self.score = nn.Conv2d(3, len(COLOURS), 1)
        colours = torch.from_numpy(COLOURS / STEPS).float()
        with torch.no_grad():
            self.score.weight.copy_(2 * sharpness * colours[:, :, None, None])
            self.score.bias.copy_(-sharpness * colours.square().sum(1))  # pyright: ignore[reportOptionalMemberAccess]
        self.preprocessing = Preprocessing(std=(STEPS, STEPS, STEPS))

    def forward(self, picture: Tensor) -> Tensor:
        return self.score(picture)


register_network("test-colours", Colours)


def colour_segmenter(sharpness: float = 1.0, crf: bool = True) -> Segmenter:
    network = Colours(sharpness)
    layer = CRFRNN(len(COLOURS), theta_alpha=40, theta_beta=10) if crf else None
    return Segmenter(network, layer, class_names=NAMES)


def save_colours(folder: Path, crf: bool = True) -> Path:
    """A checkpoint of it for `crfrnn segment`."""
    from crfrnn.models import build_network

    network = build_network("test-colours", sharpness=1.0)
    layer = CRFRNN(len(COLOURS), theta_alpha=40, theta_beta=10) if crf else None
    Segmenter(network, layer, class_names=NAMES).save_pretrained(folder)
    return folder


def nearest(image: np.ndarray) -> np.ndarray:
    """The expected output of the network alone for RGB UInt8[H, W, 3]."""
    return ((image[..., None, :].astype(float) - COLOURS) ** 2).sum(-1).argmin(-1)


def flag(height: int = 24, width: int = 36) -> np.ndarray:
    """Four fields in the four colours, UInt8[H, W, 3]; asymmetric, so that every orientation differs."""
    labels = np.zeros((height, width), int)
    labels[:, width // 3 :] = 1
    labels[height // 2 :, width // 2 :] = 2
    labels[2 : height // 4, 2 : width // 4] = 3
    return COLOURS[labels].astype(np.uint8)
