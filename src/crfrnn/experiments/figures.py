# SPDX-License-Identifier: MIT
"""Figures of an experiment with Pillow alone: a compatibility matrix, curves, pictures beside each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from crfrnn.plots import FAINT, INK, PAPER, overlay

LOW, HIGH = np.array([33, 102, 172.0]), np.array([178, 24, 43.0])  # blue: agree, red: clash
LINES = ((0, 90, 181), (220, 50, 32), (26, 133, 70), (153, 79, 0), (93, 58, 155), (90, 90, 90), (0, 140, 150))


def heat_map(matrix: NDArray[Any], names: Sequence[str], title: str = "", cell: int = 26) -> Image.Image:
    """A matrix [L, L] as coloured cells: white is 0, blue below (labels support each other), red above.

    The scale is the largest absolute value, which is written below.

    >>> heat_map(np.eye(2), ("a", "b")).width > 2 * 26
    True
    """
    values = np.asarray(matrix, np.float64)
    if values.ndim != 2 or values.shape != (len(names), len(names)) or not np.isfinite(values).all():
        raise ValueError(f"matrix: expected finite [L, L] with L = {len(names)} names, got {values.shape}")
    top = float(np.abs(values).max()) or 1.0
    share = np.abs(values / top)[..., None]
    colours = (
        (255 * (1 - share) + np.where(values[..., None] < 0, LOW, HIGH) * share).round().astype(np.uint8)
    )
    font = ImageFont.load_default(14)
    margin = 14 + round(max(font.getlength(name) for name in names))
    side = cell * len(names)
    canvas = Image.new("RGB", (margin + side + 12, margin + side + 64), PAPER)
    head = Image.new("RGB", (side, margin), PAPER)
    draw, turned = ImageDraw.Draw(canvas), ImageDraw.Draw(canvas)
    for k, name in enumerate(names):
        middle = cell * k + cell / 2
        draw.text((margin - 6, 30 + margin + middle), name, INK, font, anchor="rm")
        label = Image.new("RGB", (margin, cell), PAPER)
        ImageDraw.Draw(label).text((4, cell / 2), name, INK, font, anchor="lm")
        head.paste(label.rotate(90, expand=True), (cell * k, 0))
    canvas.paste(head, (margin, 30))
    cells = Image.fromarray(colours).resize((side, side), Image.Resampling.NEAREST)
    canvas.paste(cells, (margin, 30 + margin))
    turned.text((6, 15), title, INK, ImageFont.load_default(16), anchor="lm")
    turned.text((margin, 46 + margin + side), f"-{top:.3g} … {top:.3g}", FAINT, font, anchor="lm")
    return canvas


def curves(
    lines: Mapping[str, Sequence[float]], across: str, upwards: str, size: tuple[int, int] = (760, 460)
) -> Image.Image:
    """Lines over 1, 2, 3, … with a legend; NaN leaves a gap.

    >>> curves({"a": [0.1, 0.4]}, "width", "IU").size
    (760, 460)
    """
    values = [v for line in lines.values() for v in line if v == v]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    if high <= low:
        low, high = low - 0.5, high + 0.5
    canvas = Image.new("RGB", size, PAPER)
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(14)
    left, right, top, bottom = 64, size[0] - 16, 30 + 20 * len(lines), size[1] - 44
    longest = max([2, *(len(line) for line in lines.values())])

    def place(index: int, value: float) -> tuple[float, float]:
        x = left + (right - left) * index / (longest - 1)
        return x, bottom - (bottom - top) * (value - low) / (high - low)

    draw.line([(left, top), (left, bottom), (right, bottom)], FAINT)
    for share in (0, 0.25, 0.5, 0.75, 1):
        value = low + share * (high - low)
        draw.text((left - 6, place(0, value)[1]), f"{value:.3g}", FAINT, font, anchor="rm")
    for index in {0, (longest - 1) // 2, longest - 1}:
        draw.text((place(index, low)[0], bottom + 12), str(index + 1), FAINT, font, anchor="mm")
    draw.text(((left + right) / 2, bottom + 30), across, INK, font, anchor="mm")
    draw.text((left, 14), upwards, INK, font, anchor="lm")
    for number, (name, line) in enumerate(lines.items()):
        colour = LINES[number % len(LINES)]
        draw.text((left + 30, 34 + 20 * number), name, INK, font, anchor="lm")
        draw.line([(left, 34 + 20 * number), (left + 24, 34 + 20 * number)], colour, 3)
        for i, (a, b) in enumerate(pairwise(line)):
            if a == a and b == b:
                draw.line([place(i, a), place(i + 1, b)], colour, 2)
    return canvas


def rows_of_pictures(
    rows: Sequence[tuple[str, NDArray[np.uint8], Sequence[NDArray[Any]]]],
    captions: Sequence[str],
    height: int = 170,
) -> Image.Image:
    """A line for each (note, picture, label maps): the picture and its label maps under one head.

    Args:
        rows: picture UInt8[H, W, 3] and as many label maps Int[H, W] as there are captions.
        captions: of the label maps.
    """
    gap, head, note_height = 8, 26, 20
    tiles: list[tuple[str, list[Image.Image]]] = []
    for note, image, maps in rows:
        if len(maps) != len(captions):
            raise ValueError(f"rows: expected {len(captions)} label maps, got {len(maps)}")
        width = max(1, round(height * image.shape[1] / image.shape[0]))
        pixels = [image, *(overlay(image, labels) for labels in maps)]
        tiles.append((note, [Image.fromarray(p).resize((width, height)) for p in pixels]))
    widest = max(line[0].width for _, line in tiles)
    columns = len(captions) + 1
    canvas = Image.new(
        "RGB", (gap + columns * (widest + gap), head + len(tiles) * (height + note_height + gap)), PAPER
    )
    draw = ImageDraw.Draw(canvas)
    for k, caption in enumerate(("picture", *captions)):
        draw.text((gap + k * (widest + gap), head / 2), caption, INK, ImageFont.load_default(15), anchor="lm")
    for number, (note, line) in enumerate(tiles):
        y = head + number * (height + note_height + gap)
        for k, tile in enumerate(line):
            canvas.paste(tile, (gap + k * (widest + gap), y))
        draw.text((gap, y + height + 10), note, FAINT, ImageFont.load_default(13), anchor="lm")
    return canvas
