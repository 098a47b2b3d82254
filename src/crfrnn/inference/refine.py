# SPDX-License-Identifier: MIT
"""A picture and its unary in, labels out: what `crfrnn refine` does to each picture."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crfrnn.crf import CRFRNN
from crfrnn.crf.binary import for_two_labels, two_labels
from crfrnn.inference.prediction import Prediction


@torch.no_grad()
def refine(
    image: NDArray[np.uint8] | Tensor,
    unary: Tensor,
    crf: CRFRNN,
    *,
    clamp: Tensor | None = None,
    iterations: int | None = None,
) -> Prediction:
    """Refine the labels of one picture along its edges.

    ``labels = argmax_l x_l`` with ``x = crf(unary, image)``, ``probabilities = softmax(x)``.

    Args:
        image: UInt8[H, W, 3] as `crfrnn.io.read_image` gives it, or UInt8 / Float [C, H, W] as a tensor,
            0..255.
        unary: Float[L, H, W], logits; one logit z per pixel stands for the labels [0, z], as for `CRFRNN(1)`.
        crf: the layer; it is run as it stands (call ``crf.eval()`` for its ``eval_iterations``).
        clamp: Int[H, W], known labels, -1 = free.
        iterations: T; None takes the layer's own.

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
        raise ValueError(f"unary: expected a tensor [L, H, W], got {_form(unary)}; pass one picture")
    if isinstance(image, Tensor):
        if image.ndim != 3:
            raise ValueError(f"image: expected a tensor [C, H, W], got {_form(image)}; pass one picture")
        picture = image
    else:
        array = np.asarray(image)
        if array.dtype != np.uint8 or array.ndim != 3:
            raise ValueError(f"image: expected uint8 [H, W, C], got {_form(array)}; use read_image")
        picture = torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1)))
    unary, crf = two_labels(unary), for_two_labels(crf)
    held = None if clamp is None else clamp[None]
    logits = crf(unary[None], picture[None], clamp=held, iterations=iterations)[0]
    return Prediction(logits.argmax(0).numpy(), unary.argmax(0).numpy(), logits.float().softmax(0).numpy())


def _form(value: object) -> str:
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    return type(value).__name__ if shape is None else f"{dtype} {tuple(shape)}"
