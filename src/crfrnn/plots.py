# SPDX-License-Identifier: MIT
"""Pictures to look at: label maps over photographs, the panel of a refinement, heat maps and curves.

What shows pixels is drawn with Pillow, heat maps and curves with matplotlib (the extra `plots`).
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from crfrnn.extras import optional
from crfrnn.io import VOID, voc_palette
from crfrnn.io.images import picture_and_map

PAPER, INK, FAINT = (250, 250, 248), (32, 34, 38), (120, 124, 130)
CHANGED = (236, 0, 140)  # a colour that neither photographs nor the VOC palette hold much of
UNTINTED = (0, VOID)  # labels that show the photograph
LEAST = 0.0005  # share of the pixels of a label that legends name: less is 0.0 %
DPI = 100
_MOST_NAMES = 24
_NARROWEST = 320  # a legend below this is a column of single words


def overlay(
    image: NDArray[np.uint8],
    labels: NDArray[Any],
    palette: NDArray[np.uint8] | None = None,
    opacity: float = 0.5,
) -> NDArray[np.uint8]:
    """The photograph under the colours of its labels, with a light line between labels.

    Label 0, most often the background, and 255 leave the photograph as it is.

    Args:
        image: UInt8[H, W, 3].
        labels: Int[H, W] in 0..255.
        palette: UInt8[K, 3]; VOC's by default. Labels beyond K take the VOC colours.
        opacity: of the colours, 0..1.

    >>> overlay(np.full((2, 2, 3), 100, np.uint8), np.array([[0, 0], [1, 1]])).shape
    (2, 2, 3)
    """
    image, labels = _check(image, labels)
    colours = voc_palette()
    if palette is not None:
        colours[: len(palette)] = palette
    grey = image @ np.array([0.299, 0.587, 0.114])
    # Colour under colour reads badly: below a tint the photograph keeps a quarter of its own.
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
    """The overlay of a photograph, no larger than people look at, and the colours' names beneath it.

    Args:
        image, labels, palette: as in `overlay`.
        names: a name per label for the legend; numbers by default.
        long_side: larger photographs are shown at this size, in pixels.

    >>> painted(np.zeros((300, 400, 3), np.uint8), np.zeros((300, 400), int), long_side=200).width
    320
    """
    seen = _seen(labels)
    image, labels = shrunk(image, labels, long_side=long_side)
    over = Image.fromarray(overlay(image, labels, palette))
    width, gap = max(over.width, _NARROWEST), 8
    legend = _legend(seen, names, palette, width - 2 * gap, changed=False)
    canvas = Image.new("RGB", (width, over.height + legend.height + 2 * gap), PAPER)
    canvas.paste(over, ((width - over.width) // 2, 0))
    canvas.paste(legend, (gap, over.height + gap))
    return canvas


def shrunk(image: NDArray[np.uint8], *labels: NDArray[Any], long_side: int) -> tuple[NDArray[Any], ...]:
    """A photograph and its label maps with at most `long_side` pixels along each side; labels stay labels."""
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
    image, before = _check(image, before)
    _, after = _check(image, after)
    grey = (image @ np.array([0.299, 0.587, 0.114]))[..., None].repeat(3, 2)
    pale = 255 - 0.45 * (255 - grey)
    changed = (before != after)[..., None]
    return np.where(changed, 0.15 * grey + 0.85 * np.array(CHANGED), pale).round().astype(np.uint8)


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
    """One picture that tells the refinement: input, before, after, difference, and the colours' names.

    Args:
        image: the photograph, UInt8[H, W, 3].
        before, after: Int[H, W], the labels of the unary alone and of the CRF.
        palette: as in `overlay`.
        names: a name per label for the legend; numbers by default.
        source: what stands in the first tile instead of the photograph (scribbles on it, say).
        captions: of the four tiles.
        width: of the whole, in pixels; the height follows.

    Raises:
        ValueError: sizes that differ, labels outside 0..255, not four captions.
    """
    image, before = _check(image, before)
    _, after = _check(image, after)
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
    # Very long pictures are set in one column or one row, so that the panel keeps a useful shape.
    across = 1 if columns > 2.4 * height else 4 if height > 2.4 * columns else 2
    tile_width = (width - gap * (across + 1)) // across
    tile_height = max(1, round(tile_width * height / columns))
    rows = 4 // across
    legend = _legend(sorted({*_seen(before), *_seen(after)}), names, palette, width - 2 * gap)
    canvas = Image.new("RGB", (width, gap + rows * (tile_height + title + gap) + legend.height + gap), PAPER)
    draw = ImageDraw.Draw(canvas)
    enlarged = tile_width > columns
    for number, (tile, caption, note) in enumerate(zip(tiles, captions, notes, strict=True)):
        x = gap + (number % across) * (tile_width + gap)
        y = gap + (number // across) * (tile_height + title + gap)
        draw.text((x, y + title / 2), caption, INK, _font(20), anchor="lm")
        if note:
            draw.text((x + tile_width, y + title / 2), note, FAINT, _font(16), anchor="rm")
        resample = Image.Resampling.NEAREST if enlarged and number else Image.Resampling.LANCZOS
        canvas.paste(Image.fromarray(tile).resize((tile_width, tile_height), resample), (x, y + title))
    canvas.paste(legend, (gap, canvas.height - legend.height - gap // 2))
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
        draw.text((gap + k * (widest + gap), head / 2), caption, INK, _font(15), anchor="lm")
    for number, (note, line) in enumerate(tiles):
        y = head + number * (height + note_height + gap)
        for k, tile in enumerate(line):
            canvas.paste(tile, (gap + k * (widest + gap), y))
        draw.text((gap, y + height + 10), note, FAINT, _font(13), anchor="lm")
    return canvas


def heat_map(matrix: NDArray[Any], names: Sequence[str], title: str = "") -> Image.Image:
    """A matrix [L, L] as coloured cells: white is 0, blue below (labels support each other), red above.

    Raises: ValueError for another shape; ImportError where matplotlib (the extra `plots`) is not installed.

    >>> heat_map(np.eye(2), ("a", "b")).mode
    'RGB'
    """
    values = np.asarray(matrix, np.float64)
    if values.ndim != 2 or values.shape != (len(names), len(names)) or not np.isfinite(values).all():
        raise ValueError(f"matrix: expected finite [L, L] with L = {len(names)} names, got {values.shape}")
    top = float(np.abs(values).max()) or 1.0
    side = 1.5 + 0.26 * len(names) + 0.075 * max(map(len, names))
    figure, axes = _figure(max(side + 0.8, 0.4 + 0.085 * len(title)), side)
    cells = axes.imshow(values, cmap="RdBu_r", vmin=-top, vmax=top)
    axes.xaxis.tick_top()
    axes.set_xticks(range(len(names)), names, rotation=90)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(length=0)
    figure.suptitle(title, fontsize=11)
    figure.colorbar(cells, ax=axes, shrink=0.8)
    return _drawn(figure)


def curves(
    lines: Mapping[str, Sequence[float]], across: str, upwards: str, size: tuple[int, int] = (760, 460)
) -> Image.Image:
    """Lines over 1, 2, 3, … with a legend; NaN leaves a gap.

    Args: lines, by name; across and upwards, what the axes are; size, width and height in pixels.

    Raises: ImportError where matplotlib (the extra `plots`) is not installed.

    >>> curves({"a": [0.1, 0.4]}, "width", "IU").size
    (760, 460)
    """
    figure, axes = _figure(size[0] / DPI, size[1] / DPI)
    drawn = [axes.plot(range(1, len(line) + 1), line, marker=".")[0] for line in lines.values()]
    axes.set(xlabel=across, ylabel=upwards)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    names = [textwrap.fill(name, 28) for name in lines]
    figure.legend(drawn, names, loc="outside right upper", frameon=False)
    return _drawn(figure)


def _figure(width: float, height: float) -> tuple[Any, Any]:
    """A figure of so many inches with one pair of axes; no window, and nothing is kept from call to call."""
    figure = optional("matplotlib.figure", "plots", "figures").Figure(
        (width, height), dpi=DPI, layout="constrained"
    )
    return figure, figure.add_subplot()


def _drawn(figure: Any) -> Image.Image:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    for text in figure.findobj(Text):  # names are no formulas, whatever signs are in them
        text.set(parse_math=False, usetex=False)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def _seen(labels: NDArray[Any]) -> list[int]:
    """Those that can be seen: at least `LEAST` of the pixels."""
    found, counts = np.unique(labels, return_counts=True)
    return found[counts >= LEAST * labels.size].tolist()


def _legend(
    labels: Sequence[int],
    names: Sequence[str],
    palette: NDArray[np.uint8] | None,
    width: int,
    changed: bool = True,
) -> Image.Image:
    """Swatches with names, wrapped to the width; `changed` explains the colour of `difference`.

    The swatch of a label that is not tinted is empty.
    """
    colours = voc_palette()
    if palette is not None:
        colours[: len(palette)] = palette
    shown = [label for label in labels if label != VOID]
    entries = [
        (PAPER if k in UNTINTED else tuple(colours[k].tolist()), names[k] if k < len(names) else str(k))
        for k in shown[:_MOST_NAMES]
    ]
    if len(shown) > _MOST_NAMES:
        entries.append((PAPER, f"and {len(shown) - _MOST_NAMES} more"))
    if changed:
        entries.append((CHANGED, "changed"))
    font, line, swatch = _font(16), 28, 16
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


def _font(size: int) -> Any:
    return ImageFont.load_default(size)


def _edges(labels: NDArray[Any]) -> NDArray[np.bool_]:
    """Pixels whose right or lower neighbour has another label."""
    edge = np.zeros(labels.shape, bool)
    edge[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    edge[:-1] |= labels[:-1] != labels[1:]
    return edge


def _check(image: NDArray[np.uint8], labels: NDArray[Any]) -> tuple[NDArray[np.uint8], NDArray[Any]]:
    image, labels = picture_and_map(image, labels, "labels")
    if labels.min() < 0 or labels.max() > 255:
        raise ValueError(f"labels: expected 0..255, got {labels.min()}..{labels.max()}")
    return image, labels
