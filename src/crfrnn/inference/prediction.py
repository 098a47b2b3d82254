# SPDX-License-Identifier: MIT
"""What a segmenter says about one picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Area:
    """How much of a picture one label takes.

    Attributes:
        label: its number.
        name: of the checkpoint, or the number as text.
        pixels: how many.
        share: of all pixels, 0..1.
    """

    label: int
    name: str
    pixels: int
    share: float


@dataclass(frozen=True)
class Prediction:
    """The labels of one picture.

    Attributes:
        labels: UInt8[H, W] (Int32 beyond 256 labels), the likeliest label; ties go to the lower one.
        probabilities: Float32[L, H, W], sum 1 over the labels; None unless asked for.
        class_names: one per label, or none.
        crf: whether the CRF took part.
        tiles: how many pieces the picture was cut into; 1 = none.
    """

    labels: NDArray[Any]
    probabilities: NDArray[np.float32] | None
    class_names: tuple[str, ...]
    crf: bool
    tiles: int = 1

    @property
    def areas(self) -> tuple[Area, ...]:
        """The labels that occur, in order.

        >>> found = Prediction(np.array([[0, 2], [2, 2]], np.uint8), None, ("sky", "sea", "sand"), True)
        >>> [(area.name, area.pixels, area.share) for area in found.areas]
        [('sky', 1, 0.25), ('sand', 3, 0.75)]
        """
        counts = np.zeros(256, np.int64)
        for band in np.array_split(self.labels, max(1, len(self.labels) // 256)):  # bincount widens its input
            found = np.bincount(band.reshape(-1), minlength=len(counts))
            counts = np.pad(counts, (0, len(found) - len(counts))) + found
        return tuple(
            Area(int(k), self.name(int(k)), int(counts[k]), float(counts[k] / self.labels.size))
            for k in np.flatnonzero(counts)
        )

    def name(self, label: int) -> str:
        """The name of a label, or its number."""
        return self.class_names[label] if label < len(self.class_names) else str(label)

    def as_dict(self) -> dict[str, Any]:
        """Size, areas and how they came about, as JSON holds it."""
        height, width = self.labels.shape
        return {
            "width": width,
            "height": height,
            "crf": self.crf,
            "tiles": self.tiles,
            "areas": [
                {"label": a.label, "name": a.name, "pixels": a.pixels, "share": round(a.share, 6)}
                for a in self.areas
            ],
        }
