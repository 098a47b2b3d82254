# SPDX-License-Identifier: MIT
"""Composite figures: the panel of a refinement, rows of label maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from crfrnn.plots.drawing import FAINT, INK, PAPER, checked, colours_of, font_of, legend, seen
from crfrnn.plots.overlay import difference, overlay
from crfrnn.plots.palette import safe_palette


def panel(
    image: NDArray[np.uint8],
    before: NDArray[Any],
    after: NDArray[Any],
    *,
    palette: NDArray[np.uint8] | None = None,
    names: Sequence[str] = (),
    source: NDArray[np.uint8] | None = None,
    captions: Sequence[str] = ("input", "before", "after", "difference"),
    width: int = 1400,
) -> Image.Image:
    """One figure of a refinement: input, before, after, difference, and a legend.

    Args:
        image: the photograph, UInt8[H, W, 3].
        before, after: Int[H, W], the labels of the unary alone and of the CRF.
        palette: as in `overlay`.
        names: a name per label for the legend; numbers by default.
        source: shown in the first tile instead of the photograph, such as scribbles on it.
        captions: captions of the four tiles.
        width: total width in pixels; the height follows.

    Raises:
        ValueError: sizes that differ, labels outside 0..255, not four captions.
    """
    image, before = checked(image, before)
    _, after = checked(image, after)
    if len(captions) != 4:
        raise ValueError(f"captions: expected four, got {len(captions)}; one for each tile")
    share = 100 * float((before != after).mean())
    tiles = [
        image if source is None else source,
        overlay(image, before, palette),
        overlay(image, after, palette),
        difference(image, before, after),
    ]
    notes = ["", "", "", f"{share:.1f} % of the pixels"]
    height, columns = image.shape[0], image.shape[1]
    gap, title = 16, 34
    # Very long pictures are arranged in one column or row, so that the panel keeps a useful shape.
    across = 1 if columns > 2.4 * height else 4 if height > 2.4 * columns else 2
    tile_width = (width - gap * (across + 1)) // across
    tile_height = max(1, round(tile_width * height / columns))
    rows = 4 // across
    named = legend(sorted({*seen(before), *seen(after)}), names, palette, width - 2 * gap)
    canvas = Image.new("RGB", (width, gap + rows * (tile_height + title + gap) + named.height + gap), PAPER)
    draw = ImageDraw.Draw(canvas)
    enlarged = tile_width > columns
    for number, (tile, caption, note) in enumerate(zip(tiles, captions, notes, strict=True)):
        x = gap + (number % across) * (tile_width + gap)
        y = gap + (number // across) * (tile_height + title + gap)
        draw.text((x, y + title / 2), caption, INK, font_of(20), anchor="lm")
        if note:
            draw.text((x + tile_width, y + title / 2), note, FAINT, font_of(16), anchor="rm")
        resample = Image.Resampling.NEAREST if enlarged and number else Image.Resampling.LANCZOS
        canvas.paste(Image.fromarray(tile).resize((tile_width, tile_height), resample), (x, y + title))
    canvas.paste(named, (gap, canvas.height - named.height - gap // 2))
    return canvas


def rows_of_pictures(
    rows: Sequence[tuple[str, NDArray[np.uint8], Sequence[NDArray[Any]]]],
    captions: Sequence[str],
    height: int = 170,
) -> Image.Image:
    """A line for each (note, picture, label maps), with one header for all.

    Args:
        rows: picture UInt8[H, W, 3] and one label map Int[H, W] per caption.
        captions: captions of the label maps.
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
        draw.text((gap + k * (widest + gap), head / 2), caption, INK, font_of(15), anchor="lm")
    for number, (note, line) in enumerate(tiles):
        y = head + number * (height + note_height + gap)
        for k, tile in enumerate(line):
            canvas.paste(tile, (gap + k * (widest + gap), y))
        draw.text((gap, y + height + 10), note, FAINT, font_of(13), anchor="lm")
    return canvas


def tiles(
    pictures: Mapping[str, NDArray[Any]],
    *,
    height: int = 200,
    columns: int = 4,
    palette: NDArray[np.uint8] | None = None,
) -> Image.Image:
    """Pictures of one size under their captions, several in a row.

    Args:
        pictures: by caption, UInt8[H, W, 3] unchanged, Int[H, W] as labels in their colours, Float[H, W] in
            0..1 as grey.
        height: height of each in pixels; small ones are enlarged without smoothing.
        columns: most pictures in one row.
        palette: colours of the labels; `safe_palette` by default.

    >>> tiles({"a": np.zeros((10, 20, 3), np.uint8), "b": np.ones((10, 20), int)}, height=50).size
    (224, 92)
    """
    if not pictures:
        raise ValueError("pictures: expected at least one, got none")
    colours = colours_of(safe_palette() if palette is None else palette)
    shown = [(caption, _pixels(values, colours)) for caption, values in pictures.items()]
    rows, across = -(-len(shown) // columns), min(columns, len(shown))
    tall, wide = shown[0][1].shape[:2]
    width, gap, head = max(1, round(height * wide / tall)), 8, 26
    canvas = Image.new("RGB", (gap + across * (width + gap), rows * (height + head + gap) + gap), PAPER)
    draw = ImageDraw.Draw(canvas)
    for number, (caption, pixels) in enumerate(shown):
        x = gap + (number % across) * (width + gap)
        y = (number // across) * (height + head + gap)
        draw.text((x, y + head / 2), caption, INK, font_of(15), anchor="lm")
        how = Image.Resampling.NEAREST if pixels.shape[0] < height else Image.Resampling.LANCZOS
        canvas.paste(Image.fromarray(pixels).resize((width, height), how), (x, y + head))
    return canvas


def _pixels(values: NDArray[Any], colours: NDArray[np.uint8]) -> NDArray[np.uint8]:
    values = np.asarray(values)
    if values.ndim == 3 and values.dtype == np.uint8 and values.shape[2] == 3:
        return values
    if values.ndim == 2 and values.dtype.kind in "iu" and values.min() >= 0 and values.max() <= 255:
        return colours[values]
    if values.ndim == 2 and values.dtype.kind == "f":
        return (255 * values.clip(0, 1)).round().astype(np.uint8)[..., None].repeat(3, 2)
    raise ValueError(
        "pictures: expected UInt8[H, W, 3], labels Int[H, W] in 0..255 or Float[H, W], "
        f"got {values.dtype} {values.shape}"
    )
