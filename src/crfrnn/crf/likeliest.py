# SPDX-License-Identifier: MIT
"""The label of the largest score at each pixel."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


def likeliest(scores: Tensor, axis: int = 0) -> NDArray[np.int64]:
    """The label of the largest of the scores [L, …] at each pixel; ties go to the lower one.

    Uses `torch.max`, since `torch.argmax` along an axis before the pixels is up to fifteen times slower on a
    CPU.

    Args: axis: of the labels.

    >>> import torch
    >>> likeliest(torch.tensor([[0.0, 2.0], [1.0, 2.0]])).tolist()
    [1, 0]
    """
    return scores.detach().max(axis).indices.cpu().numpy()
