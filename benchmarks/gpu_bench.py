# SPDX-License-Identifier: MIT
"""Shared by the parts of `gpu.py`: a device, a timer, inputs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import crfrnn

PARAMETERS = {"demo": (160.0, 3.0, 3.0, 5.0, 3.0), "readme": (80.0, 13.0, 3.0, 10.0, 3.0)}
Row = tuple[str, str, float, str, str]


class Bench:
    """A device, sizes and a timer."""

    def __init__(self, device: str, size: int, quick: bool = False) -> None:
        """quick: everything once, unmeasured."""
        self.quick = quick
        self.device, self.size, self.gpu, self.bandwidth = torch.device(device), size, device != "cpu", 1.0

    def milliseconds(self, work: Callable[[], Any], warm: int = 3) -> float:
        """Median of 20, each synchronised."""
        for _ in range(warm if self.gpu and not self.quick else 0):
            work()
        if not self.gpu or self.quick:
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

    def queueing(self, work: Callable[[], Any]) -> float:
        """Median milliseconds until the call returns on the CPU, starting with an idle GPU."""
        times = []
        for _ in range(20 if self.gpu and not self.quick else 1):
            if self.gpu:
                torch.cuda.synchronize()
            start = time.perf_counter()
            work()
            times.append(1e3 * (time.perf_counter() - start))
        return statistics.median(times)

    def peak(self, work: Callable[[], Any]) -> float:
        """MiB above the memory allocated before."""
        if not self.gpu:
            return float("nan")
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 2**20

    def picture(
        self,
        labels: int = 21,
        batch: int = 1,
        grid: tuple[int, ...] | None = None,
        competing: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Unary and image: flat regions with edges, shading and noise, with as many vertices as a photograph.

        151,865 vertices at 500 x 500 under "demo" and 19,037 under "readme"; the photograph of
        `benchmarks/engine.py`, scikit-image's astronaut, gives 150,340 and 19,630. `competing` labels
        (default: all) are plausible somewhere; the others are improbable, as on real pictures.
        """
        grid = grid or (self.size, self.size)
        random = torch.Generator().manual_seed(0)
        mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(grid)]

        def smooth(channels: int, nodes: list[int]) -> Tensor:
            coarse = torch.rand(batch, channels, *nodes, generator=random)
            return torch.nn.functional.interpolate(coarse, grid, mode=mode)

        region = smooth(8, [6] * len(grid)).argmax(1)
        colour = 255 * torch.rand(8, 3, generator=random)
        fine = [max(n // 12, 2) for n in grid]
        shade = 200 * (smooth(1, fine) - 0.5) + 60 * (smooth(3, [4] * len(grid)) - 0.5)
        image = colour[region].movedim(-1, 1) + shade + torch.randn(batch, 3, *grid, generator=random)
        unary = 4 * smooth(labels, fine) + 0.5 * torch.randn(batch, labels, *grid, generator=random)
        unary[:, labels if competing is None else competing :] -= 12
        return unary.to(self.device), image.clamp(0, 255).round().to(self.device)

    def layer(self, labels: int = 21, case: str = "demo", **options: Any) -> crfrnn.CRFRNN:
        alpha, beta, gamma, bilateral, spatial = PARAMETERS[case]
        values = {"theta_alpha": alpha, "theta_beta": beta, "theta_gamma": gamma, "spatial_weight": spatial,
                  "bilateral_weight": bilateral, **options}  # fmt: skip
        crf = crfrnn.CRFRNN(labels, **values).to(self.device)
        for name, parameter in crf.named_parameters():
            parameter.requires_grad_("theta" not in name)
        return crf
