# SPDX-License-Identifier: MIT
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportMissingImports=false
"""The passes of a filter on the GPU: pieces of a splat, blurs, slice, dot products at the corners.

Rows of lattice values are padded with zeros to whole sectors of 32 bytes, SECTOR numbers each. A kernel
receives the number of sectors of a row and reads the entire row: the compiler can then infer that rows begin
and end at multiples of 16 bytes, and loads four numbers at once.
"""

from __future__ import annotations

import triton
import triton.language as tl

TOGETHER = tl.constexpr(4)  # entries of a sum loaded before the first is used


# Data-dependent arguments are not specialised, to avoid recompiling where one is a multiple of 16.
@triton.jit(do_not_specialize=["rows"])
def sum_pieces(values, out, order, share, bounds, rows, channels, stride, sectors, SIZE: tl.constexpr,
               FIRST: tl.constexpr, PADDED: tl.constexpr, SECTOR: tl.constexpr, BLOCK: tl.constexpr,
               COLUMNS: tl.constexpr):  # fmt: skip
    """out[i] = Σ over bounds[i] .. bounds[i+1], in sequence: weighted points if FIRST, else rows.

    PADDED: the summands also have rows of `sectors`, like those of a previous pass.
    """
    width = sectors * SECTOR
    if PADDED:
        stride, channels = width, width
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    here, wide = row < rows, column < channels
    begin = tl.load(bounds + row, here, other=0)
    length = tl.load(bounds + row + 1, here, other=0) - begin
    total = tl.zeros((BLOCK, COLUMNS), out.dtype.element_ty)
    for first in range(0, tl.max(length, 0), TOGETHER):
        for k in tl.static_range(TOGETHER):
            live = first + k < length
            source = begin + first + k
            if FIRST:
                source = tl.load(order + source, live, other=0).to(tl.int64) // SIZE
            value = tl.load(values + source[:, None] * stride + column, live[:, None] & wide, other=0)
            value = value.to(total.dtype)
            if FIRST:
                value *= tl.load(share + begin + first + k, live, other=0)[:, None]
            total += value
    tl.store(out + row[:, None] * width + column, total, here[:, None] & (column < width))


@triton.jit(do_not_specialize=["axis", "vertices"])
def blur_axis(lattice, out, neighbour, axis, vertices, sectors, SECTOR: tl.constexpr, BLOCK: tl.constexpr,
              COLUMNS: tl.constexpr):  # fmt: skip
    """out = v + ½ (down + up) along one axis; a missing vertex holds 0."""
    stride = sectors * SECTOR
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


@triton.jit(do_not_specialize=["group", "vertices"])
def blur_group(lattice, out, neighbour, group, vertices, sectors, OFFSETS: tl.constexpr,
               SECTOR: tl.constexpr, BLOCK: tl.constexpr, COLUMNS: tl.constexpr):  # fmt: skip
    """out = v + Σ 2^-m v_n over the offsets n of a group (`axis_offsets`); n moves along m axes."""
    stride = sectors * SECTOR
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    here, wide = row < vertices, column < stride
    neighbour += OFFSETS * group.to(tl.int64) * (vertices.to(tl.int64) + 1) + row
    at = row[:, None] * stride + column
    total = tl.load(lattice + at, here[:, None] & wide, other=0)
    for n in tl.static_range(1, OFFSETS + 1):
        there = tl.load(neighbour, here, other=vertices).to(tl.int64)
        value = tl.load(
            lattice + there[:, None] * stride + column, (there < vertices)[:, None] & wide, other=0
        )
        divisor = tl.constexpr(2 ** ((n % 3 > 0) + (n // 3 % 3 > 0) + (n // 9 > 0)))
        total += value / divisor
        neighbour += vertices.to(tl.int64) + 1
    tl.store(out + at, total, here[:, None] & wide)


@triton.jit(do_not_specialize=["vertices"])
def slice_rows(lattice, out, weights, corner, points, vertices, channels, sectors, out_stride,
               SIZE: tl.constexpr, SECTOR: tl.constexpr, BLOCK: tl.constexpr,
               COLUMNS: tl.constexpr):  # fmt: skip
    """out[p] = 1 / (1 + 2^-d) Σ_r w[p, r] lattice[corner[p, r]]."""
    stride = sectors * SECTOR
    ways: tl.constexpr = 2 ** (SIZE - 1)  # a float argument would be passed as float32
    point = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    here, wide = point < points, column < stride
    total = tl.zeros((BLOCK, COLUMNS), lattice.dtype.element_ty)
    for r in tl.static_range(SIZE):
        vertex = tl.load(corner + point * SIZE + r, here, other=vertices).to(tl.int64)
        weight = tl.load(weights + point * SIZE + r, here, other=0)
        value = tl.load(
            lattice + vertex[:, None] * stride + column, (vertex < vertices)[:, None] & wide, other=0
        )
        total += weight[:, None] * value
    inside = here[:, None] & (column < channels)
    tl.store(out + point[:, None] * out_stride + column, total * ways / (ways + 1), inside)


@triton.jit(do_not_specialize=["vertices"])
def corner_dots(values, lattice, out, corner, scale, points, vertices, channels, values_stride, sectors,
                SIZE: tl.constexpr, ADD: tl.constexpr, SCALED: tl.constexpr, SECTOR: tl.constexpr,
                BLOCK: tl.constexpr, COLUMNS: tl.constexpr):  # fmt: skip
    """out[p, r] (+)= scale[p] / (1 + 2^-d) Σ_c values[p, c] lattice[corner[p, r], c]."""
    stride = sectors * SECTOR
    ways: tl.constexpr = 2 ** (SIZE - 1)
    point = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    here = point < points
    for r in tl.static_range(SIZE):
        vertex = tl.load(corner + point * SIZE + r, here, other=vertices).to(tl.int64)
        there = vertex < vertices
        total = tl.zeros((BLOCK, COLUMNS), lattice.dtype.element_ty)
        for first in range(0, channels, COLUMNS):
            column = first + tl.arange(0, COLUMNS)[None, :]
            inside = here[:, None] & (column < channels)
            mine = tl.load(values + point[:, None] * values_stride + column, inside, other=0)
            wide = there[:, None] & (column < stride)
            value = tl.load(lattice + vertex[:, None] * stride + column, wide, other=0)
            total += mine.to(total.dtype) * value
        dot = tl.sum(total, 1) * ways / (ways + 1)
        if SCALED:
            dot *= tl.load(scale + point, here, other=0)
        if ADD:
            dot += tl.load(out + point * SIZE + r, here, other=0)
        tl.store(out + point * SIZE + r, dot, here)
