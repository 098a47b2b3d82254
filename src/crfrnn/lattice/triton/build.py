# SPDX-License-Identifier: MIT
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportMissingImports=false
# pyright: reportCallIssue=false
"""Building the lattice on the GPU: points to simplices in one Triton kernel, keys, one sort, neighbours.

A vertex is d integers f_i = q_i - q_{i+1}, where q are its d + 1 coordinates divided by d + 1
(native/lattice.hpp), packed into one int64 with as many bits per field as the data need. A step along axis a
then adds a constant to a key, S_a = (1 << shift_a) - (1 << shift_{a-1}), and the corners of a simplex differ
by such steps. `numbering` finds equal keys and the summation order of the splat: the same bits in every run.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from crfrnn.lattice import reference
from crfrnn.lattice.triton.launch import FUSED, block, ceil_div, on_device, power_of_2
from crfrnn.lattice.triton.numbering import neighbours, number_keys

PIECE = 32  # entries summed by one row of the first pass of a splat, and rows summed by one of the second
WIDEST_KEY = 61  # bits; one more marks the masked points


@triton.jit
def _embed(features, scales, weights, quotient, rank_out, count, DIM: tl.constexpr, PAD: tl.constexpr,
           BLOCK: tl.constexpr):  # fmt: skip
    """Features [P, d] to barycentric weights, q of the remainder-0 corner and ranks, each [P, d + 1]."""
    size: tl.constexpr = DIM + 1
    point = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    here = point < count
    lane = tl.arange(0, PAD)[None, :]
    kind = features.dtype.element_ty
    elevated = tl.zeros((BLOCK, PAD), kind)
    running = tl.zeros((BLOCK,), kind)
    for back in tl.static_range(DIM):  # in the reference's order, to give the same rounding
        i = DIM - 1 - back
        scaled = tl.load(features + point * DIM + i, here, other=0) * tl.load(scales + i)
        elevated = tl.where(lane == i + 1, (running - (i + 1) * scaled)[:, None], elevated)
        running = running + scaled
    elevated = tl.where(lane == 0, running[:, None], elevated)

    inverse = tl.load(scales + DIM)  # 1 / (d + 1), in full precision
    low, high = tl.floor(elevated * inverse), tl.ceil(elevated * inverse)
    up = high * size - elevated < elevated - low * size  # halves round down
    nearest = tl.where(up, high, low)
    rest = elevated - nearest * size
    shift = tl.sum(nearest.to(tl.int64), 1)  # lanes beyond d hold 0
    rank = tl.zeros((BLOCK, PAD), tl.int64) + shift[:, None]
    for j in tl.static_range(size):
        other = tl.sum(tl.where(lane == j, rest, 0), 1)[:, None]
        rank += ((other > rest) | ((other == rest) & (lane > j))).to(tl.int64)
    wrap = (rank < 0).to(tl.int64) - (rank >= size).to(tl.int64)
    rank = rank + wrap * size
    q = nearest.to(tl.int64) + wrap

    offset = (elevated - q.to(kind) * size) * inverse
    weight = tl.zeros((BLOCK, PAD), kind)
    for j in tl.static_range(size):  # an axis' offset is at position d - rank in ascending order
        mine = tl.sum(tl.where(lane == j, offset, 0), 1)[:, None]
        place = DIM - tl.sum(tl.where(lane == j, rank, 0), 1)[:, None]
        weight += tl.where(lane == place, mine, 0) - tl.where((lane + DIM) % size == place, mine, 0)
    weight = tl.where(lane == 0, weight + 1, weight)
    at = point[:, None] * size + lane
    inside = here[:, None] & (lane < size)
    tl.store(weights + at, weight, inside)
    tl.store(quotient + at, q, inside)
    tl.store(rank_out + at, rank.to(tl.int8), inside)


# Data-dependent arguments are not specialised, to avoid recompiling where one is a multiple of 16.
@triton.jit(do_not_specialize=["picture_step", "bias", "hidden"])
def _keys(quotient, rank, steps, mask, keys, count, per_picture, picture_step, bias, hidden,
          SIZE: tl.constexpr, PAD: tl.constexpr, MASKED: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """Keys of the corners, [P, d + 1]: key_r = key_0 - Σ S_a over the axes of rank ≥ d + 1 - r."""
    point = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    here = point < count
    lane = tl.arange(0, PAD)[None, :]
    inside = here[:, None] & (lane < SIZE)
    at = point[:, None] * SIZE + lane
    step = tl.load(steps + lane, lane < SIZE, other=0)
    q = tl.load(quotient + at, inside, other=0)
    place = tl.load(rank + at, inside, other=0).to(tl.int64)
    base = tl.sum(q * step, 1) + bias + (point // per_picture) * picture_step
    valid = here
    if MASKED:
        valid = tl.load(mask + point, here, other=0) != 0
    for r in tl.static_range(SIZE):
        turned = tl.sum(tl.where((place >= SIZE - r) & (lane < SIZE), step, 0), 1)
        tl.store(keys + point * SIZE + r, tl.where(valid, base - turned, hidden), here)


@triton.jit
def _feature_gradient(grad_weights, rank, scales, out, count, DIM: tl.constexpr, PAD: tl.constexpr,
                      BLOCK: tl.constexpr):  # fmt: skip
    """The transpose of `_embed`: from the gradient of [P, d + 1] weights to that of [P, d] features."""
    size: tl.constexpr = DIM + 1
    point = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    here = point < count
    kind = out.dtype.element_ty
    running = tl.zeros((BLOCK,), kind)
    for i in tl.static_range(size):
        r = tl.load(rank + point * size + i, here, other=0).to(tl.int64)
        row = point * size
        mine = tl.load(grad_weights + row + DIM - r, here, other=0)
        above = tl.load(grad_weights + row + (size - r) % size, here, other=0)
        elevated = (mine - above) * tl.load(scales + DIM)
        if i > 0:
            gradient = (running - i * elevated) * tl.load(scales + i - 1)
            tl.store(out + point * DIM + i - 1, gradient, here)
        running = running + elevated


def embed(features: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """Float[P, d] -> weights Float[P, d+1], q Int64[P, d+1], rank Int8[P, d+1]."""
    count, dim = features.shape
    weights = features.new_empty(count, dim + 1)
    quotient = torch.empty_like(weights, dtype=torch.int64)
    rank = torch.empty_like(weights, dtype=torch.int8)
    if count:
        rows = block(128 if dim < 6 else 32, count)  # limited by the registers
        with on_device(features):
            _embed[(ceil_div(count, rows),)](
                features.contiguous(), _scales(dim, scale, features.dtype, features.device), weights,
                quotient, rank, count, DIM=dim, PAD=power_of_2(dim + 1), BLOCK=rows,
                enable_fp_fusion=False,  # same rounding as the reference, so the same simplex at ties
            )  # fmt: skip
    return weights, quotient, rank


def feature_gradient(grad_weights: Tensor, features: Tensor, scale: float, *structure: Tensor) -> Tensor:
    """The gradient of the features from that of the weights, Float[P, d+1]; only their shape is used."""
    rank = structure[1]
    count, size = rank.shape
    out = grad_weights.new_empty(features.shape)
    if count:
        rows = block(128, count)
        with on_device(out):
            _feature_gradient[(ceil_div(count, rows),)](
                grad_weights.contiguous(), rank, _scales(size - 1, scale, out.dtype, out.device), out, count,
                DIM=size - 1, PAD=power_of_2(size), BLOCK=rows, **FUSED,
            )  # fmt: skip
    return out


def build(
    features: Tensor,
    mask: Tensor | None,
    scale: float,
    rings: int,
    ring_support: int,
    together: int,
    padded: bool = False,
    numbering: str = "sort",
) -> list[Tensor]:
    """Float[B, N, d] -> weights, corner, rank, neighbour, order and three tables of bounds.

    weights    Float[P, d+1]          barycentric, 0 at masked points; P = B N, in the caller's order
    corner     Int[P, d+1]            vertex of remainder r; M = none (a masked point)
    rank       Int8[P, d+1]           rank of each axis among the point's offsets in descending order
    neighbour  Int[G, K, M+1]         as in `reference.Simplices`; M = missing
    order      Int[valid · (d+1)]     p (d+1) + r of every corner, sorted by vertex
    bounds     Int64[rows + 1] each   row i of a splat pass sums rows bounds[i] .. bounds[i+1] of the previous
                                      pass (the first: of `order`); the last nonempty pass has M rows

    Int is int32 if P (d+1) fits. `numbering` selects how equal keys are found, "sort" or "hash"; the tables
    are the same. Reads sizes back from the device, so it cannot run inside a CUDA graph.
    """
    if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
        raise ValueError(
            "features: expected a stream that is not captured, since a lattice's size is read from the "
            "device, got one that is; build kernels before torch.cuda.graph(...) and capture mean_field alone"
        )
    features = features.detach()
    batch, points, dim = features.shape
    flat = features.reshape(-1, dim)
    hidden = None if mask is None else ~mask.reshape(-1)
    size = dim + 1
    index = _index_type(flat.shape[0], size, rings)
    weights, quotient, rank = embed(flat, scale)
    if hidden is not None:
        weights = weights.masked_fill(hidden.unsqueeze(1), 0)
    if flat.shape[0] == 0 or (hidden is not None and bool(hidden.all())):
        groups = reference.axis_groups(dim, together)
        empty = quotient.new_zeros(len(groups), 3 ** len(groups[0]) - 1, 1, dtype=index)
        tables = (quotient.new_zeros(1), quotient.new_empty(0), quotient.new_empty(0))
        return [weights, torch.zeros_like(quotient, dtype=index), rank, empty, empty.new_empty(0), *tables]
    keys, steps = _packed(quotient, rank, hidden, batch, points, 2 + rings + (together > 1))
    if keys is None or steps is None:  # too wide for 64 bits: the slower general method
        weights, corner, neighbour, rank = reference.build(
            features.detach(), mask, scale, rings, ring_support, together
        )
        number, order = corner.flatten().sort(stable=True)
        rank = rank.to(torch.int8)
    else:
        vertices, number, order = number_keys(keys, numbering)
        if hidden is not None and int(vertices[-1]) == torch.iinfo(vertices.dtype).max:
            vertices = vertices[:-1]
        vertices, number = _add_rings(vertices, number, steps, rings, ring_support)
        corner = torch.empty_like(order)
        corner[order] = number
        neighbour = neighbours(vertices, _offsets(steps, dim, together), index)
    start = torch.searchsorted(number, torch.arange(neighbour.shape[2], device=flat.device))
    tables = _bounds(start)
    return [
        weights, corner.view(-1, size).to(index), rank, neighbour.to(index),
        (order if hidden is None else order[: int(start[-1])]).to(index), *tables,
    ]  # fmt: skip


def fake_build(
    features: Tensor,
    mask: Tensor | None,
    scale: float,
    rings: int,
    ring_support: int,
    together: int,
    padded: bool,
) -> list[Tensor]:
    """Sizes depend on the data: torch.compile breaks its graph here and continues after it.

    `fullgraph=True` requires `torch._dynamo.config.capture_dynamic_output_shape_ops`.
    """
    context = torch.library.get_ctx()
    points, size = features.shape[0] * features.shape[1], features.shape[2] + 1
    groups = reference.axis_groups(features.shape[2], together)
    entries = points * size if mask is None else context.new_dynamic_size(min=0)
    vertices = context.new_dynamic_size(min=1)
    bounds = [features.new_empty(context.new_dynamic_size(min=0), dtype=torch.int64) for _ in range(3)]
    index = _index_type(points, size, rings)
    return [
        features.new_empty(points, size),
        features.new_empty(points, size, dtype=index),
        features.new_empty(points, size, dtype=torch.int8),
        features.new_empty(len(groups), 3 ** len(groups[0]) - 1, vertices, dtype=index),
        features.new_empty(entries, dtype=index),
        *bounds,
    ]


def _index_type(points: int, size: int, rings: int) -> torch.dtype:
    """Integer type of corners, neighbours and the order, which must fit vertices and entries."""
    return torch.int32 if points * size * (1 + 2 * size) ** rings < 2**31 else torch.int64


@lru_cache(maxsize=64)  # a copy to the device would synchronise
def _scales(dim: int, scale: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """c_i = scale √(2/3) (d+1) / √((i+1)(i+2)) for i < d, then 1 / (d+1)."""
    unit = scale * math.sqrt(2 / 3) * (dim + 1)
    numbers = [unit / math.sqrt((i + 1) * (i + 2)) for i in range(dim)] + [1 / (dim + 1)]
    return torch.tensor(numbers, dtype=dtype, device=device)


def _packed(
    quotient: Tensor, rank: Tensor, hidden: Tensor | None, batch: int, points: int, margin: int
) -> tuple[Tensor | None, Tensor | None]:
    """Keys of all corners as one list, with the largest number for masked ones; and S_a of every axis.

    margin: how many steps from the remainder-0 corners a key may be: one for a corner and for every ring, one
    for a neighbour, two for an offset of a group of axes.
    """
    count, size = quotient.shape
    fields = quotient[:, :-1] - quotient[:, 1:]
    if hidden is not None:
        fields = fields[~hidden]
    low, high = torch.stack(torch.aminmax(fields, dim=0)).tolist()  # one synchronisation
    widths = [(most - least + 2 * margin).bit_length() for least, most in zip(low, high, strict=True)]
    bits = sum(widths) + (batch - 1).bit_length()
    if bits > WIDEST_KEY:
        return None, None
    shift = [sum(widths[i + 1 :]) for i in range(size - 1)]
    steps = [(1 << shift[a] if a < size - 1 else 0) - (1 << shift[a - 1] if a else 0) for a in range(size)]
    bias = -sum((least - margin) << s for least, s in zip(low, shift, strict=True))
    bias = (bias + 2**63) % 2**64 - 2**63  # far from the origin it may overflow: keys are sums modulo 2^64
    kind = torch.int32 if bits < 31 else torch.int64  # half the work for the sort
    keys = torch.empty(count * size, dtype=kind, device=quotient.device)
    table = torch.tensor(steps, device=quotient.device)
    rows = block(128, count)
    with on_device(quotient):
        _keys[(ceil_div(count, rows),)](
            quotient, rank, table, table if hidden is None else (~hidden).view(torch.uint8), keys, count,
            points, 1 << sum(widths), bias, torch.iinfo(kind).max, SIZE=size,
            PAD=power_of_2(size), MASKED=hidden is not None, BLOCK=rows, **FUSED,
        )  # fmt: skip
    return keys, table.to(kind)


@lru_cache(maxsize=64)
def _signs(dim: int, together: int, device: torch.device) -> Tensor:
    return torch.tensor(reference.axis_offsets(dim, together), device=device)


def _offsets(steps: Tensor, dim: int, together: int) -> Tensor:
    """The change of a key for each offset of each group; for absent offsets, larger than any key."""
    signs = _signs(dim, together, steps.device)
    nothing = -torch.iinfo(steps.dtype).max
    return torch.where(signs.any(-1), (signs.to(steps.dtype) * steps).sum(-1, dtype=steps.dtype), nothing)


def _add_rings(
    vertices: Tensor, number: Tensor, steps: Tensor, rings: int, ring_support: int
) -> tuple[Tensor, Tensor]:
    """Missing neighbours with enough support added, as in reference.build; all lists stay sorted."""
    for _ in range(rings):
        ring = (vertices + torch.cat([steps, -steps]).unsqueeze(1)).flatten()
        grown, place, support = torch.unique(
            torch.cat([vertices, ring]), return_inverse=True, return_counts=True
        )
        place = place[: len(vertices)]
        support[place] -= 1  # a vertex is not its own neighbour
        kept = support >= ring_support
        kept[place] = True
        renumber, grown = (kept.long().cumsum(0) - 1)[place], grown[kept]
        # Masked corners come after all vertices, both before and after this step.
        number = torch.cat([renumber, renumber.new_tensor([len(grown)])])[number]
        vertices = grown
    return vertices, number


def _bounds(start: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Segments start[v] .. start[v+1] split into pieces, so that a long one does not delay its program.

    Two passes of `PIECE` entries; the third sums the rest. Passes that are not needed have empty tables.
    """
    tables: list[Tensor] = []
    for _ in range(2):
        lengths = start.diff()
        if int(lengths.amax()) <= PIECE:
            break
        pieces = ((lengths + PIECE - 1) // PIECE).clamp_min_(1)
        first = torch.cat([pieces.new_zeros(1), pieces.cumsum(0)])
        vertex = torch.repeat_interleave(pieces)
        piece = torch.arange(len(vertex), device=start.device) - first[vertex]
        tables.append(torch.cat([start[vertex] + PIECE * piece, start[-1:]]))
        start = first
    tables.append(start)
    padded = [*tables, start.new_empty(0), start.new_empty(0)]  # two tensors, because outputs must not alias
    return padded[0], padded[1], padded[2]
