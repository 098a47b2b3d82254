# SPDX-License-Identifier: MIT
"""`refine_tiles`: the CRF over a picture of any size, one tile in memory at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from crfrnn.crf import CRFRNN
from crfrnn.crf.binary import for_two_labels
from crfrnn.crf.unit import warn_of_guide
from crfrnn.inference.memory import pieces
from crfrnn.inference.tile_memory import guide_directions, smallest, tile_within, vertices_per_pixel
from crfrnn.inference.windows import Window, windows
from crfrnn.io.rectangles import Source, finite, valid_in_all
from crfrnn.io.tile_unaries import AsLogits, Convert, as_logits

# top, left, labels Int[h, w], probabilities Float32[L, h, w], Bool[h, w] where there is data (None: all)
Write = Callable[[int, int, NDArray[Any], NDArray[np.float32], "NDArray[np.bool_] | None"], None]
REACH = 3  # of θ_α: what lies farther away weighs less than 1 % in the kernel
SHARPER = 2.5  # the windows fade over the middle half of what they share, tiles of a CRF over a fifth


@dataclass(frozen=True)
class Tiling:
    """How a picture was cut: tiles in all, side of a tile and overlap in pixels.

    `changed` is the share of the pixels with data that got another label.
    """

    tiles: int
    side: int
    overlap: int
    changed: float


@torch.no_grad()
def refine_tiles(
    image: Source,
    unary: Source,
    crf: CRFRNN,
    write: Write,
    *,
    logits: Convert | None = None,
    memory: float = 2048,
    tile: int | None = None,
    overlap: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Tiling:
    """Refine a picture tile by tile; `write` gets every pixel once, in order, as soon as it is finished.

    The tiles' marginals p are faded into each other, ``p = Σ_t w_t p_t`` with ``Σ_t w_t = 1``, in the middle
    fifth of what neighbours share: beside its edge a tile knows too little.

    Args:
        image: guide, real numbers in 0..255 [C, H, W].
        unary: scores [L, H, W], or whatever `logits` understands; one logit z per pixel stands for [0, z].
        crf: the layer; it is run as it stands (call ``crf.eval()`` for its ``eval_iterations``).
        write: called with top, left, labels, probabilities and where there is data: in the picture and in
            its scores.
        logits: makes logits of what `unary` reads; None: they are logits. See `as_logits`.
        memory: MiB for all of it, beside Python, torch and the weights (some 300 MiB). An estimate from the
            lattices of nine pieces of the picture.
        tile: side in pixels; None derives it from `memory`.
        overlap: pixels that neighbours share; None takes 3 θ_α. A tile has at least four of them.
        progress: called with tiles done and tiles in all.

    Raises:
        ValueError: sizes that do not fit, NaN or infinity where there is data, a budget too small for one
            tile (the message says what it takes).

    >>> from crfrnn.io import InMemory
    >>> done = np.zeros((90, 200), np.int64)
    >>> def keep(top, left, labels, p, valid):
    ...     done[top : top + len(labels), left : left + labels.shape[1]] = labels + 1
    >>> picture, scores = np.zeros((3, 90, 200), np.uint8), np.zeros((2, 90, 200), np.float32)
    >>> crf = CRFRNN(2, theta_alpha=5.0).eval()
    >>> refine_tiles(InMemory(picture), InMemory(scores), crf, keep, tile=128).tiles, int(done.min())
    (2, 1)
    """
    height, width = _size(image, unary)
    crf = for_two_labels(crf)
    directions = guide_directions(crf, image, unary)
    _check_unit(image, crf)
    shared, side = _plan(image, unary, crf, directions, memory, tile, overlap)
    rows, columns = windows(height, side, shared), windows(width, side, shared)
    total, changed, counted = len(rows) * len(columns), 0, 0
    convert = logits or as_logits()
    if isinstance(convert, AsLogits):
        convert.ask(unary)
    above: NDArray[np.float32] | None = None  # weighted marginals where the row before reaches into this one
    for i, row in enumerate(rows):
        high = _own(rows, i)
        below: NDArray[np.float32] | None = None
        beside: NDArray[np.float32] | None = None
        for j, column in enumerate(columns):
            wide = _own(columns, j)
            part = slice(row.start, row.stop), slice(column.start, column.stop)
            p, before, valid = _tile(image, unary, crf, convert, part, directions)
            p *= _fade(row)[:, None] * _fade(column)
            if beside is not None:
                p[:, :, : beside.shape[2]] += beside
            beside = p[:, :, wide:].copy()
            p = p[:, :, :wide]
            if above is not None:
                p[:, : above.shape[1]] += above[:, :, column.start : column.start + wide]
            if high < p.shape[1]:
                if below is None:
                    below = np.empty((len(p), p.shape[1] - high, width), np.float32)
                below[:, :, column.start : column.start + wide] = p[:, high:]
            p = p[:, :high]
            labels = p.argmax(0)
            inside = None if valid is None else valid[:high, :wide]
            differ = labels != before[:high, :wide]
            changed += int((differ if inside is None else differ & inside).sum())
            counted += differ.size if inside is None else int(inside.sum())
            write(row.start, column.start, labels, p, inside)
            if progress is not None:
                progress(i * len(columns) + j + 1, total)
        above = below
    return Tiling(total, side, shared, changed / max(counted, 1))


def _tile(
    image: Source,
    unary: Source,
    crf: CRFRNN,
    convert: Convert,
    part: tuple[slice, slice],
    directions: torch.Tensor | None,
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.bool_] | None]:
    """Marginals, the labels before, and where there is data."""
    rows, columns = part
    valid = valid_in_all(rows, columns, image, unary)
    if valid is not None and not valid.any():
        size = valid.shape
        return (
            np.full((crf.num_labels, *size), 1 / crf.num_labels, np.float32),
            np.zeros(size, np.int64),
            valid,
        )
    scores = convert(unary.read(rows, columns), valid)
    if len(scores) != crf.num_labels:
        raise ValueError(f"unary: expected {crf.num_labels} labels as the CRF has, got {len(scores)}")
    mask = None if valid is None else torch.from_numpy(valid)
    if mask is not None:
        scores = torch.where(mask, scores, torch.zeros_like(scores))
    before = scores.argmax(0).numpy()
    guide = torch.from_numpy(finite(image, rows, columns, valid))[None]
    batch_mask = None if mask is None else mask[None]
    scores = crf(
        scores[None],
        guide,
        mask=batch_mask,
        origin=(rows.start, columns.start),
        guide_components=directions,
    )[0]
    return scores.float().softmax(0).numpy(), before, valid


def _fade(window: Window) -> NDArray[np.float32]:
    return ((window.weights - 0.5) * SHARPER + 0.5).clip(0, 1)


def _own(found: list[Window], i: int) -> int:
    """How many pixels of a window no later one touches."""
    return (found[i + 1].start if i + 1 < len(found) else found[i].stop) - found[i].start


def _check_unit(image: Source, crf: CRFRNN) -> None:
    """Warn where nine pieces of a float guide are not in the unit of θ_β; a tile alone may just be dark."""
    found = []
    for rows, columns in pieces(*image.shape[1:]):
        values, valid = image.read(rows, columns), image.valid(rows, columns)
        if values.dtype.kind != "f":
            return
        good = np.isfinite(values).all(0) if valid is None else np.isfinite(values).all(0) & valid
        found.append(torch.from_numpy(values[:, good]))
    warn_of_guide(torch.cat(found, 1), crf.log_theta_beta)


def _size(image: Source, unary: Source) -> tuple[int, int]:
    if image.shape[1:] != unary.shape[1:] or 0 in image.shape:
        raise ValueError(
            f"unary: expected {image.shape[1]} rows × {image.shape[2]} columns as image has, got "
            f"{unary.shape[1]} × {unary.shape[2]}; resample it onto the picture"
        )
    return image.shape[1:]


def _plan(
    image: Source,
    unary: Source,
    crf: CRFRNN,
    directions: torch.Tensor | None,
    memory: float,
    tile: int | None,
    overlap: int | None,
) -> tuple[int, int]:
    """Overlap and side of the tiles, in pixels."""
    size = image.shape[1:]
    if overlap is None:
        overlap = math.ceil(round(REACH * float(crf.log_theta_alpha.exp().max()), 3))  # 45.000002 is 45
    if overlap < 0:
        raise ValueError(f"overlap: expected at least 0 pixels, got {overlap}")
    if tile is None:
        if not memory > 0:
            raise ValueError(f"memory: expected MiB above 0, got {memory!r}")
        features = 2 + (image.shape[0] if directions is None else directions.shape[1])
        vertices = vertices_per_pixel(crf, image, unary, directions)
        return overlap, tile_within(memory, size, crf.num_labels, overlap, vertices, features)
    if tile < min(smallest(overlap), max(size)):
        raise ValueError(
            f"tile: expected at least {smallest(overlap)} pixels for an overlap of {overlap}, got {tile}; "
            "take larger tiles or a smaller overlap"
        )
    return overlap, tile
