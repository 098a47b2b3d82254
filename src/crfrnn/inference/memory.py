# SPDX-License-Identifier: MIT
"""Estimates of the memory for a picture, and the largest tile within a budget."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from torch import Tensor, nn

from crfrnn.crf.binary import NUM_LABELS
from crfrnn.models import Segmenter

MIB = 2**20
PROBE = 256  # side in pixels of the piece on which a network is measured
SMALLEST = 256  # smaller tiles give a network too little context
STEP = 32
AMPLE = 4096  # bytes per pixel that no usual network exceeds
# The CRF's memory, measured on 1024² pixels (flat, photograph, noise; 2, 5, 21 labels) and rounded up: bytes
# of the layer in five dimensions per pixel and per lattice vertex, and per label of each (in d dimensions
# PIXEL and VERTEX, the corners and neighbours, scale by (d + 1) / 6); then the rest of a tile (unary,
# marginals, weighted).
PIXEL, PIXEL_LABEL, VERTEX, VERTEX_LABEL = 170, 9, 185, 10
HELD, HELD_LABEL = 32, 12
RESULT, RESULT_LABEL = 32, 16  # for a network alone: logits, probabilities, weighted; the tile of the picture
KEPT, FILES = 48, 80  # MiB kept by the allocator and libraries between tiles, and blocks of files


class Network(NamedTuple):
    """A network's peak memory in bytes per pixel, and the number of its labels."""

    pixel: float
    labels: int


def measured(segmenter: Segmenter, piece: Tensor) -> Network:
    """Estimate the network's memory per pixel.

    The largest input plus output of one layer is measured on a piece of a picture and doubled, to account for
    other live tensors and the layer's workspace.

    Args: piece: UInt8 or Float [1, 3, h, w] on the segmenter's device.
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
    """Bytes per pixel of a CRF with `vertices` lattice vertices per pixel and `features` dimensions."""
    corners = (features + 1) / 6
    pixel = PIXEL * corners + HELD + (PIXEL_LABEL + HELD_LABEL) * labels
    return pixel + vertices * (VERTEX * corners + VERTEX_LABEL * labels)


def tile_within(
    memory: float, size: tuple[int, int], pixel: float, channels: int, overlap: int, *, held: float,
    least: int, most: int | None = None, remedy: str = "a smaller overlap",
) -> int:  # fmt: skip
    """The side in pixels of the largest square tile that needs at most `memory` MiB.

    Args:
        memory: MiB.
        size: rows and columns.
        pixel: bytes per pixel of a tile.
        channels: float32 numbers per pixel that are blended between tiles.
        overlap: in pixels; a tile shares at most a quarter of its side.
        held: MiB independent of the tile.
        least, most: the sides of the smallest and the largest tile; None: the whole picture.
        remedy: alternative to more memory, for the message.

    Raises: ValueError if even the smallest tile needs more; the message states how much.

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
    """The side of the smallest tile: four overlaps, rounded up to a multiple of 32."""
    return max(64, math.ceil((4 * overlap + 2 * STEP) / STEP) * STEP)
