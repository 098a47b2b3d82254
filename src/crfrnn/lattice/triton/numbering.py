# SPDX-License-Identifier: MIT
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportMissingImports=false
"""Numbering of the lattice vertices on the GPU, by two methods with identical results, and their neighbours.

By sort: one stable sort of all keys. By hash: equal keys share a slot of an open-addressing table, claimed by
atomic compare-and-swap. The slot depends on the race, so the distinct keys are sorted to number them, and all
corners are sorted by these (short) numbers. A flat picture has few distinct keys and many corners.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from crfrnn.lattice.triton.launch import FUSED, block, ceil_div, on_device

NUMBERINGS = ("sort", "hash")
EMPTY = tl.constexpr(-1)  # keys are not negative
NOTHING = tl.constexpr(-2)  # never stored: a compare-and-swap with it has no effect


@triton.jit(do_not_specialize=["count", "slots", "shift"])
def _claim(keys, table, count, slots, shift, BLOCK: tl.constexpr):
    """table[slot] = key, one slot for equal keys, table[slots + i] = slot of keys[i]; `slots` = 2^k.

    A compare-and-swap has no mask: a finished entry targets its own place in the list, without effect.
    """
    entry = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    here = entry < count
    own = slots + tl.minimum(entry, count - 1)
    key = tl.load(keys + entry, here, other=0)
    # Fibonacci hashing, the product modulo 2^64; the sign bit is dropped.
    slot = ((key.to(tl.int64) * 0x1E3779B97F4A7C15) >> shift) & (slots - 1)
    looking = here
    while tl.max(looking.to(tl.int32), 0) != 0:
        # A read that bypasses L1 avoids the swap if many corners share a vertex; a stale read costs one swap.
        seen = tl.load(table + slot, looking, other=0, cache_modifier=".cg")
        looking = looking & (seen != key)
        free = looking & (seen == EMPTY)
        aim = tl.where(free, slot, own)
        expected = tl.where(free, EMPTY, NOTHING).to(key.dtype)
        before = tl.atomic_cas(table + aim, expected, tl.where(free, key, NOTHING).to(key.dtype))
        won = free & ((before == EMPTY) | (before == key))
        looking = looking & (won == 0)
        slot = tl.where(looking, (slot + 1) & (slots - 1), slot)
    tl.store(table + slots + entry, slot.to(key.dtype), here)


@triton.jit(do_not_specialize=["count", "rounds"])
def _find(vertices, steps, out, count, rounds, BLOCK: tl.constexpr):
    """out[offset, row]: the vertex at that offset, by binary search, or `count` if there is none."""
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    here = row < count
    wanted = tl.load(vertices + row, here, other=0) + tl.load(steps + tl.program_id(1))
    low, high = tl.zeros((BLOCK,), tl.int64), tl.zeros((BLOCK,), tl.int64) + count
    for _ in range(rounds):
        middle = (low + high) // 2
        open_ = here & (low < high)
        less = tl.load(vertices + middle, open_, other=0) < wanted
        high = tl.where(open_ & (less == 0), middle, high)
        low = tl.where(open_ & less, middle + 1, low)
    inside = here & (low < count)
    found = inside & (tl.load(vertices + low, inside, other=0) == wanted)
    tl.store(
        out + tl.program_id(1) * (count.to(tl.int64) + 1) + row, tl.where(found, low, count), row <= count
    )


def neighbours(vertices: Tensor, steps: Tensor, kind: torch.dtype) -> Tensor:
    """Ascending keys, key changes of the offsets, Int[G, K] -> Int[G, K, M+1] of `build.build`."""
    count = len(vertices)
    out = torch.empty(*steps.shape, count + 1, dtype=kind, device=vertices.device)
    rows = block(128, count + 1)
    with on_device(vertices):
        _find[(ceil_div(count + 1, rows), steps.numel())](
            vertices, steps.contiguous(), out, count, count.bit_length(), BLOCK=rows, **FUSED
        )
    return out


def number_keys(keys: Tensor, how: str) -> tuple[Tensor, Tensor, Tensor]:
    """Int[E], nonnegative, E > 0 -> distinct keys in ascending order, index of each key of the sorted list,
    and the stable order that sorts it, Int64[E]."""
    return {"sort": _by_sort, "hash": _by_hash}[how](keys)


def _by_sort(keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    ordered, order = keys.sort(stable=True)
    fresh = torch.ones_like(ordered, dtype=torch.bool)
    fresh[1:] = ordered[1:] != ordered[:-1]
    return ordered[fresh], fresh.cumsum(0) - 1, order


def claim(keys: Tensor) -> tuple[Tensor, int]:
    """A table with a slot for every distinct key, followed by the slot of every key; the number of slots."""
    count, bits = len(keys), max((2 * len(keys) - 1).bit_length(), 1)  # at most half full
    slots = 1 << bits
    # Slot numbers have the keys' type: if they do not fit (2^30 corners), the keys are widened too.
    keys = keys if bits < 31 else keys.long()
    table = keys.new_full((slots + count,), EMPTY.value)
    rows = block(128, count)
    with on_device(keys):
        _claim[(ceil_div(count, rows),)](keys, table, count, slots, 63 - bits, BLOCK=rows, **FUSED)
    return table, slots


def _by_hash(keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    table, slots = claim(keys)
    taken = (table[:slots] != EMPTY.value).nonzero().squeeze(1)
    vertices, order = table[taken].sort()
    numbers = torch.empty(slots, dtype=_narrowest(len(vertices)), device=keys.device)
    numbers[taken[order]] = torch.arange(len(vertices), dtype=numbers.dtype, device=keys.device)
    number, order = numbers[table[slots:].long()].sort(stable=True)
    return vertices, number.long(), order


def _narrowest(count: int) -> torch.dtype:
    """Use the narrowest type, because the time of a radix sort is proportional to the bytes of a number."""
    return torch.int16 if count <= 2**15 else torch.int32 if count <= 2**31 else torch.int64
