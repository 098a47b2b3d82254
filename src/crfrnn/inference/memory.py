# SPDX-License-Identifier: MIT
"""How much memory a picture takes on its way, and how large its tiles may be."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from crfrnn.crf.binary import NUM_LABELS
from crfrnn.models import Segmenter

MIB = 2**20
PROBE = 256  # pixels along each side of the piece that is measured
SMALLEST = 256  # a tile below this shows a network too little of what is around
STEP = 32
AMPLE = 4096  # bytes per pixel that no usual network exceeds
# Measured with 21 labels on 600×600 pixels, blocks of colour with more and less noise on them: 790 bytes per
# pixel and some 300 per lattice vertex. Rounded up, and shared out between what has labels and what has none.
CRF_PER_LABEL, CRF_PER_PIXEL = 32, 64
VERTEX_PER_LABEL, PER_VERTEX = 8, 160
KEPT = 48  # MiB that the allocator keeps between one tile and the next, and libraries' pools
RESULT_PER_LABEL, RESULT = 16, 32  # logits, probabilities, their weighted copy; the tile of the picture
SAMPLE, SAMPLES = 128, 3  # side of the pieces whose vertices are counted, pieces along each side


@dataclass(frozen=True)
class Appetite:
    """What one pixel takes at the worst moment, in bytes, and the number of labels."""

    pixel: float
    labels: int


def corner(picture: Tensor) -> Tensor:
    """The part of a picture [C, H, W] on which `network_appetite` measures."""
    return picture[:, :PROBE, :PROBE]


def network_appetite(segmenter: Segmenter, piece: Tensor) -> Appetite:
    """An estimate of what one pixel takes in the network alone.

    The largest input and output of one layer are measured on a piece of a picture and doubled, for what is
    kept beside them and for the layer's own workspace.

    Args: piece, UInt8 or Float [3, h, w] on the segmenter's device.
    """
    worst, labels = 0, 0

    def measure(_: nn.Module, given: tuple[Any, ...], output: Any) -> None:
        nonlocal worst
        tensors = [t for t in (*given, output) if isinstance(t, Tensor)]
        worst = max(worst, sum(t.numel() * t.element_size() for t in tensors))

    leaves = [m for m in segmenter.network.modules() if not any(m.children())]
    hooks = [leaf.register_forward_hook(measure) for leaf in leaves]
    try:
        labels = max(segmenter.unary(piece[None]).shape[1], NUM_LABELS)  # one channel means two labels
    finally:
        for hook in hooks:
            hook.remove()
    network = 2 * worst / (piece.shape[1] * piece.shape[2]) + 4 * labels
    return Appetite(network + RESULT_PER_LABEL * labels + RESULT, labels)


def crf_appetite(network: Appetite, vertices: float) -> Appetite:
    """The same with a CRF, which comes after the network, on a picture with so many vertices per pixel."""
    labels = network.labels
    pixel = CRF_PER_LABEL * labels + CRF_PER_PIXEL + vertices * (VERTEX_PER_LABEL * labels + PER_VERTEX)
    return Appetite(max(network.pixel, pixel + RESULT_PER_LABEL * labels + RESULT), labels)


def vertices_per_pixel(segmenter: Segmenter, image: Tensor) -> float:
    """Of the CRF's lattices, the most that nine pieces of a picture have: flat sky has few, foliage many.

    Args: image, UInt8 or Float [3, H, W] on the segmenter's device.
    """
    if segmenter.crf is None:
        return 0.0
    most = 0.0
    for rows, columns in pieces(image.shape[1], image.shape[2]):
        piece = image[None, :, rows, columns]
        kernels = segmenter.crf.kernels(segmenter.guide(piece))
        found = sum(int(getattr(kernel.operator, "num_vertices", 0)) for kernel in kernels)
        most = max(most, found / (piece.shape[2] * piece.shape[3]))
    return most


def pieces(height: int, width: int) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of nine pieces, evenly over a picture, on which vertices are counted.

    >>> next(pieces(100, 300))
    (slice(0, 100, None), slice(0, 128, None))
    """
    for i in range(SAMPLES):
        for j in range(SAMPLES):
            top, left = (max(0, n - SAMPLE) * k // (SAMPLES - 1) for n, k in ((height, i), (width, j)))
            yield slice(top, min(height, top + SAMPLE)), slice(left, min(width, left + SAMPLE))


def tile_within(memory: float, size: tuple[int, int], needs: Appetite, whole: tuple[int, int]) -> int:
    """The side of the largest square tile, in pixels, with which a picture stays within `memory` MiB.

    Counted are the picture and its labels, one tile, the row of tiles that is being put together, and what
    is not given back in between.

    Args:
        memory: MiB.
        size: height and width at which the picture is segmented.
        needs: of the segmenter.
        whole: height and width of the picture itself.

    Raises: ValueError where even the smallest tile takes more; the message says how much.

    >>> tile_within(512, (3000, 4000), Appetite(2048, 21), (3000, 4000))
    256
    >>> tile_within(1024, (3000, 4000), Appetite(2048, 21), (3000, 4000))
    512
    """
    height, width = size

    def need(side: int) -> float:
        high, wide = min(side, height), min(side, width)
        row = 0 if high == height and wide == width else 8 * needs.labels * high * width
        return KEPT + (8 * whole[0] * whole[1] + 3 * height * width + needs.pixel * high * wide + row) / MIB

    side = largest(need, memory, math.ceil(max(height, width) / STEP) * STEP, SMALLEST)
    if need(side) > memory:
        raise ValueError(
            f"memory: expected at least {math.ceil(need(side))} MiB for {width} × {height} pixels in tiles "
            f"of {side}, got {memory:g}; allow more, or a shorter long_side"
        )
    return side


def largest(need: Callable[[int], float], memory: float, side: int, least: int) -> int:
    """The largest side, in steps down from `side`, that needs at most `memory`; it stops at `least`."""
    while side > least and need(side) > memory:
        side -= STEP
    return side
