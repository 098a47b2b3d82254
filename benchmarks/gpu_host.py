# SPDX-License-Identifier: MIT
"""The CPU's part of mean field on a GPU, measured without one: launched kernels, torch operations, time.

    python benchmarks/gpu_host.py            # needs Triton beside torch, no GPU
    python benchmarks/gpu_host.py --check    # compare every launch with a lookup

Kernels are compiled for an H100 and launched by a driver that only counts, so only Python's time is measured:
arguments, lookups, allocations. It is a lower bound for a loop of small kernels. "looked up": Triton looks
the kernel up at every launch, as in `kernel[grid](...)`; "known": `Launcher` does so once. Values are
arbitrary and shapes small; the time does not depend on them.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
import triton
from torch.utils._python_dispatch import TorchDispatchMode
from triton.backends.compiler import GPUTarget

from crfrnn.crf.parts import KernelGradient
from crfrnn.crf.triton.backward import backward
from crfrnn.crf.triton.forward import forward
from crfrnn.crf.triton.problem import LatticeKernel, Problem, SeparableKernel
from crfrnn.lattice.triton import build, exact, filter, launch, numbering
from crfrnn.lattice.triton.filter import Structure
from crfrnn.lattice.triton.launch import Launcher

LABELS, SIDE, PIECES = 21, 20, (350, 320, 300)


class Counting:
    """A driver of one H100 that launches nothing."""

    def __init__(self) -> None:
        self.launches = 0
        self.utils = SimpleNamespace(
            load_binary=lambda *_: (1, 1, 32, 0, 1024),
            get_device_properties=lambda _: {"max_shared_mem": 232448},
        )

    def launcher_cls(self, source: Any, metadata: Any) -> Callable[..., None]:
        def launch(*_: Any) -> None:
            self.launches += 1

        return launch

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)


class Operations(TorchDispatchMode):
    """Counts the operations of torch that would launch a kernel: all but views and allocations."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not func.is_view and "empty" not in str(func):
            self.count += 1
        return func(*args, **(kwargs or {}))


def problem(
    side: int = SIDE, pieces: tuple[int, int, int] = PIECES, labels: int = LABELS, **options: Any
) -> Problem:
    """A lattice of five dimensions with three passes of its splat, and a Gaussian over the grid.

    `pieces`: the number of rows after each pass; the last one is the number of vertices.
    """
    points, size, vertices = side * side, 6, pieces[-1]
    index = torch.int32
    bounds = [torch.zeros(n + 1, dtype=torch.int64) for n in pieces]
    structure = Structure(
        corner=torch.zeros(points, size, dtype=index),
        rank=torch.zeros(points, size, dtype=torch.int8),
        neighbour=torch.zeros(size, 2, vertices + 1, dtype=index),
        order=torch.zeros(points * size, dtype=index),
        bounds=(bounds[0], bounds[1], bounds[2]),
    )
    post = torch.rand(points)
    kernels = (
        SeparableKernel(torch.tensor([3.0, 3.0]), None, post.clone()),
        LatticeKernel(structure, torch.rand(points, size), None, post),
    )
    plain = {"mask": None, "clamp": None, "damping": 1.0, "points": points}
    return Problem(torch.randn(2, labels, labels), kernels, (side, side), **{**plain, **options})


def gradients(task: Problem, bandwidths: bool) -> list[KernelGradient]:
    """Where the gradients of the kernels are written: nowhere if bandwidths are fixed."""
    if not bandwidths:
        return [KernelGradient(None, None, None, None)] * 2
    points = task.grid[0] * task.grid[1]
    return [
        KernelGradient(None, torch.zeros(2), None, torch.zeros(points)),
        KernelGradient(torch.zeros(points, 6), None, None, torch.zeros(points)),
    ]


def work(task: Problem) -> dict[str, Callable[[], Any]]:
    points, labels = SIDE * SIDE, task.labels
    unary, grad = torch.randn(1, labels, points), torch.randn(1, labels, points)
    held, learned = (gradients(task, bandwidths) for bandwidths in (False, True))
    marginals = torch.rand(5, points, labels)
    return {
        "forward T = 10": lambda: forward(task, unary, None, 10, False),
        "forward T = 5, marginals kept": lambda: forward(task, unary, None, 5, True),
        "backward T = 5": lambda: backward(task, grad, marginals, held),
        "backward T = 5, bandwidths too": lambda: backward(task, grad, marginals, learned),
    }


def rarer() -> dict[str, Callable[[], Any]]:
    """Further launches: other numbers of labels, masks, damping; filters of every type."""
    calls: dict[str, Callable[[], Any]] = {}
    for labels in (1, 40, 150):
        mask, clamp = torch.ones(SIDE * SIDE, dtype=torch.uint8), torch.full((SIDE * SIDE,), -1).int()
        task = problem(labels=labels, mask=mask, clamp=clamp, damping=0.5)
        calls |= {f"{name}, {labels} labels": call for name, call in work(task).items()}
    (lattice,) = (kernel for kernel in problem().kernels if isinstance(kernel, LatticeKernel))
    structure = (*lattice.structure[:4], *lattice.structure.bounds)
    for kind in (torch.bfloat16, torch.float32, torch.float64):
        weights = lattice.weights.to(torch.promote_types(kind, torch.float32))
        for channels in (1, 9, 40):
            x = torch.rand(len(weights), channels).to(kind)
            for reverse in (False, True):
                calls[f"filter {kind} {channels} {reverse}"] = partial(
                    filter.filter, x, weights, reverse, *structure
                )
            calls[f"weights' gradient {kind} {channels}"] = partial(
                filter.weight_gradient, x, x, weights, *structure
            )
    return calls


def built() -> dict[str, Callable[[], Any]]:
    """Launches of the kernels that build a lattice, number its vertices and compute exact sums."""
    calls: dict[str, Callable[[], Any]] = {}
    for kind in (torch.float32, torch.float64):
        for dim in (1, 5, 8):
            points, rank = torch.rand(40, dim, dtype=kind), torch.zeros(40, dim + 1, dtype=torch.int8)
            gradient = torch.rand(40, dim + 1, dtype=kind)
            quotient = torch.randint(2**12 if dim < 4 else 2**6, (40, dim + 1))
            calls |= {
                f"embed {kind} {dim}": partial(build.embed, points, 0.9),
                f"gradient of features {kind} {dim}": partial(
                    build.feature_gradient, gradient, points, 0.9, rank, rank
                ),
            }
            for hidden in (None, torch.arange(40) % 3 == 0):
                masked = "" if hidden is None else ", masked"
                calls[f"keys {dim}{masked}"] = partial(build._packed, quotient, rank, hidden, 1, 40, 3)
    for kind, vertex in itertools.product((torch.int32, torch.int64), repeat=2):
        keys = torch.arange(50, dtype=kind)
        calls[f"neighbours {kind} {vertex}"] = partial(
            numbering.neighbours, keys, keys[:12].view(6, 2), vertex
        )
        calls[f"hash {kind}"] = partial(numbering.claim, keys)
    for dim, channels in itertools.product((5,), (1, 21)):
        points, values = torch.rand(1, 40, dim), torch.rand(1, 40, channels)
        calls |= {
            f"exact sum {dim} {channels}": partial(exact.gaussian_sum, points, values, points),
            f"exact pull {dim} {channels}": partial(exact.gaussian_pull, points, points, values, values),
        }
    return calls


def milliseconds(call: Callable[[], Any]) -> float:
    times = []
    for _ in range(100):
        start = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


def measure(driver: Counting, calls: dict[str, Callable[[], Any]]) -> None:
    print(f"{'':32} kernels  operations of torch  looked up, ms  known, ms")
    for name, call in calls.items():
        call()  # compiles
        driver.launches = 0
        with Operations() as operations:
            call()
        launches = driver.launches
        known = milliseconds(call)
        launch.DIRECT = False
        looked_up = milliseconds(call)
        launch.DIRECT = True
        print(f"{name:32} {launches:7} {operations.count:20} {looked_up:14.2f} {known:10.2f}")


def check(calls: dict[str, Callable[[], Any]]) -> None:
    """Looks up every launch and compares it with the cached one."""
    known: dict[tuple[int, Any], Any] = {}
    launchers: list[Launcher] = []  # kept alive, so that identities are unique
    launches = 0

    def looked_up(self: Launcher, programs: int, across: int, *args: Any) -> None:
        nonlocal launches
        launches += 1
        launchers.append(self)
        found = self._kernel[(programs, across)](*args, **self._constants)
        kind = tuple(launch._kind(args[place]) for place in self._loose)
        if known.setdefault((id(self), kind), found) is not found:
            raise AssertionError(f"{self._kernel.__name__}: launches that are not alike, {kind}")

    Launcher.__call__ = looked_up
    for call in calls.values():
        call()
    for call in built().values():  # check that each compiles for its arguments
        call()
    print(f"{launches} launches of {len(known)} known kernels are alike")


def main() -> int:
    parser = argparse.ArgumentParser(description="What the CPU does for mean field on a GPU.")
    parser.add_argument("--check", action="store_true", help="compare every launch with a lookup")
    options = parser.parse_args()
    driver = Counting()
    triton.runtime.driver.set_active(driver)
    torch.set_num_threads(1)
    calls = work(problem())
    check(calls | rarer()) if options.check else measure(driver, calls)
    return 0


if __name__ == "__main__":
    sys.exit(main())
