# SPDX-License-Identifier: MIT
"""Extract a network's logits from its output, and resize them to the picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.nn import functional as F

KEYS = ("out", "logits")  # torchvision's segmentation models; mappings of transformers


def logits_of(output: Any) -> Tensor:
    """The tensor [B, L, h, w] in a network's output.

    A tensor (segmentation-models-pytorch), a mapping with "out" (torchvision) or "logits", or an object with
    the attribute ``logits`` (transformers).

    Raises: TypeError for anything else, ValueError for a tensor of another number of axes.
    """
    found: Any = output
    if not isinstance(output, Tensor):
        if isinstance(output, Mapping):  # outputs of transformers are also mappings
            found = next((output[key] for key in KEYS if key in output), None)
        else:
            found = getattr(output, "logits", None)
        if not isinstance(found, Tensor):
            got = type(output).__name__
            if isinstance(output, Mapping):
                got += f" with {', '.join(map(repr, output))}"
            raise TypeError(
                "network: expected it to return logits [B, L, h, w]: a tensor, a mapping with 'out' or "
                f"'logits', or an object with .logits, got {got}; wrap it in a module that picks the logits"
            )
    if found.ndim != 4:
        raise ValueError(f"network: expected logits [B, L, h, w], got shape {tuple(found.shape)}")
    return found


def resize_logits(logits: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear, pixel centres kept (``align_corners=False``), as in the toolkits; copied only if needed."""
    if tuple(logits.shape[2:]) == tuple(size):
        return logits
    return F.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=False)


def enlarge(values: Tensor, factor: int, size: Sequence[int]) -> Tensor:
    """Bilinear ×factor of a map whose cell i lies at factor·i, cropped to `size`; the last cell is repeated.

    >>> import torch
    >>> enlarge(torch.tensor([[[[0.0, 4.0]]]]), 4, (1, 7)).flatten()
    tensor([0., 1., 2., 3., 4., 4., 4.])
    """
    height, width = values.shape[2:]
    padded = F.pad(values, (0, 1, 0, 1), mode="replicate")
    big = F.interpolate(
        padded, size=(height * factor + 1, width * factor + 1), mode="bilinear", align_corners=True
    )
    return big[:, :, : size[0], : size[1]]
