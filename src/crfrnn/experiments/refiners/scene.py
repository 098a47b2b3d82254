# SPDX-License-Identifier: MIT
"""The input of refiners: one picture, its scores and their labels."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from crfrnn.crf.likeliest import likeliest

LEAST = 0.01


@dataclass(frozen=True)
class Scene:
    """A picture and the scores of its possible labels.

    Attributes:
        id: the picture's id.
        image: UInt8[H, W, 3], RGB.
        logits: Float32[K, H, W], logarithms of probabilities over the K labels.
        labels: Int64[K], ascending: the labels of the K scores.
        focus: the label that methods for two labels separate from all others.
    """

    id: str
    image: NDArray[np.uint8]
    logits: Tensor
    labels: NDArray[np.int64]
    focus: int

    @classmethod
    def of(
        cls, name: str, image: NDArray[np.uint8], logits: Tensor, focus: int, least: float = LEAST
    ) -> Scene:
        """The scene of logits Float[L, H, W], without labels whose probability is below `least` everywhere.

        At least two are kept. The argmax does not change if `least` is below 1 / L.

        >>> import torch
        >>> logits = torch.tensor([5.0, -5.0, 4.0])[:, None, None].expand(3, 2, 2)
        >>> Scene.of("a", np.zeros((2, 2, 3), np.uint8), logits, 2).labels.tolist()
        [0, 2]
        """
        highest = logits.float().softmax(0).flatten(1).amax(1)
        count = int((highest >= least).sum().clamp(min=min(2, len(logits))))
        labels = highest.topk(count).indices.sort().values
        kept = logits.float()[labels].log_softmax(0)
        return cls(name, np.ascontiguousarray(image), kept, labels.numpy(), focus)

    @property
    def probabilities(self) -> Tensor:
        """Float32[K, H, W]."""
        return self.logits.exp()

    @property
    def winners(self) -> NDArray[np.int64]:
        """Int64[H, W], positions among the K labels."""
        return likeliest(self.logits)

    def corner(self, side: int) -> Scene:
        """The scene's upper left corner."""
        return replace(
            self,
            image=np.ascontiguousarray(self.image[:side, :side]),
            logits=self.logits[:, :side, :side].contiguous(),
        )
