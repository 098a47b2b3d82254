# SPDX-License-Identifier: MIT
"""How much memory a picture takes on its way, and how large its tiles may be."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from torch import Tensor, nn

from crfrnn.crf.binary import NUM_LABELS
from crfrnn.models import Segmenter

MIB = 2**20
PROBE = 256  # pixels along each side of the piece on which a network is measured
SMALLEST = 256  # a tile below this shows a network too little of what is around
STEP = 32
AMPLE = 4096  # bytes per pixel that no usual network exceeds
# Of the CRF, measured on 1024² pixels (flat, photograph, noise; 2, 5, 21 labels), rounded up: bytes of the
# layer in five dimensions (in d of them (d + 1) / 6 times PIXEL and VERTEX, which are corners and neighbours)
# by pixel and by lattice vertex, and by label of each; then what a tile holds beside it (unary, marginals,
# weighted).
PIXEL, PIXEL_LABEL, VERTEX, VERTEX_LABEL = 170, 9, 185, 10
HELD, HELD_LABEL = 32, 12
RESULT, RESULT_LABEL = 32, 16  # of a network alone: logits, probabilities, weighted; the tile of the picture
KEPT, FILES = 48, 80  # MiB: what the allocator and libraries keep between tiles, and blocks of files


class Network(NamedTuple):
    """What a network takes: bytes per pixel at the worst moment. And the number of its labels."""

    pixel: float
    labels: int


def measured(segmenter: Segmenter, piece: Tensor) -> Network:
    """An estimate of what one pixel takes in the network alone.

    The largest input and output of one layer are measured on a piece of a picture and doubled, for what is
    kept beside them and for the layer's own workspace.

    Args: piece, UInt8 or Float [1, 3, h, w] on the segmenter's device.
    """
    worst = 0

    def measure(_: nn.Module, given: tuple[Any, ...], output: Any) -> None:
        nonlocal worst
        tensors = [t for t in (*given, output) if isinstance(t, Tensor)]
        worst = max(worst, sum(t.numel() * t.element_size() for t in tensors))

    leaves = [m for m in segmenter.network.modules() if not any(m.children())]
    hooks = [leaf.register_forward_hook(measure) for leaf in leaves]
    try:
        labels = max(segmenter.unary(piece).shape[1], NUM_LABELS)  # one channel means two labels
    finally:
        for hook in hooks:
            hook.remove()
    network = 2 * worst / (piece.shape[2] * piece.shape[3]) + 4 * labels
    return Network(network + RESULT_LABEL * labels + RESULT, labels)


def crf_pixel(labels: int, vertices: float, features: int = 5) -> float:
    """Bytes per pixel of a CRF: `vertices` of its lattices per pixel, `features` of one: place and bands."""
    corners = (features + 1) / 6
    pixel = PIXEL * corners + HELD + (PIXEL_LABEL + HELD_LABEL) * labels
    return pixel + vertices * (VERTEX * corners + VERTEX_LABEL * labels)


def tile_within(
    memory: float, size: tuple[int, int], pixel: float, channels: int, overlap: int, *, held: float,
    least: int, most: int | None = None, remedy: str = "a smaller overlap",
) -> int:  # fmt: skip
    """The side of the largest square tile, in pixels, that takes at most `memory` MiB.

    Args:
        memory: MiB.
        size: rows and columns.
        pixel: bytes that one of a tile takes.
        channels: float32 numbers of a pixel that fade from tile to tile.
        overlap: pixels; a tile shares a quarter of its side at most.
        held: MiB that do not depend on the tile.
        least, most: the sides of the smallest and the largest tile; None: the whole picture.
        remedy: beside more memory, for the message.

    Raises: ValueError where even the smallest tile takes more; the message says how much it takes.

    >>> tile_within(2048, (10000, 10000), crf_pixel(5, 1.0), 5, 174, held=128, least=768)
    1888
    """

    def need(side: int) -> float:
        seams = 4 * channels * min(overlap, side // 4) * (size[1] + side) if side < max(size) else 0
        return held + (pixel * min(side, size[0]) * min(side, size[1]) + seams) / MIB

    side = math.ceil(max(size) / STEP) * STEP
    side = side if most is None else min(most, side)
    while side > least and need(side) > memory:
        side -= STEP
    if need(side) > memory:
        raise ValueError(
            f"memory: expected at least {math.ceil(need(side))} MiB for {size[1]} × {size[0]} pixels in "
            f"tiles of {side} that share {min(overlap, side // 4)}, got {memory:g}; allow more, or {remedy}"
        )
    return max(side, least)


def smallest(overlap: int) -> int:
    """The side of the smallest tile: four overlaps, and what goes to whole multiples of 32."""
    return max(64, math.ceil((4 * overlap + 2 * STEP) / STEP) * STEP)
