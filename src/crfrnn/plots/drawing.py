# SPDX-License-Identifier: MIT
"""Shared by all figures: colours of paper and ink, the font, the legend of the visible labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from crfrnn.io import VOID, voc_palette
from crfrnn.io.images import picture_and_map

PAPER, INK, FAINT = (250, 250, 248), (32, 34, 38), (120, 124, 130)
CHANGED = (236, 0, 140)  # a colour that is rare in photographs and in the VOC palette
UNTINTED = (0, VOID)  # labels that leave the photograph visible
LEAST = 0.0005  # least share of pixels for a label in legends: less rounds to 0.0 %
_MOST_NAMES = 24


def colours_of(palette: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
    """UInt8[256, 3]: VOC's colours, replaced by those of `palette` for its labels."""
    colours = voc_palette()
    if palette is not None:
        colours[: len(palette)] = palette
    return colours


def seen(labels: NDArray[Any]) -> list[int]:
    """The visible labels, with at least `LEAST` of the pixels."""
    found, counts = np.unique(labels, return_counts=True)
    return found[counts >= LEAST * labels.size].tolist()


def legend(
    labels: Sequence[int],
    names: Sequence[str],
    palette: NDArray[np.uint8] | None,
    width: int,
    changed: bool = True,
) -> Image.Image:
    """Swatches with names, wrapped to the width; `changed` explains the colour of `difference`.

    The swatch of an untinted label is empty.
    """
    colours = colours_of(palette)
    shown = [label for label in labels if label != VOID]
    entries = [
        (PAPER if k in UNTINTED else tuple(colours[k].tolist()), names[k] if k < len(names) else str(k))
        for k in shown[:_MOST_NAMES]
    ]
    if len(shown) > _MOST_NAMES:
        entries.append((PAPER, f"and {len(shown) - _MOST_NAMES} more"))
    if changed:
        entries.append((CHANGED, "changed"))
    font, line, swatch = font_of(16), 28, 16
    places, x, y = [], 0, 0
    for colour, name in entries:
        length = swatch + 8 + round(font.getlength(name)) + 22
        if x and x + length > width:
            x, y = 0, y + line
        places.append((x, y, colour, name))
        x += length
    out = Image.new("RGB", (width, y + line), PAPER)
    draw = ImageDraw.Draw(out)
    for x, y, colour, name in places:
        top = y + (line - swatch) // 2
        draw.rounded_rectangle((x, top, x + swatch, top + swatch), 3, fill=colour, outline=FAINT)
        draw.text((x + swatch + 8, y + line / 2), name, INK, font, anchor="lm")
    return out


def font_of(size: int) -> Any:
    """Pillow's built-in font, which needs no file."""
    return ImageFont.load_default(size)


def checked(image: NDArray[np.uint8], labels: NDArray[Any]) -> tuple[NDArray[np.uint8], NDArray[Any]]:
    """A photograph UInt8[H, W, 3] and its labels Int64[H, W] in 0..255; ValueError for anything else."""
    image, labels = picture_and_map(image, labels, "labels")
    if labels.min() < 0 or labels.max() > 255:
        raise ValueError(f"labels: expected 0..255, got {labels.min()}..{labels.max()}")
    return image, labels
