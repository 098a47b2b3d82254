# SPDX-License-Identifier: MIT
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportMissingImports=false
# pyright: reportCallIssue=false, reportAssignmentType=false
"""Kernels of mean field on the GPU: start, one iteration's pixels, its derivative, a band of a Gaussian.

Planes are [B, L, N], the caller's layout; rows are [B·N, stride], with all labels of a pixel contiguous. A
program processes all labels of a block of pixels: for up to 32 labels, slice, compatibility and softmax stay
in registers. Products are tf32x3: tensor cores at float32 accuracy, with a quarter of the registers of plain
float32 products.
"""

from __future__ import annotations

import triton
import triton.language as tl

CUT = 6.5  # bandwidths: exp(-½ 6.5²) is 7e-10, below float32's rounding of the sum


@triton.jit
def _normalised(x, pixel, here, label, labels, mask, clamp, MASKED: tl.constexpr, CLAMPED: tl.constexpr):
    """Softmax over the labels; one-hot at clamped pixels, 0 at masked ones."""
    x = tl.where(label < labels, x, float("-inf"))
    e = tl.exp(x - tl.max(x, 1)[:, None])
    q = e / tl.sum(e, 1)[:, None]
    if CLAMPED:
        known = tl.load(clamp + pixel, here, other=-1)[:, None]
        q = tl.where(known >= 0, (known == label).to(q.dtype), q)
    if MASKED:
        q = tl.where(tl.load(mask + pixel, here, other=0)[:, None] != 0, q, 0)
    return tl.where(label < labels, q, 0)


@triton.jit
def start_kernel(x, q, bad, mask, clamp, points, labels, stride, total, PADDED: tl.constexpr,
                 MASKED: tl.constexpr, CLAMPED: tl.constexpr, SECTOR: tl.constexpr, BLOCK: tl.constexpr,
                 LABELS: tl.constexpr):  # fmt: skip
    """Q of the start, from planes to rows, and whether this block holds NaN or infinity outside the mask."""
    if PADDED:
        stride = stride // SECTOR * SECTOR  # a hint for the compiler
    pixel = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    label = tl.arange(0, LABELS)[None, :]
    here = pixel < total
    inside = here[:, None] & (label < labels)
    plane = (pixel // points * labels * points + pixel % points)[:, None] + label.to(tl.int64) * points
    value = tl.load(x + plane, inside, other=0)
    odd = tl.abs(value) == float("inf")
    odd = odd | (value != value)
    if MASKED:
        odd = odd & (tl.load(mask + pixel, here, other=0)[:, None] != 0)
    tl.store(bad + tl.program_id(0), tl.max(tl.max(odd.to(tl.int32), 1), 0))
    out = _normalised(value, pixel, here, label, labels, mask, clamp, MASKED, CLAMPED)
    tl.store(q + pixel[:, None] * stride + label, out, here[:, None] & (label < stride))


@triton.jit
def _mixed(rows, scale, transform, pixel, here, labels, senders, stride, SCALED: tl.constexpr,
           BLOCK: tl.constexpr, LABELS: tl.constexpr, STEP: tl.constexpr):  # fmt: skip
    """A message with `scale` applied first, STEP senders at a time: all of A would not fit in registers."""
    label = tl.arange(0, LABELS)[None, :]
    total = tl.zeros((BLOCK, LABELS), tl.float32)
    for first in range(0, senders, STEP):
        source = first + tl.arange(0, STEP)
        there = here[:, None] & (source[None, :] < senders)
        message = tl.load(rows + pixel[:, None] * stride + source[None, :], there, other=0)
        if SCALED:
            message *= tl.load(scale + pixel, here, other=0)[:, None]
        square = (label < labels) & (source[:, None] < senders)
        part = tl.load(transform + label * senders + source[:, None], square, other=0)  # rows of Aᵀ
        total += tl.dot(message, part, input_precision="tf32x3")
    return total


@triton.jit(do_not_specialize=["senders", "vertices"])  # data-dependent
def update_kernel(unary, x, q, extra, lattice, weights, corner, lattice_scale, lattice_transform, dense,
                  dense_scale, dense_transform, mask, clamp, points, labels, senders, stride, sent_stride,
                  lattice_stride, vertices, total, damping, SIZE: tl.constexpr, LATTICE: tl.constexpr,
                  SLICED: tl.constexpr, LATTICE_SCALED: tl.constexpr, DENSE: tl.constexpr,
                  DENSE_SCALED: tl.constexpr, EXTRA: tl.constexpr, MASKED: tl.constexpr,
                  CLAMPED: tl.constexpr, DAMPED: tl.constexpr, WRITE_X: tl.constexpr,
                  WRITE_Q: tl.constexpr, PADDED: tl.constexpr, SECTOR: tl.constexpr, BLOCK: tl.constexpr,
                  LABELS: tl.constexpr, SENDERS: tl.constexpr):  # fmt: skip
    """x ← (1 - η) x + η (U + A slice(lattice) + A' dense + extra), Q = softmax(x).

    `lattice` contains rows of vertices, sliced here with `weights` times a pixel's `lattice_scale`, or, if
    SLICED, rows of pixels with both already applied. Messages have a column for each of S `senders`; A, A'
    are [L, S]. PADDED: both strides of pixels are multiples of the sector, as `lattice_stride` always is for
    vertices.
    """
    if PADDED:
        stride = stride // SECTOR * SECTOR  # a hint for the compiler
        sent_stride = sent_stride // SECTOR * SECTOR
    if LATTICE and not SLICED:
        lattice_stride = lattice_stride // SECTOR * SECTOR
    step: tl.constexpr = 16 if LABELS > 128 else 32 if SENDERS > 32 else SENDERS
    pixel = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    label = tl.arange(0, LABELS)[None, :]
    here = pixel < total
    inside = here[:, None] & (label < labels)
    plane = (pixel // points * labels * points + pixel % points)[:, None] + label.to(tl.int64) * points
    target = tl.load(unary + plane, inside, other=0)
    if EXTRA:
        target += tl.load(extra + pixel[:, None] * stride + label, inside, other=0)
    if LATTICE:
        if SLICED:
            target += _mixed(lattice, weights, lattice_transform, pixel, here, labels, senders,
                             lattice_stride, False, BLOCK, LABELS, step)  # fmt: skip
        else:
            message = tl.zeros((BLOCK, SENDERS), tl.float32)
            sender = tl.arange(0, SENDERS)
            for r in tl.static_range(SIZE):
                vertex = tl.load(corner + pixel * SIZE + r, here, other=vertices).to(tl.int64)
                weight = tl.load(weights + pixel * SIZE + r, here, other=0)[:, None]
                there = (vertex < vertices)[:, None] & (sender < lattice_stride)[None, :]  # zeros beyond S
                at = vertex[:, None] * lattice_stride + sender[None, :]
                message += weight * tl.load(lattice + at, there, other=0)
            ways: tl.constexpr = 2 ** (SIZE - 1)
            message *= ways / (ways + 1)
            if LATTICE_SCALED:
                message *= tl.load(lattice_scale + pixel, here, other=0)[:, None]
            source = sender[:, None]
            square = (label < labels) & (source < senders)
            transform = tl.load(lattice_transform + label * senders + source, square, other=0)  # Aᵀ
            target += tl.dot(message, transform, input_precision="tf32x3")
    if DENSE:
        target += _mixed(dense, dense_scale, dense_transform, pixel, here, labels, senders, sent_stride,
                         DENSE_SCALED, BLOCK, LABELS, step)  # fmt: skip
    if DAMPED:
        before = tl.load(x + plane, inside, other=0)
        target = before + damping * (target - before)
    if WRITE_X:
        tl.store(x + plane, target, inside)
    if WRITE_Q:
        out = _normalised(target, pixel, here, label, labels, mask, clamp, MASKED, CLAMPED)
        tl.store(q + pixel[:, None] * stride + label, out, here[:, None] & (label < stride))


@triton.jit
def back_kernel(g, du, q, dq, mask, clamp, labels, stride, q_stride, total, damping, MASKED: tl.constexpr,
                CLAMPED: tl.constexpr, BLOCK: tl.constexpr, LABELS: tl.constexpr):  # fmt: skip
    """dU += η g;  g ← (1 - η) g + Q (dQ - <Q, dQ>), where the second term is 0 at clamped pixels."""
    pixel = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    label = tl.arange(0, LABELS)[None, :]
    here = pixel < total
    inside = here[:, None] & (label < labels)
    at = pixel[:, None] * stride + label
    marginal = tl.load(q + pixel[:, None] * q_stride + label, inside, other=0)
    change = tl.load(dq + at, inside, other=0)
    through = marginal * (change - tl.sum(marginal * change, 1)[:, None])
    if CLAMPED:
        through = tl.where(tl.load(clamp + pixel, here, other=-1)[:, None] >= 0, 0, through)
    if MASKED:
        through = tl.where(tl.load(mask + pixel, here, other=0)[:, None] != 0, through, 0)
    mine = tl.load(g + at, inside, other=0)
    tl.store(du + at, tl.load(du + at, inside, other=0) + damping * mine, inside)
    tl.store(g + at, (1 - damping) * mine + through, inside)


@triton.jit
def band_kernel(values, out, scale, theta, length, width, step, cut, SCALED: tl.constexpr,
                DERIVATIVE: tl.constexpr, PADDED: tl.constexpr, SECTOR: tl.constexpr, BLOCK: tl.constexpr,
                TAPS: tl.constexpr, COLUMNS: tl.constexpr):  # fmt: skip
    """out[o, i, c] = Σ_j k(i - j) scale[o, j, c // step] values[o, j, c] over a view [outer, length, width].

    k(r) = exp(-½ (r / θ)²), or dk/dθ = r² / θ³ k(r). θ stays on the device and determines the band.
    """
    if PADDED:
        width = width // SECTOR * SECTOR  # a hint for the compiler
    blocks, across = tl.cdiv(length, BLOCK), tl.cdiv(width, COLUMNS)
    line = tl.program_id(0) // across
    outer = (line // blocks).to(tl.int64)
    first = (line % blocks) * BLOCK
    row = first + tl.arange(0, BLOCK)[:, None]
    column = (tl.program_id(0) % across).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    size = tl.load(theta).to(tl.float32)
    reach = tl.ceil(tl.minimum(cut * size, length * 1.0)).to(tl.int32)
    low, high = tl.maximum(first - reach, 0), tl.minimum(first + BLOCK + reach, length)
    total = tl.zeros((BLOCK, COLUMNS), tl.float32)
    for begin in range(low, high, TAPS):
        other = begin + tl.arange(0, TAPS)
        apart = (row - other[None, :]).to(tl.float32)
        weight = tl.exp(-0.5 * (apart / size) * (apart / size))
        if DERIVATIVE:
            weight *= apart * apart / (size * size * size)
        place = other.to(tl.int64)[:, None]
        there = (other < length)[:, None] & (column < width)
        tile = tl.load(values + (outer * length + place) * width + column, there, other=0)
        if SCALED:
            pixel = (outer * length + place) * (width // step) + column // step
            tile *= tl.load(scale + pixel, there, other=0)
        total += tl.dot(weight, tile, input_precision="tf32x3")
    at = (outer * length + row.to(tl.int64)) * width + column
    tl.store(out + at, total, (row < length) & (column < width))
