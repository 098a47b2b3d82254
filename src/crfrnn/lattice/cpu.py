# SPDX-License-Identifier: MIT
"""The compiled backend: all cores, float32 and float64, bit-identical from run to run and for any number of threads.

Weights and structure keep the valid points in the lattice's own order (native/lattice.hpp), unlike the reference's.
"""

from __future__ import annotations

import torch
from torch import Tensor

from crfrnn.lattice import ops  # noqa: F401  registers torch.ops.crfrnn
from crfrnn.lattice import reference
from crfrnn.lattice.quality import Quality

Structure = tuple[Tensor, ...]
_TOTAL = 8  # word of the table that holds the number of points, masked ones included
_VERTICES = 6


def build(features: Tensor, quality: Quality, mask: Tensor | None) -> tuple[Tensor, Structure]:
    """Float[B, N, d] -> barycentric weights Float[P, d+1] of the P valid points, and the table of the structure."""
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
    """The operator's own diagonal in the caller's order, 0 at masked points, Float[B·N]; as the reference has it."""
    view = _view(structure[0])
    count = view["vertices"]
    corner = view["corner"].repeat_interleave(view["run"], 0)
    rank = view["rank"].repeat_interleave(view["run"], 0)
    absent = torch.full((*view["neighbour"].shape[:2], 1), count, dtype=torch.long)
    # The reference counts a step down first, the table a step along n_j.
    neighbour = torch.cat([view["neighbour"].flip(1), absent], -1)
    own = reference.diagonal(weights[: len(corner)], (corner, neighbour, rank))
    return weights.new_zeros(view["total"]).index_copy(0, view["order"], own)


def _view(table: Tensor) -> dict[str, Tensor | int]:
    """The parts of a table, see native/lattice.hpp."""
    head = table[:16].tolist()
    size, points, simplices, vertices = head[1] + 1, head[4], head[5], head[6]
    at = 16
    parts: dict[str, Tensor | int] = {"vertices": vertices, "total": head[_TOTAL]}
    words = {
        "order": points,
        "start": simplices + 1,
        "corner": simplices * size,
        "rank": (simplices * size + 3) // 4,
        "neighbour": 2 * size * vertices,
    }
    for name, count in words.items():
        parts[name] = table[at : at + count]
        at += count
    start, rank = parts["start"], parts["rank"]
    assert isinstance(start, Tensor) and isinstance(rank, Tensor)
    parts["run"] = start.diff().long()
    parts["order"] = parts["order"].long()  # pyright: ignore[reportAttributeAccessIssue]
    parts["corner"] = parts["corner"].long().view(-1, size)  # pyright: ignore[reportAttributeAccessIssue]
    parts["rank"] = rank.contiguous().view(torch.uint8)[: simplices * size].long().view(-1, size)
    parts["neighbour"] = parts["neighbour"].long().view(size, 2, vertices)  # pyright: ignore[reportAttributeAccessIssue]
    return parts
