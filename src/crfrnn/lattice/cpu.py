# SPDX-License-Identifier: MIT
"""The compiled backend: all cores, float32 and float64, the same bits for any number of threads.

Weights and structure keep the valid points in the lattice's own order (native/lattice.hpp), unlike the
reference's.
"""

from __future__ import annotations

import torch
from torch import Tensor

from crfrnn import _native
from crfrnn.lattice import ops, reference
from crfrnn.lattice.quality import Quality
from crfrnn.lattice.samples import Structure, joined, split
from crfrnn.lattice.validate import readable


def can(device: torch.device, method: str, dtype: torch.dtype, dimension: int) -> str | None:
    if device.type == "cpu":
        return None
    return (
        f'backend: "cpu" cannot work on {device.type} tensors; pass backend="reference", '
        "or move them with .cpu()"
    )


def build(features: Tensor, quality: Quality, mask: Tensor | None) -> tuple[Tensor, Structure]:
    """Float[B, N, d] -> barycentric weights Float[P, d+1] of the P valid points, and the table."""
    options = (quality.scale, quality.rings, quality.ring_support, torch.compiler.is_compiling())
    weights, table = ops.operators.build(features, mask, *options)
    return reference.unit_diagonal(weights) if quality.unit_diagonal else weights, (table,)


def filter(values: Tensor, weights: Tensor, structure: Structure, reverse: bool) -> Tensor:
    """Splat, blur along axes 0..d (d..0 when `reverse`), slice, times 1 / (1 + 2^-d)."""
    batch, points, channels = values.shape
    out = ops.operators.filter(values.reshape(batch * points, channels), weights, reverse, structure)
    return out.view(batch, points, channels)


def num_vertices(structure: Structure) -> int:
    return ops.shape_of(structure[0]).vertices


def diagonal(weights: Tensor, structure: Structure) -> Tensor:
    """The operator's own diagonal, Float[B·N] in the caller's order, 0 at masked points."""
    if readable(structure[0]):
        _native.verify(structure[0], len(weights), weights.shape[1])
    table = ops.read_table(*joined(structure))
    corner, rank = (t.repeat_interleave(table.run, 0) for t in (table.corner, table.rank))
    absent = table.neighbour.new_full((len(table.neighbour), 2, 1), table.vertices)
    # The reference counts a step down first, the table a step along n_j.
    neighbour = torch.cat([table.neighbour.flip(1), absent], -1)
    own = reference.diagonal(weights[: len(corner)], (corner, neighbour, rank))
    return split(weights.new_zeros(table.total).index_copy(0, table.order, own), structure)
