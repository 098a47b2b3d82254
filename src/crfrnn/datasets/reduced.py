# SPDX-License-Identifier: MIT
"""Pictures and truths at a smaller size: a network that learns at 256 pixels must be judged there too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from crfrnn.datasets.deeplab import DeepLabUnaries
from crfrnn.datasets.pictures import LabelledPicture, PictureSet

Source = Callable[[str, tuple[int, int]], Tensor]


@dataclass(frozen=True)
class ReducedPicture(LabelledPicture):
    """A `LabelledPicture` whose longer side is at most `long_side`; a smaller one stays as it is.

    The picture is reduced bilinearly and antialiased, the labels by the nearest pixel.
    """

    long_side: int = 0

    @property
    def image(self) -> NDArray[np.uint8]:
        return _reduce(super().image, self.long_side, Image.Resampling.BILINEAR)

    @property
    def mask(self) -> NDArray[np.uint8]:
        return _reduce(super().mask, self.long_side, Image.Resampling.NEAREST)


def reduced(pictures: PictureSet, long_side: int) -> PictureSet:
    """The same set with every picture and truth reduced to a longer side of at most `long_side` pixels.

    Raises: ValueError for a side below 8.
    """
    if long_side < 8:
        raise ValueError(f"long_side: expected at least 8 pixels, got {long_side}")
    names = [field.name for field in fields(LabelledPicture)]
    items = tuple(
        ReducedPicture(**{name: getattr(item, name) for name in names}, long_side=long_side)
        for item in pictures
    )
    return PictureSet(items, pictures.class_names)


@dataclass(frozen=True)
class ReducedUnaries:
    """Unaries that lie at the pictures' own size, brought to the size of reduced pictures.

    Call it with an id and a size: Float32[L, H, W]. Reduced bilinearly and antialiased, as the pictures are.

    Args:
        source: (id, (height, width)) -> Float32[L, height, width], at the size of the picture itself.
        pictures: at their own size.
    """

    source: Source
    pictures: PictureSet

    @classmethod
    def of(cls, source: Source | DeepLabUnaries, pictures: PictureSet) -> ReducedUnaries:
        """Of a function, or of stored DeepLab logits."""
        return cls(source.logits if isinstance(source, DeepLabUnaries) else source, pictures)

    def __call__(self, name: str, size: tuple[int, int]) -> Tensor:
        (item,) = self.pictures.select([name])
        height, width = item.image.shape[:2]
        logits = self.source(name, (height, width))
        if (height, width) == tuple(size):
            return logits
        return torch.nn.functional.interpolate(logits[None], size, mode="bilinear", antialias=True)[0]


def _reduce(values: NDArray[np.uint8], long_side: int, how: Image.Resampling) -> NDArray[np.uint8]:
    height, width = values.shape[:2]
    share = long_side / max(height, width)
    if share >= 1:
        return values
    size = max(1, round(width * share)), max(1, round(height * share))
    # A copy: arrays that Pillow lends are read-only, which torch does not take.
    return np.array(Image.fromarray(values).resize(size, how))
