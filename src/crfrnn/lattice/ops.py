# SPDX-License-Identifier: MIT
"""The compiled lattice as torch operators: schemas, implementations, fakes, gradients, batching rules.

A structure is one int32 table (native/lattice.hpp). It and the barycentric weights keep the points in the
lattice's own order; values come and go in the caller's. Under `torch.compile` the table is padded to a size
that the shapes alone give.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from crfrnn import _native
from crfrnn.lattice.derivatives import Operators
from crfrnn.lattice.samples import Structure

_library = torch.library.Library("crfrnn", "DEF")

_library.define(
    "lattice_build(Tensor features, Tensor? mask, float scale, int rings, int ring_support, bool padded)"
    " -> (Tensor, Tensor)"
)
_library.define("lattice_filter(Tensor values, Tensor weights, bool reverse, Tensor table) -> Tensor")
_library.define("lattice_weight_gradient(Tensor x, Tensor g, Tensor weights, Tensor table) -> Tensor")
_library.define(
    "lattice_feature_gradient(Tensor grad_weights, Tensor features, float scale, Tensor table) -> Tensor"
)


class Table(NamedTuple):
    """The parts of a table that Python reads, see native/lattice.hpp."""

    total: int  # points, masked ones included
    vertices: int
    order: Tensor  # [P] sorted position -> point
    run: Tensor  # [S] points of each simplex
    corner: Tensor  # [S, d+1]
    rank: Tensor  # [S, d+1]
    neighbour: Tensor  # [d+1, 2, M]


def shape_of(table: Tensor) -> _native.TableShape:
    return _native.TableShape(table[: _native.header_words].tolist())


def read_table(table: Tensor) -> Table:
    shape = shape_of(table)
    size, vertices = shape.dim + 1, shape.vertices
    _, order, start, corner, rank, neighbour, *_ = table[: sum(shape.parts)].split(shape.parts)
    return Table(
        shape.total,
        vertices,
        order.long(),
        start.diff().long(),
        corner.long().view(-1, size),
        rank.contiguous().view(torch.uint8)[: shape.simplices * size].long().view(-1, size),
        neighbour.long().view(size, 2, vertices),
    )


# Implementations


def _build(
    features: Tensor, mask: Tensor | None, scale: float, rings: int, ring_support: int, padded: bool
) -> tuple[Tensor, Tensor]:
    bits = None if mask is None else mask.to(torch.uint8).contiguous()
    threads = torch.get_num_threads()
    arrays = _native.build(features.contiguous(), bits, scale, rings, ring_support, threads)
    weights, table = (torch.from_numpy(array) for array in arrays)
    if padded:
        points, size = features.shape[0] * features.shape[1], features.shape[2]
        whole = weights.new_zeros(points, size + 1)
        whole[: len(weights)] = weights
        room = table.new_empty(_capacity(points, size, rings))
        room[: len(table)] = table
        weights, table = whole, room
    return weights, table


def _filter(values: Tensor, weights: Tensor, reverse: bool, table: Tensor) -> Tensor:
    values = values.contiguous()
    out = torch.empty_like(values)
    _native.filter(values, weights.contiguous(), table, reverse, torch.get_num_threads(), out)
    return out


def _weight_gradient(x: Tensor, g: Tensor, weights: Tensor, table: Tensor) -> Tensor:
    out = torch.zeros_like(weights)
    _native.weight_gradient(
        x.contiguous(), g.contiguous(), weights.contiguous(), table, torch.get_num_threads(), out
    )
    return out


def _feature_gradient(grad_weights: Tensor, features: Tensor, scale: float, table: Tensor) -> Tensor:
    out = features.new_empty(features.shape)
    flat = out.view(-1, features.shape[-1])
    _native.feature_gradient(grad_weights.contiguous(), table, torch.get_num_threads(), flat)
    return out


for _name, _function in (
    ("lattice_build", _build),
    ("lattice_filter", _filter),
    ("lattice_weight_gradient", _weight_gradient),
    ("lattice_feature_gradient", _feature_gradient),
):
    _library.impl(_name, _function, "CPU")


# Fakes


def _capacity(points: Any, dimension: int, rings: int) -> Any:
    """Words of the largest table that these points can need: every corner a vertex of its own."""
    corners = dimension + 1
    simplex_words = 1 + corners + (corners + 3) // 4
    vertices = points * corners * (1 + 2 * corners) ** rings
    neighbours = 2 * corners * vertices + 2 * (dimension - 1) * vertices  # and the chains of them
    return 17 + points * (1 + simplex_words) + neighbours + 2 * (vertices + 1)


@torch.library.register_fake("crfrnn::lattice_build")
def _(features, mask, scale, rings, ring_support, padded):
    points, size = features.shape[0] * features.shape[1], features.shape[2]
    if padded:
        words = _capacity(points, size, rings)
    else:
        context = torch.library.get_ctx()
        words = context.new_dynamic_size(min=16)
        if mask is not None:
            points = context.new_dynamic_size(min=0)
    return features.new_empty(points, size + 1), features.new_empty(words, dtype=torch.int32)


@torch.library.register_fake("crfrnn::lattice_filter")
def _(values, weights, reverse, table):
    return torch.empty_like(values, memory_format=torch.contiguous_format)


@torch.library.register_fake("crfrnn::lattice_weight_gradient")
def _(x, g, weights, table):
    return torch.zeros_like(weights)


@torch.library.register_fake("crfrnn::lattice_feature_gradient")
def _(grad_weights, features, scale, table):
    return features.new_empty(features.shape)


# Derivatives and batching rules


def _ranks(structure: Structure) -> tuple[Tensor, Tensor]:
    table = read_table(structure[0])
    return table.rank.repeat_interleave(table.run, 0), table.order


operators = Operators("", _ranks)
operators.register(_library)
