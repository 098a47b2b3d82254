# SPDX-License-Identifier: MIT
"""The engine on a GPU in one call of a few minutes: builds, checks, times, writes CSV.

    python benchmarks/gpu.py --out gpu.csv            # needs torch with CUDA and the package only
    TRITON_INTERPRET=1 python benchmarks/gpu.py --device cpu --size 6  # a dry run

Columns: what, case, value, unit, note. Times are medians of device events. "share of the copy bandwidth": the
bytes that a kernel must read and write once, divided by its time and by the bandwidth of a copy in the same
run. Failed parts are rows too; no part is started after `--seconds`. On a GPU all parts first run once in
parallel, unmeasured, so that all processors compile kernels.
"""

from __future__ import annotations

import argparse
import csv
import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor

import crfrnn
from crfrnn.crf.ops import unchecked
from crfrnn.crf.problem import IN_PLAY
from crfrnn.lattice import Lattice
from crfrnn.lattice import backend as backends
from gpu_bench import PARAMETERS, Bench, Row
from gpu_parts import builds, copy, exact_sum, memory, parts
from gpu_profile import profile
from gpu_sweep import settings, sweep
from outputs import ready


def agreement(bench: Bench) -> Iterator[Row]:
    """Against the reference in float64 on the same device, every gradient; and two runs bit by bit."""
    side = min(bench.size, 96)
    for labels in (21, 81) if bench.gpu else (3,):
        unary, image = bench.picture(labels, 2, (side, side - 1))
        results = []
        for backend in ("triton", "triton", "reference"):
            dtype = torch.float64 if backend == "reference" else torch.float32
            crf = crfrnn.CRFRNN(labels, 20.123, 13.7, 2.9).to(bench.device, dtype)
            u, i = (t.to(dtype).requires_grad_() for t in (unary, image))
            logs = (crf.log_theta_alpha, crf.log_theta_beta, crf.log_theta_gamma)
            alpha, beta, gamma = (log.exp() for log in logs)
            kernels = [
                crfrnn.GaussianKernel.spatial(image.shape[2:], gamma, device=bench.device),
                crfrnn.GaussianKernel.bilateral(i, alpha, beta, backend=backend),
            ]
            weights = [crf.spatial_weights, crf.bilateral_weights]
            logits = crfrnn.mean_field(u, kernels, weights, crf.compatibility, 5)
            names = ["unary", "image", *dict(crf.named_parameters())]
            weight = torch.linspace(-1, 1, logits.numel(), device=bench.device, dtype=dtype).view_as(logits)
            grads = torch.autograd.grad((logits.softmax(1) * weight).sum(), [u, i, *crf.parameters()])
            results.append([logits.softmax(1).detach(), *grads])
        first, again, truth = results
        same = all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
        yield "bit-identical runs", f"{labels} labels", float(same), "", "forward and every gradient"
        for name, ours, exact in zip(["marginals", *names], first, truth, strict=True):
            error = float((ours.double() - exact).abs().amax() / exact.abs().amax().clamp_min(1e-12))
            yield (
                "largest error",
                f"{labels} labels, {name}",
                error,
                "of the largest value",
                "float64 reference",
            )


def double(bench: Bench) -> Iterator[Row]:
    """The filter in float64 with many corners per vertex, in both directions."""
    side = min(bench.size, 96)
    _, image = bench.picture(2, 1, (side, side))
    features = crfrnn.GaussianKernel.bilateral(image.double(), 40.0, 60.0, backend="triton").features
    values = torch.rand(1, side * side, 9, dtype=torch.float64, device=bench.device)
    ours, truth = (Lattice.build(features, backend=name) for name in ("triton", "reference"))
    for reverse in (False, True):
        error = float((ours.filter(values, reverse) - truth.filter(values, reverse)).abs().amax())
        yield "largest error in float64", "backwards" if reverse else "forwards", error, "", "reference"


def accuracy(bench: Bench) -> Iterator[Row]:
    """At full size, sampled rows of the exact sum in float64."""
    _, image = bench.picture()
    for case, (alpha, beta, *_) in PARAMETERS.items():
        kernel = crfrnn.GaussianKernel.bilateral(image, alpha, beta, backend="triton")
        yield "filter error", case, kernel.error(rows=64), "relative L2", ""


def whole(bench: Bench, case: str, name: str, labels: int, batch: int, grid: tuple[int, ...], iterations: int,
          train: bool, competing: int | None = None, **options: Any) -> Iterator[Row]:  # fmt: skip
    """The layer as users call it: lattice build, checks and normalisers included."""
    (unary, image), crf = bench.picture(labels, batch, grid, competing), bench.layer(labels, case, **options)
    unary.requires_grad_(train)

    def call() -> None:
        with torch.set_grad_enabled(train):
            out = crf(unary, image, iterations=iterations)
            if train:
                torch.autograd.grad(
                    out, [unary, *(p for p in crf.parameters() if p.requires_grad)], out.detach()
                )

    what = f"forward + backward T = {iterations}" if train else f"forward T = {iterations}"
    spent = bench.milliseconds(call)
    yield what, name, spent, "ms", "build included"
    yield f"{what}, rate", name, 1e3 * batch / spent, "pictures/s", ""
    yield f"{what}, memory", name, bench.peak(call), "MiB above the inputs", ""


def in_play(bench: Bench) -> Iterator[Row]:
    """Messages from all labels and only from those in play, with 5 labels that compete."""
    grid = (bench.size, bench.size)
    for labels in (21, 81):
        for least in (0.0, IN_PLAY):
            name = f"demo {bench.size}², 5 of {labels} labels compete, δ = {least}"
            yield from whole(bench, "demo", name, labels, 1, grid, 10, False, 5, in_play=least)


def loop(bench: Bench) -> Iterator[Row]:
    """Build alone, the iterations alone, and these as one CUDA graph."""
    unary, image = bench.picture()
    crf = bench.layer().requires_grad_(False)
    yield (
        "build",
        "demo",
        bench.milliseconds(lambda: crf.kernels(image)),
        "ms",
        "both kernels and normalisers",
    )
    kernels, weights = crf.kernels(image), [crf.spatial_weights, crf.bilateral_weights]

    def call() -> Tensor:
        with unchecked():
            return crfrnn.mean_field(unary, kernels, weights, crf.compatibility, 10)

    yield "iterations T = 10", "demo", bench.milliseconds(call), "ms", "kernels built before"
    yield "iterations T = 10, the CPU's part", "demo", bench.queueing(call), "ms", "nothing waited for"
    if bench.gpu:
        graph, eager = torch.cuda.CUDAGraph(), call()
        with torch.cuda.graph(graph):
            captured = call()
        yield "iterations T = 10, CUDA graph", "demo", bench.milliseconds(graph.replay), "ms", ""
        yield "CUDA graph equals eager", "demo", float(torch.equal(captured, eager)), "", ""


def step(bench: Bench) -> Iterator[Row]:
    """A training step of FCN-8s with the CRF on whole pictures, and the share of the network."""
    unary, image = bench.picture()
    small: dict[str, Any] = {} if bench.gpu else {"widths": (2, 2, 2, 2, 2), "hidden": 2}
    network, target = crfrnn.FCN8s(21, **small).to(bench.device), unary.argmax(1)
    for name, crf in (("network alone", None), ("network and CRF", bench.layer())):
        model = crfrnn.Segmenter(network, crf).to(bench.device)
        descent = torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9)

        def call(model: torch.nn.Module = model, descent: torch.optim.Optimizer = descent) -> None:
            descent.zero_grad()
            torch.nn.functional.cross_entropy(model(image), target).backward()
            descent.step()

        yield "training step, FCN-8s", name, bench.milliseconds(call), "ms", "batch 1, T = 5"


def points(bench: Bench) -> Iterator[Row]:
    """A point cloud of the size in WarpConvNet's published figures: 196,608 points, 6 features, 3 channels.

    The walls of a room of 6 m with smooth colours, 0.1 m and 20 colour steps for one bandwidth.
    """
    count = 196_608 if bench.gpu else 60
    random = torch.Generator().manual_seed(0)
    place = 6 * torch.rand(count, 3, generator=random)
    wall = torch.randint(6, (count,), generator=random)
    place[torch.arange(count), wall // 2] = 6.0 * (wall % 2)
    colour = 128 + 100 * torch.sin(place + wall[:, None]) + 3 * torch.randn(count, 3, generator=random)
    features = torch.cat([place / 0.1, colour / 20], 1)[None].to(bench.device)
    values = torch.rand(1, count, 3, generator=random).to(bench.device)
    built = Lattice.build(features, backend="triton")

    def both() -> Tensor:
        return Lattice.build(features, backend="triton").filter(values)

    name, note = f"{count} points, d = 6, 3 channels", f"{built.num_vertices} vertices"
    yield "build and filter", name, bench.milliseconds(both), "ms", note
    yield "filter alone", name, bench.milliseconds(lambda: built.filter(values)), "ms", ""


def plan(bench: Bench) -> dict[str, Callable[[], Iterator[Row]]]:
    side = bench.size
    square, volume = (side, side), (128, 128, 128) if bench.gpu else (3, 4, 5)
    voxels = {"theta_alpha": 5.0, "theta_beta": 20.0}
    rows: dict[str, Callable[[], Iterator[Row]]] = {
        "copy": lambda: copy(bench),
        "forward": lambda: whole(bench, "demo", f"demo {side}²", 21, 1, square, 10, False),
        "train": lambda: whole(bench, "demo", f"demo {side}²", 21, 1, square, 5, True),
        "batch": lambda: whole(bench, "demo", f"demo {side}², batch 16", 21, 16, square, 10, False),
        "labels": lambda: whole(bench, "demo", f"demo {side}², 81 labels", 81, 1, square, 10, False),
        "play": lambda: in_play(bench),
        "volume": lambda: whole(bench, "demo", f"volume {volume}", 4, 1, volume, 5, False, **voxels),
        "points": lambda: points(bench),
        "loop": lambda: loop(bench),
        "memory": lambda: memory(bench),
        "parts": lambda: parts(bench),
        "profile": lambda: profile(bench),
        "builds": lambda: builds(bench),
        "agreement": lambda: agreement(bench),
        "double": lambda: double(bench),
        "sweep": lambda: sweep(bench),
        "readme": lambda: whole(bench, "readme", f"readme {side}²", 21, 1, square, 10, False),
        "large": lambda: whole(bench, "demo", f"demo {2 * side}²", 21, 1, (2 * side, 2 * side), 10, False),
        "step": lambda: step(bench),
        "accuracy": lambda: accuracy(bench),
        "exact": lambda: exact_sum(bench),
    }
    absent = () if bench.gpu else ("forward", "train", "batch", "labels", "play", "readme", "large")
    return {name: row for name, row in rows.items() if name not in absent}


def warm(device: str, size: int, names: Sequence[str], seconds: float) -> None:
    """Run each part once in parallel, so that kernels are compiled and kept in Triton's cache.

    Must be called before the device is used here, because the processes are forked. Failures are reported
    when the part is measured.
    """
    context, bench = multiprocessing.get_context("fork"), Bench(device, size, quick=True)
    work: list[Callable[[], Any]] = [
        partial(_quietly, plan(bench)[name]) for name in names if name not in ("copy", "sweep")
    ]
    if "sweep" in names:
        work += [partial(_quietly, setting) for setting in settings(bench)]
    end, waiting, running = time.monotonic() + seconds, work[::-1], list[Any]()
    while (waiting or running) and time.monotonic() < end:
        running = [process for process in running if process.is_alive()]
        while waiting and len(running) < (os.cpu_count() or 1):
            running.append(context.Process(target=waiting.pop(), daemon=True))
            running[-1].start()
        time.sleep(0.05)
    for process in running:
        process.kill()


def _quietly(work: Callable[[], Iterator[Row]]) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    for _ in work():
        pass


def main() -> int:
    parser = argparse.ArgumentParser(description="The engine on a GPU: checks, times, CSV.")
    parser.add_argument("--out", type=Path, default=Path("gpu.csv"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=420, help="no part is begun after so many")
    parser.add_argument("--parts", help="only these, with commas")
    parser.add_argument(
        "--warm", type=float, default=90, help="seconds to compile side by side; 0: not at all"
    )
    options = parser.parse_args()
    ready(parser, options.out)
    if options.device == "cpu":
        backends.BY_DEVICE["cpu"] = "triton"  # the default of CUDA tensors
    start, failed = time.monotonic(), 0
    names = list(plan(Bench(options.device, options.size)))
    if options.parts:
        unknown = set(options.parts.split(",")) - set(names)
        if unknown:
            parser.error(f"--parts: expected some of {', '.join(names)}, got {', '.join(sorted(unknown))}")
        names = [name for name in names if name in options.parts.split(",")]
    if options.device != "cpu":
        if options.warm:
            warm(options.device, options.size, names, options.warm)
        if torch.device(options.device).index is not None:
            torch.cuda.set_device(options.device)  # events and memory are those of the current device
    bench = Bench(options.device, options.size)
    name = torch.cuda.get_device_name(bench.device) if bench.gpu else "interpreted"
    versions = f"{name}; torch {torch.__version__}, triton {triton.__version__}"
    with options.out.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["what", "case", "value", "unit", "note"])
        table.writerow(["device", versions, "", "", time.strftime("%F")])
        for part, work in ((name, plan(bench)[name]) for name in names):
            if time.monotonic() - start > options.seconds:
                table.writerow([part, "not begun", "", "", "out of time"])
                continue
            try:
                for what, case, value, unit, note in work():
                    table.writerow([what, case, f"{value:.6g}", unit, note])
                    print(f"{what:36} {case:36} {value:12.5g} {unit} {note}", flush=True)
            except Exception as error:  # the other parts are still useful
                failed += 1
                traceback.print_exc()
                table.writerow([part, "failed", "", "", f"{type(error).__name__}: {error}"[:300]])
            file.flush()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
