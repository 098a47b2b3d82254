# SPDX-License-Identifier: MIT
"""The compiled backend: all cores, float32 and float64, the same bits for any number of threads.

Weights and structure keep the valid points in the lattice's own order (native/lattice.hpp), unlike the
reference's.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from crfrnn import _native
from crfrnn.lattice import (
    ops,  # noqa: F401  registers torch.ops.crfrnn
    reference,
)
from crfrnn.lattice.quality import Quality
from crfrnn.lattice.validate import readable

Structure = tuple[Tensor, ...]
_TOTAL = 8  # word of the table that holds the number of points, masked ones included
_VERTICES = 6


def build(features: Tensor, quality: Quality, mask: Tensor | None) -> tuple[Tensor, Structure]:
    """Float[B, N, d] -> barycentric weights Float[P, d+1] of the P valid points, and the table."""
    weights, table = torch.ops.crfrnn.lattice_build(
        features,
        mask,
        quality.scale,
        quality.rings,
        quality.ring_support,
        torch.compiler.is_compiling(),
    )
    return reference.unit_diagonal(weights) if quality.unit_diagonal else weights, (table,)


def filter(values: Tensor, weights: Tensor, structure: Structure, reverse: bool) -> Tensor:
    """Splat, blur along axes 0..d (d..0 when `reverse`), slice, times 1 / (1 + 2^-d)."""
    batch, points, channels = values.shape
    out = torch.ops.crfrnn.lattice_filter(
        values.reshape(batch * points, channels), weights, structure[0], reverse
    )
    return out.view(batch, points, channels)


def num_vertices(structure: Structure) -> int:
    return int(structure[0][_VERTICES])


def diagonal(weights: Tensor, structure: Structure) -> Tensor:
    """The operator's own diagonal, Float[B·N] in the caller's order, 0 at masked points."""
    if readable(structure[0]):
        _native.verify(structure[0], len(weights), weights.shape[1])
    table = _read(structure[0])
    corner, rank = (t.repeat_interleave(table.run, 0) for t in (table.corner, table.rank))
    absent = table.neighbour.new_full((len(table.neighbour), 2, 1), table.vertices)
    # The reference counts a step down first, the table a step along n_j.
    neighbour = torch.cat([table.neighbour.flip(1), absent], -1)
    own = reference.diagonal(weights[: len(corner)], (corner, neighbour, rank))
    return weights.new_zeros(table.total).index_copy(0, table.order, own)


class _Table(NamedTuple):
    """The parts of a table that Python reads, see native/lattice.hpp."""

    total: int
    vertices: int
    order: Tensor  # [P] sorted position -> point
    run: Tensor  # [S] points of each simplex
    corner: Tensor  # [S, d+1]
    rank: Tensor  # [S, d+1]
    neighbour: Tensor  # [d+1, 2, M]


def _read(table: Tensor) -> _Table:
    head = table[:16].tolist()
    size, points, simplices, vertices = head[1] + 1, head[4], head[5], head[_VERTICES]
    words = (points, simplices + 1, simplices * size, (simplices * size + 3) // 4, 2 * size * vertices)
    order, start, corner, rank, neighbour = table[16 : 16 + sum(words)].split(words)
    return _Table(
        head[_TOTAL],
        vertices,
        order.long(),
        start.diff().long(),
        corner.long().view(simplices, size),
        rank.contiguous().view(torch.uint8)[: simplices * size].long().view(simplices, size),
        neighbour.long().view(size, 2, vertices),
    )
