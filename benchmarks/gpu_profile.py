# SPDX-License-Identifier: MIT
"""Every kernel of a forward and a backward pass: number of calls, time, and bytes moved per time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from crfrnn.lattice.triton.filter import Structure
from gpu_bench import Bench, Row

LABELS, ITERATIONS = 21, 5


def profile(bench: Bench) -> Iterator[Row]:
    """By the driver's clock, one call of forward + backward, build included; longest first."""
    (unary, image), crf = bench.picture(LABELS), bench.layer(LABELS)
    operator: Any = crf.kernels(image)[1].operator
    states = state(Structure.of(operator.structure), unary[0, 0].numel())
    unary.requires_grad_()
    wanted = [unary, *(p for p in crf.parameters() if p.requires_grad)]

    def call() -> None:
        out = crf(unary, image, iterations=ITERATIONS)
        torch.autograd.grad(out, wanted, out.detach())

    call()
    activities = [torch.profiler.ProfilerActivity.CUDA if bench.gpu else torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities) as seen:
        call()
        if bench.gpu:
            torch.cuda.synchronize()
    rows = [
        (event.key, event.count, event.self_device_time_total / 1e3)
        for event in seen.key_averages()
        if event.self_device_time_total > 0
    ]
    for name, count, spent in sorted(rows, key=lambda row: -row[2]):
        yield "profile", name[:60], spent, "ms", f"{count} launches"
        if name in states:
            rate = states[name] / spent / 1e6
            note = f"{rate:.0f} GB/s, {states[name] / 2**20:.1f} MiB of state"
            yield "profile, share of the copy bandwidth", name, rate / bench.bandwidth, "", note


def state(structure: Structure, points: int) -> dict[str, int]:
    """Bytes that each kernel must read and write once, summed over its launches in one call of `profile`.

    >>> tables = [torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(3, 2, 5), torch.zeros(6)]
    >>> state(Structure.of([*tables, torch.zeros(5), torch.zeros(0), torch.zeros(0)]), 2)["start_kernel"]
    336
    """
    size, vertices, entries = structure.size, structure.vertices, len(structure.order)
    plane, row = 4 * points * LABELS, 4 * (LABELS + -LABELS % 8)
    tables = 8 * points * size  # a weight and a vertex per corner
    splat = plane + 8 * entries + vertices * row
    both = 2 * ITERATIONS  # forward and backward
    return {
        "sum_pieces": both * splat,
        "blur_axis": both * size * vertices * (2 * row + 8),
        "band_kernel": both * 4 * plane,
        "start_kernel": 2 * plane,
        "update_kernel": ITERATIONS * (3 * plane + tables + vertices * row + 4 * points),
        "slice_rows": ITERATIONS * (plane + tables + vertices * row),
        "back_kernel": ITERATIONS * 6 * plane,
        "_embed": points * (4 * (size - 1) + 13 * size),
        "_keys": points * 17 * size,
        "_find": vertices * (8 + 8 * size),
    }
