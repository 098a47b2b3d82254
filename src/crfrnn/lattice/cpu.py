# SPDX-License-Identifier: MIT
"""The compiled backend: all cores, float32 and float64, the same bits for any number of threads.

Its structure is one int32 table (native/lattice.hpp). Unlike in the reference, the table and the barycentric
weights store the valid points in the lattice's own order. Under `torch.compile` the table is padded to a size
that depends only on the shapes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from crfrnn import _native
from crfrnn.lattice.reference import Simplices, axis_groups
from crfrnn.lattice.reference import gaussian_gradients as gaussian_gradients
from crfrnn.lattice.reference import gaussian_sum as gaussian_sum
from crfrnn.lattice.validate import readable

differentiable = False


def can(device: torch.device, method: str, dtype: torch.dtype, dimension: int) -> str | None:
    if device.type == "cpu":
        return None
    return (
        f'backend: "cpu" cannot work on {device.type} tensors; pass backend="reference", '
        "or move them with .cpu()"
    )


def build(
    features: Tensor,
    mask: Tensor | None,
    scale: float,
    rings: int,
    ring_support: int,
    together: int,
    padded: bool,
) -> list[Tensor]:
    """Float[B, N, d] -> barycentric weights Float[P, d+1] of the P valid points, and the table."""
    bits = None if mask is None else mask.to(torch.uint8).contiguous()
    threads = torch.get_num_threads()
    arrays = _native.build(features.contiguous(), bits, scale, rings, ring_support, together, threads)
    weights, table = (torch.from_numpy(array) for array in arrays)
    if padded:
        points, size = features.shape[0] * features.shape[1], features.shape[2]
        whole = weights.new_zeros(points, size + 1)
        whole[: len(weights)] = weights
        room = table.new_empty(_capacity(points, size, rings, together))
        room[: len(table)] = table
        weights, table = whole, room
    return [weights, table]


def fake_build(
    features: Tensor,
    mask: Tensor | None,
    scale: float,
    rings: int,
    ring_support: int,
    together: int,
    padded: bool,
) -> list[Tensor]:
    points: Any = features.shape[0] * features.shape[1]
    size = features.shape[2]
    if padded:
        words = _capacity(points, size, rings, together)
    else:
        context = torch.library.get_ctx()
        words = context.new_dynamic_size(min=16)
        if mask is not None:
            points = context.new_dynamic_size(min=0)
    return [features.new_empty(points, size + 1), features.new_empty(words, dtype=torch.int32)]


def _capacity(points: Any, dimension: int, rings: int, together: int) -> Any:
    """Words of the largest possible table for these points, in which every corner is a separate vertex."""
    corners = dimension + 1
    simplex_words = 1 + corners + (corners + 3) // 4
    vertices = points * corners * (1 + 2 * corners) ** rings
    axes = axis_groups(dimension, together)
    if len(axes) == corners:
        neighbours = 2 * corners * vertices + 2 * (dimension - 1) * vertices  # and their chains
    else:  # links, their masks, and the first link of every slab
        neighbours = sum(3 ** len(group) + 1 for group in axes) * vertices + 1
    return 17 + points * (1 + simplex_words) + neighbours + 2 * (vertices + 1)


def filter(values: Tensor, weights: Tensor, reverse: bool, *structure: Tensor) -> Tensor:
    """Splat, blur the groups of axes in turn (reversed if `reverse`), slice, times 1 / (1 + 2^-d)."""
    (table,) = structure
    values = values.contiguous()
    out = torch.empty_like(values)
    _native.filter(values, weights.contiguous(), table, reverse, torch.get_num_threads(), out)
    return out


def weight_gradient(x: Tensor, g: Tensor, weights: Tensor, *structure: Tensor) -> Tensor:
    (table,) = structure
    out = torch.zeros_like(weights)
    _native.weight_gradient(
        x.contiguous(), g.contiguous(), weights.contiguous(), table, torch.get_num_threads(), out
    )
    return out


def feature_gradient(grad_weights: Tensor, features: Tensor, scale: float, *structure: Tensor) -> Tensor:
    (table,) = structure
    out = features.new_empty(features.shape)
    flat = out.view(-1, features.shape[-1])
    _native.feature_gradient(grad_weights.contiguous(), table, torch.get_num_threads(), flat)
    return out


def num_vertices(*structure: Tensor) -> int:
    return _shape(*structure).vertices


def simplices(*structure: Tensor, weights: Tensor | None = None) -> Simplices:
    (table,) = structure
    if weights is not None and readable(table):
        _native.verify(table, len(weights), weights.shape[1])
    shape = _shape(table)
    size, count, vertices = shape.dim + 1, shape.simplices, shape.vertices
    _, order, start, corner, rank, neighbour, *_, mask, link, _ = table[: sum(shape.parts)].split(shape.parts)
    run = start.diff().long()  # points of each simplex
    if shape.together > 1:
        neighbour = _linked(axis_groups(shape.dim, shape.together), mask, link, vertices)
    else:  # the reference stores a step down first, the table a step along n_j
        neighbour = neighbour.view(size, 2, vertices).flip(1)
    absent = table.new_full((*neighbour.shape[:2], 1), vertices)
    return Simplices(
        corner.view(count, size).repeat_interleave(run, 0),
        torch.cat([neighbour, absent], -1),
        rank.contiguous().view(torch.uint8)[: count * size].view(count, size).repeat_interleave(run, 0),
        shape.total,
        order.long(),
    )


def _linked(axes: list[range], mask: Tensor, link: Tensor, vertices: int) -> Tensor:
    """The vertex at each offset of each group, Int32[groups, offsets, M], from the table's links."""
    offsets = 3 ** len(axes[0]) - 1
    there = (mask.view(len(axes), vertices, 1) >> torch.arange(1, offsets + 1)) & 1
    found = mask.new_full(there.shape, vertices)
    found[there.bool()] = link  # both are ordered by group, vertex and offset
    return found.transpose(1, 2)


def _shape(table: Tensor) -> _native.TableShape:
    return _native.TableShape(table[: _native.header_words].tolist())
