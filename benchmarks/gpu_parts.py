# SPDX-License-Identifier: MIT
"""Parts of `gpu.py`: rows about single kernels, the build, memory, the exact sum."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

import crfrnn
from crfrnn.crf.triton.band import Band
from crfrnn.lattice import Lattice, exact_filter
from crfrnn.lattice.quality import get_quality
from crfrnn.lattice.triton import build, exact, filter, numbering
from crfrnn.lattice.triton.filter import Passes, Structure
from crfrnn.lattice.triton.launch import block, ceil_div
from gpu_bench import PARAMETERS, Bench, Row


@triton.jit
def _splat_atomically(values, rows, weights, corner, points, vertices, channels, width, SIZE: tl.constexpr,
                      BLOCK: tl.constexpr, COLUMNS: tl.constexpr):  # fmt: skip
    """As in other packages: rows[corner[p, r]] += w[p, r] values[p], in any order."""
    point = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    column = tl.arange(0, COLUMNS)[None, :]
    here, wide = point < points, column < channels
    value = tl.load(values + point[:, None] * channels + column, here[:, None] & wide, other=0)
    for r in tl.static_range(SIZE):
        vertex = tl.load(corner + point * SIZE + r, here, other=vertices).to(tl.int64)
        weight = tl.load(weights + point * SIZE + r, here, other=0)
        there = (vertex < vertices)[:, None] & wide
        tl.atomic_add(rows + vertex[:, None] * width + column, weight[:, None] * value, there, sem="relaxed")


def copy(bench: Bench) -> Iterator[Row]:
    source = torch.empty(2**28 if bench.gpu else 2**16, device=bench.device)
    target = torch.empty_like(source)
    spent = bench.milliseconds(lambda: target.copy_(source))
    bench.bandwidth = 2 * source.numel() * 4 / spent / 1e6
    yield "bandwidth", "copy", bench.bandwidth, "GB/s", "read and write of 1 GiB"


def parts(bench: Bench) -> Iterator[Row]:
    """Every kernel of an iteration: its time, and its share of the copy bandwidth."""
    labels, (_, image) = 21, bench.picture()
    operator: Any = bench.layer().kernels(image)[1].operator
    structure, weights = Structure.of(operator.structure), operator.weights.detach()
    share, size = filter.shares(weights, structure), structure.size
    points, entries, vertices = len(weights), len(structure.order), structure.vertices
    values = torch.rand(points, labels, device=bench.device)
    passes = Passes(structure, labels, weights)
    rows = passes.splat(values, share)
    band = Band(image.shape[2:], points, torch.tensor([3.0, 3.0], device=bench.device), labels)
    width, plane, high = 4 * rows.shape[1], 4 * points * labels, block(32, points)
    state = plane + 8 * entries + vertices * width

    def atomically() -> Tensor:
        out = torch.zeros_like(rows)
        _splat_atomically[(ceil_div(points, high),)](
            values, out, weights, structure.corner, points, vertices, labels, rows.shape[1], SIZE=size,
            BLOCK=high, COLUMNS=32,
        )  # fmt: skip
        return out

    yield "splat and atomic splat differ by", "demo", float((atomically() - rows).abs().max()), "", "largest"
    work: list[tuple[str, int, Callable[[], Tensor]]] = [
        ("splat", state, lambda: passes.splat(values, share)),
        ("splat with atomics", state, atomically),
        ("blur", size * vertices * (2 * width + 8), lambda: passes.blur(rows, False)),
        ("slice", state, lambda: passes.gather(rows, weights)),
        ("spatial", 4 * plane, lambda: band(values, None)),
    ]
    for name, moved, call in work:
        spent = bench.milliseconds(call)
        rate = moved / spent / 1e6
        yield "kernel", name, spent, "ms", f"{moved / 2**20:.1f} MiB of state, {vertices} vertices"
        yield "share of the copy bandwidth", name, rate / bench.bandwidth, "", f"{rate:.0f} GB/s"


def builds(bench: Bench) -> Iterator[Row]:
    """The lattice's tables with vertices numbered by one sort of all keys, or a hash table with atomics."""
    flat = bench.picture()[1].mean((2, 3), keepdim=True)
    for case, (alpha, beta, *_) in PARAMETERS.items():
        for name, image in ((case, bench.picture()[1]), (f"{case}, one colour", flat)):
            image = image.expand(-1, -1, bench.size, bench.size)
            features = crfrnn.GaussianKernel.bilateral(image, alpha, beta, backend="triton").features
            setting, tables = get_quality("default"), []
            for how in numbering.NUMBERINGS:
                call = partial(build.build, features, None, *setting[:4], numbering=how)
                yield f"lattice build, {how}", name, bench.milliseconds(call), "ms", ""
                tables.append(call())
            same = all(torch.equal(a, b) for a, b in zip(*tables, strict=True))
            yield "sort and hash give the same bits", name, float(same), "", ""


def memory(bench: Bench) -> Iterator[Row]:
    """Forward + backward at T = 5, build included, and the permitted limit."""
    labels, iterations = 21, 5
    (unary, image), crf = bench.picture(labels), bench.layer(labels)
    unary.requires_grad_()
    wanted = [unary, *(p for p in crf.parameters() if p.requires_grad)]

    def call() -> None:
        out = crf(unary, image, iterations=iterations)
        torch.autograd.grad(out, wanted, out.detach())

    plane, values = unary.nbytes, 0
    for kernel in crf.kernels(image):
        rows = kernel.operator.num_vertices if isinstance(kernel.operator, Lattice) else unary[0, 0].numel()
        values += 4 * rows * labels
    gradients = sum(4 * t.numel() for t in wanted)
    permitted = (plane + gradients + iterations * plane + 1.5 * values) / 2**20
    call()  # the first call also allocates workspaces of libraries
    used = bench.peak(call)
    yield "peak memory, forward + backward T = 5", "demo", used, "MiB above the inputs", ""
    note = "output, gradients, marginals of each iteration, 1.5 times the values of each kernel"
    yield "memory permitted", "demo", permitted, "MiB above the inputs", note
    yield "memory used over permitted", "demo", used / permitted, "", ""


def exact_sum(bench: Bench) -> Iterator[Row]:
    """The lattice at every pixel against the exact sum, that sum against float64, and its time."""
    unary, image = bench.picture()
    values = unary.softmax(1).flatten(2).mT
    signal = torch.cat([values, torch.ones_like(values[..., :1])], -1)  # the last channel: the normaliser
    for case, (alpha, beta, *_) in PARAMETERS.items():
        kernel = crfrnn.GaussianKernel.bilateral(image, alpha, beta, backend="triton")
        features = kernel.features
        truth = exact.gaussian_sum(features, signal, features)
        ours = kernel.operator.filter(signal)
        yield "filter error, every pixel", case, _relative(ours, truth), "relative L2", "exact kernel"
        some = torch.linspace(0, signal.shape[1] - 1, 64, device=bench.device).long()
        sampled = exact_filter(features.double(), signal.double(), features[:, some].double())
        error = _relative(truth[:, some].double(), sampled)
        yield "error of the exact kernel", case, error, "relative L2", "64 pixels in float64"
        spent = bench.milliseconds(lambda f=features: exact.gaussian_sum(f, signal, f))
        rate = f"{signal.shape[1] ** 2 / spent / 1e6:.4g} 10⁹ pairs/s"
        yield "exact kernel, forward", case, spent, "ms", rate
        spent = bench.milliseconds(lambda f=features: exact.gaussian_pull(f, f, signal, signal), 1)
        yield "exact kernel, gradient of one side", case, spent, "ms", ""


def _relative(ours: Tensor, truth: Tensor) -> float:
    """Relative error of the normalised results."""
    ours, truth = (x[..., :-1] / x[..., -1:] for x in (ours, truth))
    return float((ours - truth).norm() / truth.norm())
