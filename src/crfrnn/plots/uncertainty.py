# SPDX-License-Identifier: MIT
"""Figures of the uncertainty of marginals."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

UNDECIDED = (213, 94, 0)  # Okabe and Ito's vermilion, distinct from grey for colour-blind readers


def entropy(probabilities: NDArray[Any]) -> NDArray[np.float32]:
    """The entropy of each pixel's marginals relative to the uniform distribution, Float32[H, W] in 0..1.

    ``-Σ_l p_l log p_l / log L``: 0 where one label is certain, 1 where all are equally likely.

    Args: probabilities Float[L, H, W], sum 1 over the labels.

    >>> entropy(np.array([[[1.0, 0.5]], [[0.0, 0.5]]])).tolist()
    [[0.0, 1.0]]
    """
    p = np.asarray(probabilities, np.float32)
    if p.ndim != 3 or 0 in p.shape:
        raise ValueError(f"probabilities: expected [L, H, W], got {p.shape}; pass one picture")
    if len(p) == 1:
        return np.zeros(p.shape[1:], np.float32)
    logs = np.log(np.maximum(p, np.finfo(np.float32).tiny))
    share = np.einsum("lhw,lhw->hw", p, logs) / -np.log(len(p)) + 0.0  # no negative zero
    return np.clip(share, 0, 1).astype(np.float32)


def uncertainty(image: NDArray[np.uint8], probabilities: NDArray[Any]) -> NDArray[np.uint8]:
    """The photograph, pale and grey, tinted with a colour that is opaque where `entropy` is 1.

    Args: image UInt8[H, W, 3]; probabilities Float[L, H, W].

    >>> uncertainty(np.zeros((1, 2, 3), np.uint8), np.array([[[1.0, 0.5]], [[0.0, 0.5]]])).tolist()
    [[[140, 140, 140], [213, 94, 0]]]
    """
    doubt = entropy(probabilities)
    wanted = (*doubt.shape, 3)
    if np.shape(image) != wanted:
        raise ValueError(f"image: expected {wanted} as the probabilities have, got {np.shape(image)}")
    grey = (image @ np.array([0.299, 0.587, 0.114]))[..., None]
    pale = 255 - 0.45 * (255 - grey)
    share = doubt[..., None] ** 0.5  # so that a tie between two of many labels is visible
    return (pale * (1 - share) + np.array(UNDECIDED) * share).round().astype(np.uint8)
