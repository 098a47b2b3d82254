# SPDX-License-Identifier: MIT
"""Label maps over photographs, and maps of changed pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from crfrnn.plots.drawing import CHANGED, PAPER, UNTINTED, checked, colours_of, legend, seen

_NARROWEST = 320  # narrower legends would be columns of single words


def overlay(
    image: NDArray[np.uint8],
    labels: NDArray[Any],
    palette: NDArray[np.uint8] | None = None,
    opacity: float = 0.5,
) -> NDArray[np.uint8]:
    """The photograph tinted with the colours of its labels, with a light line between labels.

    Label 0, usually the background, and 255 leave the photograph unchanged.

    Args:
        image: UInt8[H, W, 3].
        labels: Int[H, W] in 0..255.
        palette: UInt8[K, 3]; VOC's by default. Labels beyond K take the VOC colours.
        opacity: opacity of the colours, 0..1.

    >>> overlay(np.full((2, 2, 3), 100, np.uint8), np.array([[0, 0], [1, 1]])).shape
    (2, 2, 3)
    """
    image, labels = checked(image, labels)
    colours = colours_of(palette)
    grey = image @ np.array([0.299, 0.587, 0.114])
    # Colour under colour is hard to read: below a tint the photograph keeps a quarter of its saturation.
    base = 0.25 * image + 0.75 * grey[..., None]
    tinted = ~np.isin(labels, UNTINTED)[..., None]
    out = np.where(tinted, base * (1 - opacity) + colours[labels] * opacity, image)
    edge = _edges(labels)[..., None]
    return np.where(edge, 0.25 * out + 0.75 * 255, out).round().astype(np.uint8)


def painted(
    image: NDArray[np.uint8],
    labels: NDArray[Any],
    *,
    palette: NDArray[np.uint8] | None = None,
    names: Sequence[str] = (),
    long_side: int = 2000,
) -> Image.Image:
    """The overlay of a photograph, limited in size, with a legend below it.

    Args:
        image, labels, palette: as in `overlay`.
        names: a name per label for the legend; numbers by default.
        long_side: larger photographs are shown at this size, in pixels.

    >>> painted(np.zeros((300, 400, 3), np.uint8), np.zeros((300, 400), int), long_side=200).width
    320
    """
    shown = seen(labels)
    image, labels = shrunk(image, labels, long_side=long_side)
    over = Image.fromarray(overlay(image, labels, palette))
    width, gap = max(over.width, _NARROWEST), 8
    named = legend(shown, names, palette, width - 2 * gap, changed=False)
    canvas = Image.new("RGB", (width, over.height + named.height + 2 * gap), PAPER)
    canvas.paste(over, ((width - over.width) // 2, 0))
    canvas.paste(named, (gap, over.height + gap))
    return canvas


def shrunk(image: NDArray[np.uint8], *labels: NDArray[Any], long_side: int) -> tuple[NDArray[Any], ...]:
    """A photograph and its label maps with sides of at most `long_side`; labels are not interpolated."""
    height, width = image.shape[:2]
    share = long_side / max(height, width)
    if share >= 1:
        return (image, *labels)
    size = max(1, round(height * share)), max(1, round(width * share))
    y, x = (((np.arange(n) + 0.5) * (m / n)).astype(int) for n, m in zip(size, (height, width), strict=True))
    small = np.asarray(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.LANCZOS))
    return (small, *(found[y][:, x] for found in labels))


def difference(image: NDArray[np.uint8], before: NDArray[Any], after: NDArray[Any]) -> NDArray[np.uint8]:
    """The photograph, pale and grey, with the pixels whose label changed in one strong colour.

    Args: image UInt8[H, W, 3]; before, after Int[H, W].
    """
    image, before = checked(image, before)
    _, after = checked(image, after)
    grey = (image @ np.array([0.299, 0.587, 0.114]))[..., None].repeat(3, 2)
    pale = 255 - 0.45 * (255 - grey)
    changed = (before != after)[..., None]
    return np.where(changed, 0.15 * grey + 0.85 * np.array(CHANGED), pale).round().astype(np.uint8)


def _edges(labels: NDArray[Any]) -> NDArray[np.bool_]:
    """Pixels whose right or lower neighbour has another label."""
    edge = np.zeros(labels.shape, bool)
    edge[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    edge[:-1] |= labels[:-1] != labels[1:]
    return edge
