# SPDX-License-Identifier: MIT
"""What `gpu.py` is made of: the stopwatch; rows about single kernels, the build, memory, the exact sum."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

import crfrnn
from crfrnn.crf.triton_problem import Problem, band
from crfrnn.lattice import (
    Lattice,
    exact_filter,
    triton_build,
    triton_exact,
    triton_filter,
    triton_numbering,
)
from crfrnn.lattice.quality import get_quality
from crfrnn.lattice.triton_filter import Structure

PARAMETERS = {"demo": (160.0, 3.0, 3.0, 5.0, 3.0), "readme": (80.0, 13.0, 3.0, 10.0, 3.0)}
Row = tuple[str, str, float, str, str]


class Bench:
    """A device, sizes and a stopwatch."""

    def __init__(self, device: str, size: int) -> None:
        self.device, self.size, self.gpu, self.bandwidth = torch.device(device), size, device != "cpu", 1.0

    def milliseconds(self, work: Callable[[], Any], warm: int = 3) -> float:
        """Median of 20, each waited for."""
        for _ in range(warm if self.gpu else 0):
            work()
        if not self.gpu:
            start = time.perf_counter()
            work()
            return 1e3 * (time.perf_counter() - start)
        times = []
        for _ in range(20):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            begin.record()
            work()
            end.record()
            torch.cuda.synchronize()
            times.append(begin.elapsed_time(end))
        return statistics.median(times)

    def peak(self, work: Callable[[], Any]) -> float:
        """MiB above what was held before."""
        if not self.gpu:
            return float("nan")
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 2**20

    def picture(
        self, labels: int = 21, batch: int = 1, grid: tuple[int, ...] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Unary and image: soft regions with texture and noise, much as a photograph fills its lattice."""
        grid = grid or (self.size, self.size)
        random = torch.Generator().manual_seed(0)
        coarse = tuple(max(n // 12, 2) for n in grid)
        mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(grid)]
        resize = torch.nn.functional.interpolate
        image = resize(255 * torch.rand(batch, 3, *coarse, generator=random), grid, mode=mode)
        image = (image + 6 * torch.randn(batch, 3, *grid, generator=random)).clamp(0, 255).round()
        unary = resize(4 * torch.rand(batch, labels, *coarse, generator=random), grid, mode=mode)
        unary = unary + 0.5 * torch.randn(batch, labels, *grid, generator=random)
        return unary.to(self.device), image.to(self.device)

    def layer(self, labels: int = 21, case: str = "demo", **options: Any) -> crfrnn.CRFRNN:
        alpha, beta, gamma, bilateral, spatial = PARAMETERS[case]
        values = {"theta_alpha": alpha, "theta_beta": beta, "theta_gamma": gamma, "spatial_weight": spatial,
                  "bilateral_weight": bilateral, **options}  # fmt: skip
        crf = crfrnn.CRFRNN(labels, **values).to(self.device)
        for name, parameter in crf.named_parameters():
            parameter.requires_grad_("theta" not in name)
        return crf


def copy(bench: Bench) -> Iterator[Row]:
    source = torch.empty(2**28 if bench.gpu else 2**16, device=bench.device)
    target = torch.empty_like(source)
    spent = bench.milliseconds(lambda: target.copy_(source))
    bench.bandwidth = 2 * source.numel() * 4 / spent / 1e6
    yield "bandwidth", "copy", bench.bandwidth, "GB/s", "read and write of 1 GiB"


def parts(bench: Bench) -> Iterator[Row]:
    """Every kernel of an iteration: its time, and the share of the copy bandwidth that its state moves at."""
    labels, (_, image) = 21, bench.picture()
    operator: Any = bench.layer().kernels(image)[1].operator
    structure, weights = Structure.of(operator.structure), operator.weights.detach()
    share, size = triton_filter.shares(weights, structure), structure.size
    points, entries, vertices = len(weights), len(structure.order), structure.vertices
    values = torch.rand(points, labels, device=bench.device)
    rows = triton_filter.splat(values, share, structure)
    theta = torch.tensor([3.0, 3.0], device=bench.device)
    problem = Problem(torch.eye(labels)[None], (), tuple(image.shape[2:]), None, None, 1.0)
    order = structure.order.long()
    entry, vertex = order // size, structure.corner.flatten()[order].long()
    target, width, plane = torch.zeros_like(rows)[:, :labels], 4 * rows.shape[1], 4 * points * labels
    state = plane + 8 * entries + vertices * width
    work: list[tuple[str, int, Callable[[], Tensor]]] = [
        ("splat", state, lambda: triton_filter.splat(values, share, structure)),
        ("splat with atomics", state, lambda: target.index_add_(0, vertex, values[entry] * share[:, None])),
        ("blur", size * vertices * (2 * width + 8), lambda: triton_filter.blur(rows, structure, False)),
        ("slice", state, lambda: triton_filter.gather(rows, weights, structure, labels)),
        ("spatial", 4 * plane, lambda: band(problem, values, theta, None)),
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
            for how in triton_numbering.NUMBERINGS:
                options = (setting.scale, setting.rings, setting.ring_support, how)
                call = partial(triton_build.build, features, None, *options)
                yield f"lattice build, {how}", name, bench.milliseconds(call), "ms", ""
                tables.append(call())
            same = all(torch.equal(a, b) for a, b in zip(*tables, strict=True))
            yield "sort and hash give the same bits", name, float(same), "", ""


def memory(bench: Bench) -> Iterator[Row]:
    """Forward + backward at T = 5, build included, beside what the plan of the project permits."""
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
    call()  # a first call allots workspaces of libraries as well
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
        truth = triton_exact.gaussian_sum(features, signal, features)
        ours = kernel.operator.filter(signal)
        yield "filter error, every pixel", case, _relative(ours, truth), "relative L2", "exact kernel"
        some = torch.linspace(0, signal.shape[1] - 1, 64, device=bench.device).long()
        sampled = exact_filter(features.double(), signal.double(), features[:, some].double())
        error = _relative(truth[:, some].double(), sampled)
        yield "error of the exact kernel", case, error, "relative L2", "64 pixels in float64"
        spent = bench.milliseconds(lambda f=features: triton_exact.gaussian_sum(f, signal, f))
        rate = f"{signal.shape[1] ** 2 / spent / 1e6:.4g} 10⁹ pairs/s"
        yield "exact kernel, forward", case, spent, "ms", rate
        spent = bench.milliseconds(lambda f=features: triton_exact.gaussian_pull(f, f, signal, signal), 1)
        yield "exact kernel, gradient of one side", case, spent, "ms", ""


def _relative(ours: Tensor, truth: Tensor) -> float:
    """Of the normalised answers."""
    ours, truth = (x[..., :-1] / x[..., -1:] for x in (ours, truth))
    return float((ours - truth).norm() / truth.norm())
