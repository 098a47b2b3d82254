# SPDX-License-Identifier: MIT
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportMissingImports=false
# pyright: reportCallIssue=false
"""The exact O(N²) Gaussian filter on the GPU: tiles of rows × tiles of columns, the kernel never in memory.

Used for exact sums of float32 CUDA tensors; `reference.gaussian_sum` is the readable version. Products are
tf32x3, tensor cores at float32 accuracy. The sum over column tiles is compensated (Kahan), so that after
thousands of tiles it is as accurate as for one. No atomics: the same bits in every run.
"""

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from crfrnn.lattice.triton.launch import FUSED, ceil_div, on_device, power_of_2

TILE = 64  # rows and columns of a tile; half the columns where there are two products: no spills


@triton.jit
def _gaussian(queries, sources, row, column, rows, columns, DIM: tl.constexpr, ROWS: tl.constexpr,
              COLUMNS: tl.constexpr):  # fmt: skip
    """exp(-½ |q_i - f_j|²), [ROWS, COLUMNS]: from differences, for accuracy far from the origin."""
    distance = tl.zeros((ROWS, COLUMNS), tl.float32)
    for _ in tl.static_range(DIM):  # advance the pointers: a product of two sizes could overflow 32 bits
        q = tl.load(queries + row, row < rows, other=0)
        f = tl.load(sources + column, column < columns, other=0)
        apart = q[:, None] - f[None, :]
        distance += apart * apart
        queries += rows
        sources += columns
    return tl.exp(-0.5 * distance)


@triton.jit
def _sums(queries, sources, values, out, rows, columns, channels, DIM: tl.constexpr, ROWS: tl.constexpr,
          COLUMNS: tl.constexpr, CHANNELS: tl.constexpr):  # fmt: skip
    """out[b, i, c] = Σ_j exp(-½ |q_i - f_j|²) values[b, j, c]; queries [B, d, M], sources [B, d, N]."""
    blocks = tl.cdiv(rows, ROWS)
    picture = (tl.program_id(0) // blocks).to(tl.int64)
    row = (tl.program_id(0) % blocks).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    wide = channel < channels
    queries += picture * DIM * rows
    sources += picture * DIM * columns
    values += picture * columns * channels
    total = tl.zeros((ROWS, CHANNELS), tl.float32)
    lost = tl.zeros((ROWS, CHANNELS), tl.float32)
    for first in range(0, columns, COLUMNS):
        column = first + tl.arange(0, COLUMNS).to(tl.int64)
        there = (column < columns)[:, None] & wide
        kernel = _gaussian(queries, sources, row, column, rows, columns, DIM, ROWS, COLUMNS)
        value = tl.load(values + column[:, None] * channels + channel, there, other=0)
        part = tl.dot(kernel, value, input_precision="tf32x3") - lost
        grown = total + part
        lost = (grown - total) - part
        total = grown
    at = (picture * rows + row[:, None]) * channels + channel
    tl.store(out + at, total, (row < rows)[:, None] & wide)


@triton.jit
def _pulls(queries, sources, left, right, out, rows, columns, channels, DIM: tl.constexpr, PAD: tl.constexpr,
           ROWS: tl.constexpr, COLUMNS: tl.constexpr, CHANNELS: tl.constexpr):  # fmt: skip
    """out[b, i] = Σ_j exp(-½ |q_i - f_j|²) <left[b, i], right[b, j]> (f_j - q_i)."""
    blocks = tl.cdiv(rows, ROWS)
    picture = (tl.program_id(0) // blocks).to(tl.int64)
    row = (tl.program_id(0) % blocks).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    here, lane = row < rows, tl.arange(0, PAD)[None, :]
    queries += picture * DIM * rows
    sources += picture * DIM * columns
    left += picture * rows * channels
    right += picture * columns * channels
    total = tl.zeros((ROWS, PAD), tl.float32)
    lost = tl.zeros((ROWS, PAD), tl.float32)
    for first in range(0, columns, COLUMNS):
        column = first + tl.arange(0, COLUMNS).to(tl.int64)
        there = column < columns
        dots = tl.zeros((ROWS, COLUMNS), tl.float32)
        for start in range(0, channels, CHANNELS):
            channel = start + tl.arange(0, CHANNELS)
            wide = channel < channels
            mine = tl.load(left + row[:, None] * channels + channel[None, :], here[:, None] & wide[None, :],
                           other=0)  # fmt: skip
            other = tl.load(right + column[None, :] * channels + channel[:, None],
                            wide[:, None] & there[None, :], other=0)  # fmt: skip
            dots += tl.dot(mine, other, input_precision="tf32x3")
        pull = dots * _gaussian(queries, sources, row, column, rows, columns, DIM, ROWS, COLUMNS)
        part = -lost
        query, source = queries, sources
        for k in tl.static_range(DIM):
            q = tl.load(query + row, here, other=0)
            f = tl.load(source + column, there, other=0)
            along = tl.sum(pull * (f[None, :] - q[:, None]), 1)
            part += tl.where(lane == k, along[:, None], 0)
            query += rows
            source += columns
        grown = total + part
        lost = (grown - total) - part
        total = grown
    at = (picture * rows + row[:, None]) * DIM + lane
    tl.store(out + at, total, here[:, None] & (lane < DIM))


def gaussian_sum(features: Tensor, values: Tensor, queries: Tensor) -> Tensor:
    """Float32 [B, N, d], [B, N, C], [B, M, d] -> [B, M, C]."""
    batch, columns, channels = values.shape
    rows, dimension = queries.shape[1:]
    out = values.new_empty(batch, rows, channels)
    if out.numel():
        wide = min(max(power_of_2(channels), 16), 32)  # 64 do not fit in registers
        with on_device(values):
            _sums[(batch * ceil_div(rows, TILE), ceil_div(channels, wide))](
                _lines(queries), _lines(features), values.contiguous(), out, rows, columns, channels,
                DIM=dimension, ROWS=TILE, COLUMNS=TILE, CHANNELS=wide, **FUSED,
            )  # fmt: skip
    return out


def gaussian_pull(queries: Tensor, features: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Float32 [B, M, d], [B, N, d], [B, M, C], [B, N, C] -> Σ_j k_ij <l_i, r_j> (f_j - q_i), [B, M, d]."""
    batch, rows, dimension = queries.shape
    columns, channels = right.shape[1:]
    out = queries.new_empty(queries.shape)
    if out.numel():
        wide = min(max(power_of_2(channels), 16), 32)
        with on_device(queries):
            _pulls[(batch * ceil_div(rows, TILE),)](
                _lines(queries), _lines(features), left.contiguous(), right.contiguous(), out, rows, columns,
                channels, DIM=dimension, PAD=power_of_2(dimension), ROWS=TILE, COLUMNS=TILE // 2,
                CHANNELS=wide, num_warps=4 if dimension <= 8 else 8, **FUSED,
            )  # fmt: skip
    return out


def gaussian_gradients(
    features: Tensor, values: Tensor, queries: Tensor, grad: Tensor, wanted: Sequence[bool]
) -> list[Tensor]:
    """K is symmetric in its two point sets, so each gradient is a forward product with them swapped."""
    none = values.new_empty(0)
    return [
        gaussian_pull(features, queries, values, grad) if wanted[0] else none,
        gaussian_sum(queries, grad, features) if wanted[1] else none,
        gaussian_pull(queries, features, grad, values) if wanted[2] else none,
    ]


def _lines(points: Tensor) -> Tensor:
    """[B, N, d] -> [B, d, N], for coalesced reads."""
    return points.mT.contiguous()
