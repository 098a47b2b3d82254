# SPDX-License-Identifier: MIT
"""Conversion of a picture in 0..255 to the input that a network or a CRF was trained on; saved with it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from torch import Tensor

Triple = tuple[float, float, float]
ORDERS = ("rgb", "bgr")


@dataclass(frozen=True)
class Preprocessing:
    """``(I - mean) / std`` per channel, then the channels in `order`.

    Attributes:
        mean, std: for R, G, B, in this order regardless of `order`, in colour steps of 0..255.
        order: "rgb" or "bgr", the order of the result's channels.
        multiple: height and width are padded to a multiple of it, right and below, with the mean colour;
        some encoder-decoders need 32. Logits of the padding are cropped.

    >>> import torch
    >>> picture = torch.tensor([255, 0, 51], dtype=torch.uint8).reshape(1, 3, 1, 1)
    >>> Preprocessing(mean=(5, 0, 1), std=(250, 1, 10), order="bgr")(picture).flatten()
    tensor([5., 0., 1.])
    """

    mean: Triple = (0.0, 0.0, 0.0)
    std: Triple = (1.0, 1.0, 1.0)
    order: str = "rgb"
    multiple: int = 1

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            value = getattr(self, name)
            numbers = isinstance(value, tuple | list) and all(
                isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in value
            )
            if not numbers or len(value) != 3:
                raise ValueError(f"{name}: expected three finite numbers for R, G, B, got {value!r}")
            object.__setattr__(self, name, tuple(float(v) for v in value))
        if min(self.std) <= 0:
            raise ValueError(f"std: expected three numbers above 0, got {self.std!r}")
        if self.order not in ORDERS:
            raise ValueError(f"order: expected 'rgb' or 'bgr', got {self.order!r}")
        if not isinstance(self.multiple, int) or not 1 <= self.multiple <= 4096:
            raise ValueError(f"multiple: expected a whole number in 1..4096, got {self.multiple!r}")

    def __call__(self, picture: Tensor) -> Tensor:
        """Float or UInt8 [B, 3, H, W], RGB in 0..255 → Float [B, 3, H, W]; this does not pad."""
        values = picture if picture.is_floating_point() else picture.float()
        mean, std = (values.new_tensor(three).reshape(1, 3, 1, 1) for three in (self.mean, self.std))
        result = (values - mean) / std
        return result.flip(1) if self.order == "bgr" else result

    def as_dict(self) -> dict[str, Any]:
        """As a JSON-compatible dict for `from_dict`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: Any) -> Preprocessing:
        """The inverse of `as_dict`; ValueError for unknown names or invalid values."""
        known = {field.name for field in fields(cls)}
        if not isinstance(value, Mapping) or not set(value) <= known:
            raise ValueError(f"preprocessing: expected {', '.join(sorted(known))}, got {value!r}")
        return cls(**value)


# RGB in 0..1 with the usual means: torchvision, timm, transformers, segmentation-models-pytorch.
IMAGENET = Preprocessing((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
# The Caffe model's: BGR minus (103.939, 116.779, 123.68). Imported first layers are reversed to take RGB.
CAFFE = Preprocessing((123.68, 116.779, 103.939))
# The guide of the original CRF: the mean-subtracted picture, channels B, G, R.
CAFFE_GUIDE = Preprocessing(CAFFE.mean, order="bgr")
# TensorFlow's EfficientNet-Lite: (I - 127) / 128.
LITE = Preprocessing((127.0, 127.0, 127.0), (128.0, 128.0, 128.0))
# TensorFlow's DeepLab on MobileNetV2: (I - 128) / 128.
DEEPLAB = Preprocessing((128.0, 128.0, 128.0), (128.0, 128.0, 128.0))


def check_batch(picture: Tensor, remedy: str) -> None:
    """ValueError unless it is [B, 3, H, W] with at least one pixel."""
    if picture.ndim != 4 or picture.shape[1] != 3 or 0 in picture.shape:
        raise ValueError(
            f"picture: expected [B, 3, H, W] with at least one pixel, got {tuple(picture.shape)}; {remedy}"
        )
