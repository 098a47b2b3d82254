# SPDX-License-Identifier: MIT
"""How large a tile may be for a CRF alone, given its unary, to stay within a budget."""

from __future__ import annotations

import math

import torch

from crfrnn.crf import CRFRNN
from crfrnn.lattice import Lattice
from crfrnn.predict.memory import MIB, STEP, largest, pieces
from crfrnn.tiles.sources import Source, finite, valid_in_all

# Measured on 1024² pixels (flat, photograph, noise; 2, 5, 21 labels), rounded up: bytes of the layer by pixel
# and by lattice vertex, and by label of each; then what a tile holds beside it (unary, marginals, weighted).
PIXEL, PIXEL_LABEL, VERTEX, VERTEX_LABEL = 170, 9, 185, 10
HELD, HELD_LABEL = 32, 12
KEPT = 128  # MiB: blocks of files, what the allocator keeps between tiles
LARGEST = 4096


def tile_within(memory: float, size: tuple[int, int], labels: int, overlap: int, vertices: float) -> int:
    """The side of the largest square tile, in pixels, that takes at most `memory` MiB.

    Args: memory, MiB; size, rows and columns; overlap, pixels; vertices, of the lattice, per pixel.

    Raises: ValueError where a tile of four overlaps takes more; the message says how much it takes.

    >>> tile_within(2048, (10000, 10000), 5, 174, vertices=1.0)
    1888
    """
    pixel = PIXEL + HELD + (PIXEL_LABEL + HELD_LABEL) * labels + vertices * (VERTEX + VERTEX_LABEL * labels)
    least = smallest(overlap)

    def need(side: int) -> float:
        seams = 4 * labels * overlap * (size[1] + side) if side < max(size) else 0
        return KEPT + (pixel * min(side, size[0]) * min(side, size[1]) + seams) / MIB

    side = largest(need, memory, min(LARGEST, math.ceil(max(size) / STEP) * STEP), least)
    if need(side) > memory:
        raise ValueError(
            f"memory: expected at least {math.ceil(need(side))} MiB for {size[1]} × {size[0]} pixels, "
            f"{labels} labels and tiles of {side} (four overlaps of {overlap}), got {memory:g}; "
            "allow more, or a smaller overlap"
        )
    return max(side, least)


def smallest(overlap: int) -> int:
    """The side of the smallest tile: four overlaps, and what goes to whole multiples of 32."""
    return max(64, math.ceil((4 * overlap + 2 * STEP) / STEP) * STEP)


def vertices_per_pixel(crf: CRFRNN, image: Source, unary: Source) -> float:
    """The most of the bilateral lattice in nine pieces of the picture: flat sky has few, foliage many.

    Pixels without data in the picture or its scores are looked at as the layer looks at them: not at all.
    """
    if crf.bilateral_method != "lattice":
        return 0.0
    _, height, width = image.shape
    most = 0.0
    for rows, columns in pieces(height, width):
        valid = valid_in_all(rows, columns, image, unary)
        if valid is not None and not valid.any():
            continue
        part = finite(image, rows, columns, valid)
        mask = None if valid is None else torch.from_numpy(valid)[None]
        with torch.no_grad():
            operator = crf.kernels(torch.from_numpy(part)[None], mask)[1].operator
        assert isinstance(operator, Lattice)
        most = max(most, operator.num_vertices / (part.shape[1] * part.shape[2]))
    return most
