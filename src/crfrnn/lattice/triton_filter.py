# SPDX-License-Identifier: MIT
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportMissingImports=false
"""Splat, blur and slice on the GPU, and the gradient of the weights: no atomics, the same bits in every run.

Rows of lattice values are padded to whole sectors of 32 bytes. Every sum runs in one fixed order: a splat
goes through the corners sorted by vertex, piece by piece (`triton_build.build`). Half types are loaded as
they are, summed in float32. Nothing here waits for the device: a CUDA graph can hold it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from crfrnn.lattice.triton_launch import FUSED, block, ceil_div, on_device, power_of_2

CHANNELS = 32  # columns of one program; more channels are more programs


class Structure(NamedTuple):
    """Where the corners lie, see `triton_build.build`."""

    corner: Tensor
    rank: Tensor
    neighbour: Tensor
    order: Tensor
    bounds: tuple[Tensor, Tensor, Tensor]

    @staticmethod
    def of(tensors: Sequence[Tensor]) -> Structure:
        """From the seven tensors of a lattice's structure."""
        corner, rank, neighbour, order, first, second, third = tensors
        return Structure(corner, rank, neighbour, order, (first, second, third))

    @property
    def size(self) -> int:
        return self.corner.shape[1]

    @property
    def vertices(self) -> int:
        return self.neighbour.shape[2] - 1


# What the data give is not specialised: no new compilation where a number happens to be a multiple of 16.
@triton.jit(do_not_specialize=["rows"])
def _sum_pieces(values, out, order, share, bounds, rows, channels, stride, out_stride, SIZE: tl.constexpr,
                FIRST: tl.constexpr, BLOCK: tl.constexpr, COLUMNS: tl.constexpr):  # fmt: skip
    """out[i] = Σ over bounds[i] .. bounds[i+1], one after the other: of shares of points, or of rows."""
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    here, wide = row < rows, column < channels
    begin = tl.load(bounds + row, here, other=0)
    length = tl.load(bounds + row + 1, here, other=0) - begin
    total = tl.zeros((BLOCK, COLUMNS), out.dtype.element_ty)
    for k in range(tl.max(length, 0)):
        live = k < length
        if FIRST:
            source = tl.load(order + begin + k, live, other=0).to(tl.int64) // SIZE
            part = tl.load(share + begin + k, live, other=0)
        else:
            source, part = begin + k, live.to(total.dtype)
        value = tl.load(values + source[:, None] * stride + column, live[:, None] & wide, other=0)
        total += part[:, None] * value.to(total.dtype)
    tl.store(out + row[:, None] * out_stride + column, total, here[:, None] & (column < out_stride))


@triton.jit(do_not_specialize=["axis", "vertices"])
def _blur(lattice, out, neighbour, axis, vertices, stride, BLOCK: tl.constexpr, COLUMNS: tl.constexpr):
    """out = v + ½ (down + up) along one axis; a missing vertex holds 0."""
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    here, wide = row < vertices, column < stride
    neighbour += 2 * axis.to(tl.int64) * (vertices.to(tl.int64) + 1) + row
    down = tl.load(neighbour, here, other=vertices).to(tl.int64)
    up = tl.load(neighbour + vertices + 1, here, other=vertices).to(tl.int64)
    both = tl.load(lattice + down[:, None] * stride + column, (down < vertices)[:, None] & wide, other=0)
    both += tl.load(lattice + up[:, None] * stride + column, (up < vertices)[:, None] & wide, other=0)
    at = row[:, None] * stride + column
    mine = tl.load(lattice + at, here[:, None] & wide, other=0)
    tl.store(out + at, mine + 0.5 * both, here[:, None] & wide)


@triton.jit(do_not_specialize=["vertices"])
def _slice(lattice, out, weights, corner, points, vertices, channels, stride, out_stride,
           SIZE: tl.constexpr, BLOCK: tl.constexpr, COLUMNS: tl.constexpr):  # fmt: skip
    """out[p] = 1 / (1 + 2^-d) Σ_r w[p, r] lattice[corner[p, r]]."""
    ways: tl.constexpr = 2 ** (SIZE - 1)  # a float argument would arrive in float32
    point = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    here, wide = point < points, column < channels
    total = tl.zeros((BLOCK, COLUMNS), lattice.dtype.element_ty)
    for r in tl.static_range(SIZE):
        vertex = tl.load(corner + point * SIZE + r, here, other=vertices).to(tl.int64)
        weight = tl.load(weights + point * SIZE + r, here, other=0)
        value = tl.load(
            lattice + vertex[:, None] * stride + column, (vertex < vertices)[:, None] & wide, other=0
        )
        total += weight[:, None] * value
    tl.store(out + point[:, None] * out_stride + column, total * ways / (ways + 1), here[:, None] & wide)


@triton.jit(do_not_specialize=["vertices"])
def _corner_dots(values, lattice, out, corner, scale, points, vertices, channels, values_stride, stride,
                 SIZE: tl.constexpr, ADD: tl.constexpr, SCALED: tl.constexpr, BLOCK: tl.constexpr,
                 COLUMNS: tl.constexpr):  # fmt: skip
    """out[p, r] (+)= scale[p] / (1 + 2^-d) Σ_c values[p, c] lattice[corner[p, r], c]."""
    ways: tl.constexpr = 2 ** (SIZE - 1)
    point = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    here = point < points
    for r in tl.static_range(SIZE):
        vertex = tl.load(corner + point * SIZE + r, here, other=vertices).to(tl.int64)
        there = vertex < vertices
        total = tl.zeros((BLOCK, COLUMNS), lattice.dtype.element_ty)
        for first in range(0, channels, COLUMNS):
            column = first + tl.arange(0, COLUMNS)[None, :]
            wide = column < channels
            mine = tl.load(values + point[:, None] * values_stride + column, here[:, None] & wide, other=0)
            value = tl.load(lattice + vertex[:, None] * stride + column, there[:, None] & wide, other=0)
            total += mine.to(total.dtype) * value
        dot = tl.sum(total, 1) * ways / (ways + 1)
        if SCALED:
            dot *= tl.load(scale + point, here, other=0)
        if ADD:
            dot += tl.load(out + point * SIZE + r, here, other=0)
        tl.store(out + point * SIZE + r, dot, here)


def shares(weights: Tensor, structure: Structure) -> Tensor:
    """The weights in the order in which the splat sums."""
    return weights.reshape(-1).index_select(0, structure.order)


def room(rows: int, channels: int, like: Tensor) -> Tensor:
    """Uninitialised rows, padded to whole sectors."""
    sector = 32 // like.element_size()
    return like.new_empty(rows, ceil_div(channels, sector) * sector)


def spread(values: Tensor, share: Tensor, structure: Structure, reverse: bool) -> Tensor:
    """Splat and blur: [P, C] in any float type, rows contiguous -> rows [M, ≥ C] in the weights' type."""
    return blur(splat(values, share, structure), structure, reverse)


def splat(values: Tensor, share: Tensor, structure: Structure) -> Tensor:
    """Every vertex' sum over its corners, pass by pass, each in room of its own: two are held at most."""
    if not structure.vertices:
        return room(0, values.shape[1], share)
    channels = values.shape[1]
    for number, table in enumerate(table for table in structure.bounds if len(table)):
        count = len(table) - 1
        out, high = room(count, channels, share), block(32, count)
        grid, columns = _across(out)
        _sum_pieces[(ceil_div(count, high), grid)](
            values, out, structure.order, share, table, count, channels, values.stride(0), out.stride(0),
            SIZE=structure.size, FIRST=number == 0, BLOCK=high, COLUMNS=columns, **FUSED,
        )  # fmt: skip
        values, channels = out, out.shape[1]
    return values


def blur(rows: Tensor, structure: Structure, reverse: bool) -> Tensor:
    """Along axes 0..d, d..0 when `reverse`; what `rows` held is lost."""
    if not structure.vertices:
        return rows
    other, high = torch.empty_like(rows), block(32, structure.vertices)
    grid, columns = _across(rows)
    axes = range(structure.size)
    for axis in reversed(axes) if reverse else axes:
        _blur[(ceil_div(structure.vertices, high), grid)](
            rows, other, structure.neighbour, axis, structure.vertices, rows.stride(0), BLOCK=high,
            COLUMNS=columns, **FUSED,
        )  # fmt: skip
        rows, other = other, rows
    return rows


def _across(rows: Tensor) -> tuple[int, int]:
    """Programs over the columns of padded rows, and how many columns each works on."""
    columns = min(power_of_2(rows.shape[1]), CHANNELS)
    return ceil_div(rows.shape[1], columns), columns


def gather(rows: Tensor, weights: Tensor, structure: Structure, channels: int) -> Tensor:
    """Slice: lattice rows -> [P, C]."""
    points = len(weights)
    out = rows.new_empty(points, channels)
    high, columns = block(32, points), min(power_of_2(channels), CHANNELS)
    if out.numel():
        _slice[(ceil_div(points, high), ceil_div(channels, columns))](
            rows, out, weights, structure.corner, points, structure.vertices, channels, rows.stride(0),
            out.stride(0), SIZE=structure.size, BLOCK=high, COLUMNS=columns, **FUSED,
        )  # fmt: skip
    return out


def corner_dots(
    values: Tensor, rows: Tensor, structure: Structure, out: Tensor, add: bool, scale: Tensor | None = None
) -> None:
    """out[p, r] (+)= scale[p] / (1 + 2^-d) <values[p], rows[corner[p, r]]>."""
    points, channels = values.shape
    high = block(32, points)
    _corner_dots[(ceil_div(points, high),)](
        values, rows, out, structure.corner, out if scale is None else scale, points, structure.vertices,
        channels, values.stride(0), rows.stride(0), SIZE=structure.size, ADD=add,
        SCALED=scale is not None, BLOCK=high, COLUMNS=min(power_of_2(channels), CHANNELS),
        **FUSED,
    )  # fmt: skip


def filter(values: Tensor, weights: Tensor, structure: Structure, reverse: bool) -> Tensor:
    """[P, C] -> [P, C]: splat, blur along axes 0..d (d..0 when `reverse`), slice, times 1 / (1 + 2^-d)."""
    values, weights = values.contiguous(), weights.contiguous()
    if not values.numel():
        return torch.empty_like(values, dtype=weights.dtype)
    with on_device(values):
        rows = spread(values, shares(weights, structure), structure, reverse)
        return gather(rows, weights, structure, values.shape[1])


def weight_gradient(x: Tensor, g: Tensor, weights: Tensor, structure: Structure) -> Tensor:
    """d<g, filter(x)>/dw: the splat's part from what the adjoint left at the corners, and the slice's own."""
    x, g, weights = x.contiguous(), g.contiguous(), weights.contiguous()
    out = torch.zeros_like(weights)
    if x.numel():
        with on_device(x):
            share = shares(weights, structure)
            corner_dots(g, spread(x, share, structure, False), structure, out, add=False)
            corner_dots(x, spread(g, share, structure, True), structure, out, add=True)
    return out
