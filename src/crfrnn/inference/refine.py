# SPDX-License-Identifier: MIT
"""Refine the unary of a picture to labels, as `crfrnn refine` does for each picture."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crfrnn.crf import CRFRNN
from crfrnn.crf.binary import for_two_labels, two_labels
from crfrnn.crf.likeliest import likeliest
from crfrnn.inference.held import Held, form
from crfrnn.inference.prediction import Prediction


@torch.no_grad()
def refine(
    image: NDArray[np.uint8] | Tensor | Held,
    unary: Tensor,
    crf: CRFRNN,
    *,
    clamp: Tensor | None = None,
    iterations: int | None = None,
) -> Prediction:
    """Refine the labels of one picture along its edges.

    ``labels = argmax_l x_l`` with ``x = crf(unary, image)``, ``probabilities = softmax(x)``.

    Args:
        image: UInt8[H, W, 3] from `crfrnn.io.read_image`, or UInt8 / Float [C, H, W] as a tensor, 0..255; or
            a `Held`, whose lattice is kept between calls.
        unary: Float[L, H, W], logits; one logit z per pixel stands for the labels [0, z], as for `CRFRNN(1)`.
        crf: the layer, in its current mode (call ``crf.eval()`` to use its ``eval_iterations``).
        clamp: Int[H, W], known labels, -1 = free.
        iterations: T; None uses the layer's setting.

    Returns:
        `Prediction` with labels Int64[H, W] before and after the CRF, and the marginals Float32[L, H, W].

    Raises:
        ValueError: sizes or label counts that do not fit, NaN or infinity.
        TypeError: not tensors or arrays of numbers.

    >>> import torch
    >>> from crfrnn import CRFRNN
    >>> picture = np.zeros((4, 5, 3), np.uint8)
    >>> refine(picture, torch.zeros(2, 4, 5), CRFRNN(2, bilateral_method="exact")).labels.shape
    (4, 5)
    """
    if not isinstance(unary, Tensor) or unary.ndim != 3:
        raise ValueError(f"unary: expected a tensor [L, H, W], got {form(unary)}; pass one picture")
    held = image if isinstance(image, Held) else Held(image)
    unary, crf = two_labels(unary), for_two_labels(crf)
    logits = held.logits(unary, crf, clamp=clamp, iterations=iterations)
    return Prediction(likeliest(logits), likeliest(unary), logits.float().softmax(0).numpy())
