# SPDX-License-Identifier: MIT
"""Small inputs of the layer, and a layer with changed parameters."""

from __future__ import annotations

import torch

LABELS, SIZE = 3, (5, 6)


EXACT = {"spatial_method": "separable", "bilateral_method": "exact"}


def inputs(batch=2, size=SIZE, channels=3, labels=LABELS, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    unary = torch.randn(batch, labels, *size, generator=generator, dtype=torch.float64)
    image = 255 * torch.rand(batch, channels, *size, generator=generator, dtype=torch.float64)
    return unary.to(dtype), image.to(dtype)


def shaken(crf, seed=1):
    """The layer with every parameter changed, as after training."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in crf.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return crf
