# SPDX-License-Identifier: MIT
"""The labels after each iteration: frames, a strip of them, and an animation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from crfrnn.io import atomic
from crfrnn.io.files import PathLike
from crfrnn.plots.drawing import INK, PAPER, font_of
from crfrnn.plots.overlay import overlay, shrunk

FORMATS = {".gif": "GIF", ".png": "PNG", ".apng": "PNG"}
_HEAD = 26  # height in pixels of a frame's header with the number of the iteration


def frames(
    image: NDArray[np.uint8],
    labels: Sequence[NDArray[Any]],
    *,
    palette: NDArray[np.uint8] | None = None,
    long_side: int = 640,
) -> list[Image.Image]:
    """One picture per iteration: the overlay of its labels, headed by its number and the share of changes.

    Args:
        image: UInt8[H, W, 3].
        labels: Int[H, W] after 0, 1, 2, … iterations.
        palette: as in `overlay`.
        long_side: larger photographs are shown at this size, in pixels.

    >>> len(frames(np.zeros((40, 60, 3), np.uint8), [np.zeros((40, 60), int)] * 3))
    3
    """
    if not labels:
        raise ValueError("labels: expected at least one label map, got none")
    out = []
    for number, found in enumerate(labels):
        small, shown = shrunk(image, found, long_side=long_side)
        tile = overlay(small, shown, palette)
        canvas = Image.new("RGB", (tile.shape[1], tile.shape[0] + _HEAD), PAPER)
        said = f"T = {number}"
        if number:
            said += f": {100 * float((found != labels[number - 1]).mean()):.2f} % changed"
        ImageDraw.Draw(canvas).text((4, _HEAD / 2), said, INK, font_of(15), anchor="lm")
        canvas.paste(Image.fromarray(tile), (0, _HEAD))
        out.append(canvas)
    return out


def write_film(pictures: Sequence[Image.Image], path: PathLike, milliseconds: int = 700) -> None:
    """Write frames of one size as an endless animation, atomically.

    Args:
        path: .gif (256 colours, widely supported) or .png and .apng (animated PNG, full colour).
        milliseconds: duration of each frame; the last one is shown three times as long.
    """
    ending = Path(path).suffix.lower()
    if ending not in FORMATS:
        raise ValueError(f"path: expected a name that ends with {', '.join(FORMATS)}, got {str(path)!r}")
    if not pictures:
        raise ValueError("pictures: expected at least one frame, got none")
    shown = [milliseconds] * (len(pictures) - 1) + [3 * milliseconds]
    with atomic(path) as temporary:
        pictures[0].save(
            temporary,
            format=FORMATS[ending],
            save_all=True,
            append_images=list(pictures[1:]),
            duration=shown,
            loop=0,
        )
