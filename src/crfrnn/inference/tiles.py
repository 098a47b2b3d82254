# SPDX-License-Identifier: MIT
"""Pictures of any size by windows: helpers for tiles, and `refine_tiles`, the CRF on given scores."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crfrnn.crf import CRFRNN
from crfrnn.crf.binary import for_two_labels
from crfrnn.crf.likeliest import likeliest
from crfrnn.inference.guide import Guide, check_unit, shared_directions, vertices_per_pixel
from crfrnn.inference.many import Progress
from crfrnn.inference.memory import FILES, KEPT, crf_pixel, smallest, tile_within
from crfrnn.inference.prediction import Tiling, count_labels
from crfrnn.inference.windows import Tile, faded, windows
from crfrnn.io.rectangles import Windowed
from crfrnn.io.scores import AsLogits

# top, left, labels Int[h, w], probabilities Float32[L, h, w], Bool[h, w] where there is data (None: all)
Write = Callable[[int, int, NDArray[np.integer], NDArray[np.float32], "NDArray[np.bool_] | None"], None]
REACH = 3  # in units of θ_α; beyond it the kernel is below 1 %
LARGEST = 4096  # largest side of a tile of a file; larger ones bring no gain


@torch.no_grad()
def refine_tiles(
    image: Windowed,
    unary: Windowed,
    crf: CRFRNN,
    write: Write,
    *,
    logits: Callable[..., Tensor] | None = None,
    memory: float = 2048,
    tile: int | None = None,
    overlap: int | None = None,
    progress: Progress | None = None,
) -> Tiling:
    """Refine a picture tile by tile; `write` receives every pixel once, in order, as soon as it is finished.

    The tiles' marginals p are blended, ``p = Σ_t w_t p_t`` with ``Σ_t w_t = 1``, in the middle fifth of the
    overlap: near its edge a tile lacks context.

    Args:
        image: guide, real numbers in 0..255 [C, H, W].
        unary: scores [L, H, W], or any input of `logits`; one logit z per pixel stands for [0, z].
        crf: the layer, in its current mode (call ``crf.eval()`` to use its ``eval_iterations``).
        write: called with top, left, labels, probabilities and the mask of pixels with data in both the
            picture and its scores.
        logits: converts the values of `unary` to logits, called with values and their mask, such as
            `crfrnn.io.AsLogits`; None: the values are logits.
        memory: total MiB, in addition to Python, torch and the weights (about 300 MiB). Estimated from the
            lattices of nine pieces of the picture.
        tile: side in pixels; None derives it from `memory`.
        overlap: pixels that neighbours share; None: 3 θ_α. A tile is at least four overlaps wide.
        progress: called with (tiles done, total).

    Raises:
        ValueError: sizes that do not fit, NaN or infinity where there is data, a budget too small for one
            tile (the message states the minimum).

    >>> from crfrnn.io import InMemory
    >>> done = np.zeros((90, 200), np.int64)
    >>> def keep(top, left, labels, p, valid):
    ...     done[top : top + len(labels), left : left + labels.shape[1]] = labels + 1
    >>> picture, scores = np.zeros((3, 90, 200), np.uint8), np.zeros((2, 90, 200), np.float32)
    >>> crf = CRFRNN(2, theta_alpha=5.0).eval()
    >>> refine_tiles(InMemory(picture), InMemory(scores), crf, keep, tile=128).tiles, int(done.min())
    (2, 1)
    """
    if image.shape[1:] != unary.shape[1:] or 0 in image.shape:
        raise ValueError(
            f"unary: expected {image.shape[1]} rows × {image.shape[2]} columns as image has, got "
            f"{unary.shape[1]} × {unary.shape[2]}; resample it onto the picture"
        )
    crf = for_two_labels(crf)
    guide = Guide(image, lambda piece: piece, (unary,))
    directions = shared_directions(crf, guide)
    check_unit(crf, guide)
    shared = reach(crf) if overlap is None else overlap
    side = _side(guide, crf, directions, memory, tile, shared)
    convert = logits or AsLogits()
    if isinstance(convert, AsLogits):
        convert.ask_about_white(unary)

    def infer(rows: slice, columns: slice) -> Tile:
        valid = guide.valid(rows, columns)
        if valid is not None and not valid.any():
            return without_data(crf.num_labels, valid)
        scores = convert(unary.read(rows, columns), valid)
        if len(scores) != crf.num_labels:
            raise ValueError(f"unary: expected {crf.num_labels} labels as in the CRF, got {len(scores)}")
        mask = None if valid is None else torch.from_numpy(valid)
        if mask is not None:
            scores = torch.where(mask, scores, torch.zeros_like(scores))
        refined = crf(
            scores[None],
            guide.piece(rows, columns, valid),
            mask=None if mask is None else mask[None],
            origin=(rows.start, columns.start),
            guide_components=directions,
        )[0]
        return Tile(refined.float().softmax(0).numpy(), likeliest(scores), valid)

    rows, columns = (windows(n, side, shared) for n in guide.size)
    total = len(rows) * len(columns)
    counts, changed = deliver(faded(rows, columns, infer), write, total, progress)
    return Tiling(guide.size, total, side, shared, counts, changed)


def reach(crf: CRFRNN) -> int:
    """The overlap of tiles that the CRF needs, in pixels: 3 θ_α."""
    return math.ceil(round(REACH * float(crf.log_theta_alpha.exp().max()), 3))  # 45.000002 is 45


def without_data(labels: int, valid: NDArray[np.bool_]) -> Tile:
    """A tile in which no pixel has data."""
    return Tile(np.full((labels, *valid.shape), 1 / labels, np.float32), np.zeros(valid.shape, int), valid)


def deliver(
    found: Iterable[tuple[int, int, Tile]],
    write: Write,
    total: int,
    progress: Progress | None,
    halves: bool = False,
) -> tuple[NDArray[np.int64], float]:
    """Write finished rectangles; returns the pixels with data of each label, and the share that changed.

    Args: halves: the second half of the values are the probabilities before the CRF.
    """
    counts, changed, numbers = (
        count_labels(np.zeros(0, int)),
        0,
        itertools.count(1),
    )  # enumerate would keep a reference
    for top, left, (p, before, valid) in found:
        if halves:
            before = likeliest(torch.from_numpy(p[len(p) // 2 :]))
            p = p[: len(p) // 2]
        labels = likeliest(torch.from_numpy(p))
        differ = labels != (labels if before is None else before)
        counts = count_labels(labels if valid is None else labels[valid], counts)
        changed += int((differ if valid is None else differ & valid).sum())
        write(top, left, labels, p, valid)
        if progress is not None:
            progress(next(numbers), total)
        del p, before, valid, labels, differ  # free them before the next tile is made
    return counts, changed / max(int(counts.sum()), 1)


def _side(
    guide: Guide, crf: CRFRNN, directions: Tensor | None, memory: float, tile: int | None, overlap: int
) -> int:
    if overlap < 0:
        raise ValueError(f"overlap: expected at least 0 pixels, got {overlap}")
    least = smallest(overlap)
    if tile is None:
        if not memory > 0:
            raise ValueError(f"memory: expected MiB above 0, got {memory!r}")
        features = 2 + (guide.image.shape[0] if directions is None else directions.shape[1])
        pixel = crf_pixel(crf.num_labels, vertices_per_pixel(crf, guide, directions), features)
        return tile_within(
            memory, guide.size, pixel, crf.num_labels, overlap, held=KEPT + FILES, least=least, most=LARGEST
        )
    if tile < min(least, max(guide.size)):
        raise ValueError(
            f"tile: expected at least {least} pixels for an overlap of {overlap}, got {tile}; "
            "use larger tiles or a smaller overlap"
        )
    return tile
