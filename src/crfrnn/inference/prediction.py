# SPDX-License-Identifier: MIT
"""The result of network and CRF for one picture or volume."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crfrnn.crf.binary import two_labels


class Area(NamedTuple):
    """The area of one label: its number, its name or number as text, pixels, share (0..1)."""

    label: int
    name: str
    pixels: int
    share: float


def count_labels(labels: NDArray[Any], counts: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
    """The number of pixels of each label, Int64[at least 256], added to earlier counts."""
    counts = np.zeros(256, np.int64) if counts is None else counts
    for band in np.array_split(labels, max(1, len(labels) // 256)):  # bincount converts its input to int64
        found = np.bincount(band.reshape(-1), minlength=len(counts))
        counts = np.pad(counts, (0, len(found) - len(counts))) + found
    return counts


def areas_of(counts: NDArray[np.int64], names: tuple[str, ...]) -> tuple[Area, ...]:
    """The labels that occur, in order.

    >>> [tuple(area) for area in areas_of(np.array([1, 0, 3]), ("sky", "sea", "sand"))]
    [(0, 'sky', 1, 0.25), (2, 'sand', 3, 0.75)]
    """
    total = counts.sum()
    return tuple(
        Area(int(k), names[k] if k < len(names) else str(k), int(counts[k]), float(counts[k] / total))
        for k in np.flatnonzero(counts)
    )


def marginals(logits: Tensor) -> NDArray[np.float32]:
    """The probabilities Float32[L, h, w] of a network's or a CRF's logits [1, L, h, w]."""
    p = two_labels(logits[0].float()).softmax(0).cpu()
    if not bool(torch.isfinite(p.sum())):  # of numbers in 0..1, so only NaN makes it non-finite
        raise ValueError(
            "segmenter: expected finite logits, got NaN or infinity; its weights are damaged, "
            "or its training diverged"
        )
    return p.numpy()


@dataclass(frozen=True)
class Prediction:
    """The labels of one picture, or of one volume.

    Attributes:
        labels: Int[H, W] or Int[X, Y, Z], the likeliest label after the CRF; ties go to the lower one.
            UInt8 from `Predictor` (Int32 beyond 256 labels), Int64 elsewhere.
        before: the labels before the CRF, from the network or the unary, in the same form.
        probabilities: Float32[L, …], the marginals, sum 1 over the labels; None from `Predictor` unless
            requested.
        class_names: one per label, or none.
        crf: whether the CRF was used.
        tiles: number of tiles; 1: the picture was not tiled.
    """

    labels: NDArray[Any]
    before: NDArray[Any]
    probabilities: NDArray[np.float32] | Any  # None only if not requested
    class_names: tuple[str, ...] = ()
    crf: bool = True
    tiles: int = 1

    @property
    def changed(self) -> float:
        """The share of pixels whose label the CRF, or a clamp, changed."""
        return float((self.before != self.labels).mean())

    @property
    def areas(self) -> tuple[Area, ...]:
        """The labels that occur, in order.

        >>> labels = np.array([[0, 2], [2, 2]], np.uint8)
        >>> found = Prediction(labels, labels, None, ("sky", "sea", "sand"))
        >>> [(area.name, area.pixels) for area in found.areas]
        [('sky', 1), ('sand', 3)]
        """
        return areas_of(count_labels(self.labels), self.class_names)

    def name(self, label: int) -> str:
        """The name of a label, or its number."""
        return self.class_names[label] if label < len(self.class_names) else str(label)

    @property
    def titles(self) -> list[str]:
        """For the legend of an overlay: a name for each of 256 labels, with the share if it occurs."""
        names = [self.name(label) for label in range(256)]
        for area in self.areas:
            names[area.label] += f" {percent(area.share)}"
        return names

    def as_dict(self) -> dict[str, Any]:
        """Size, areas and how they came about, as JSON holds it."""
        height, width = self.labels.shape
        return as_record((height, width), self.crf, self.tiles, self.areas)


def percent(share: float) -> str:
    """A share in words.

    >>> percent(0.123), percent(0.0123)
    ('12 %', '1.2 %')
    """
    return f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.1f} %"


@dataclass(frozen=True)
class Tiling:
    """The result for a picture that was read and written by windows; it does not hold the labels.

    Attributes:
        size: rows and columns.
        tiles, side, overlap: number of tiles, their side and overlap in pixels.
        counts: Int64[…], pixels with data of each label.
        changed: the share of the pixels with data whose label the CRF changed.
        class_names: one per label, or none.
        crf: whether the CRF took part.
    """

    size: tuple[int, int]
    tiles: int
    side: int
    overlap: int
    counts: NDArray[np.int64]
    changed: float
    class_names: tuple[str, ...] = ()
    crf: bool = True

    @property
    def areas(self) -> tuple[Area, ...]:
        """The labels that occur, in order."""
        return areas_of(self.counts, self.class_names)

    def as_dict(self) -> dict[str, Any]:
        """Size, areas and how they came about, as JSON holds it."""
        return as_record(self.size, self.crf, self.tiles, self.areas)


def as_record(size: tuple[int, int], crf: bool, tiles: int, areas: tuple[Area, ...]) -> dict[str, Any]:
    """For JSON."""
    return {
        "width": size[1],
        "height": size[0],
        "crf": crf,
        "tiles": tiles,
        "areas": [{**area._asdict(), "share": round(area.share, 6)} for area in areas],
    }
