# SPDX-License-Identifier: MIT
"""How large a tile may be for a CRF alone, given its unary, to stay within a budget."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from crfrnn.crf import CRFRNN, principal_directions
from crfrnn.inference.memory import MIB, STEP, largest, pieces
from crfrnn.io.rectangles import Source, finite, valid_in_all
from crfrnn.lattice import Lattice

# Measured on 1024² pixels (flat, photograph, noise; 2, 5, 21 labels), rounded up: bytes of the layer in five
# dimensions (in d of them (d + 1) / 6 times PIXEL and VERTEX, which are corners and neighbours) by pixel
# and by lattice vertex, and by label of each; then what a tile holds beside it (unary, marginals, weighted).
PIXEL, PIXEL_LABEL, VERTEX, VERTEX_LABEL = 170, 9, 185, 10
HELD, HELD_LABEL = 32, 12
KEPT = 128  # MiB: blocks of files, what the allocator keeps between tiles
LARGEST = 4096


def tile_within(
    memory: float, size: tuple[int, int], labels: int, overlap: int, vertices: float, features: int = 5
) -> int:
    """The side of the largest square tile, in pixels, that takes at most `memory` MiB.

    Args: memory, MiB; size, rows and columns; overlap, pixels; vertices, of the lattice, per pixel; features,
    of a pixel: two positions and the guide's bands.

    Raises: ValueError where a tile of four overlaps takes more; the message says how much it takes.

    >>> tile_within(2048, (10000, 10000), 5, 174, vertices=1.0)
    1888
    """
    corners = (features + 1) / 6
    pixel = PIXEL * corners + HELD + (PIXEL_LABEL + HELD_LABEL) * labels
    pixel += vertices * (VERTEX * corners + VERTEX_LABEL * labels)
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


def guide_directions(crf: CRFRNN, image: Source, unary: Source) -> Tensor | None:
    """The principal directions that all tiles share, Float[C, k], from nine pieces of the picture."""
    if crf.guide_components is None:
        return None
    parts: list[Tensor] = []
    for rows, columns in pieces(*image.shape[1:]):
        valid = valid_in_all(rows, columns, image, unary)
        part = torch.from_numpy(finite(image, rows, columns, valid)).float().flatten(1)
        parts.append(part if valid is None else part[:, torch.from_numpy(valid).flatten()])
    beta = crf.log_theta_beta.detach().exp().expand(image.shape[0])
    return principal_directions((torch.cat(parts, 1) / beta[:, None])[None], crf.guide_components)[0]


def vertices_per_pixel(crf: CRFRNN, image: Source, unary: Source, directions: Tensor | None = None) -> float:
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
            kernels = crf.kernels(torch.from_numpy(part)[None], mask, guide_components=directions)
        operator = kernels[1].operator
        assert isinstance(operator, Lattice)
        most = max(most, operator.num_vertices / (part.shape[1] * part.shape[2]))
    return most
