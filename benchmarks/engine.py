# SPDX-License-Identifier: MIT
"""Time, memory and marginals of the engine and of pydensecrf2, alternating in one run: `make bench`.

Inputs: scikit-image photographs resized to 500×500 (and 1000×1000) with coarse, noisy 21-label unaries, made
here from a fixed seed. "demo": θ_α 160, θ_β 3, θ_γ 3, weights 5 and 3; "readme": 80, 13, 3, weights 10 and 3.
Lattice builds are included, every call gets fresh tensors, figures are medians and ratios of medians.
"""

from __future__ import annotations

import argparse
import multiprocessing
import platform
import resource
import statistics
import threading
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pydensecrf.densecrf as dcrf
import torch
from rich.console import Console
from rich.table import Table
from skimage import data, filters, transform
from sklearn.cluster import KMeans

import crfrnn
from crfrnn import _native
from crfrnn.crf.presets import PRESETS, Preset
from crfrnn.evaluation.tables import write_csv
from outputs import ready

LABELS = 21
CASES = {"demo": Preset(160.0, 3.0, 3.0, 3.0, 5.0), "readme": Preset(80.0, 13.0, 3.0, 3.0, 10.0)}


def photograph_and_logits(
    name: str, size: int, seed: int = 1234, labels: int = LABELS
) -> tuple[np.ndarray, np.ndarray]:
    """UInt8[size, size, 3], Float32[labels, size, size]: regions of the blurred picture, with noise."""
    image = transform.resize(
        getattr(data, name)(), (size, size), order=1, anti_aliasing=True, preserve_range=True
    )
    image = np.rint(image).clip(0, 255).astype(np.uint8)
    side = max(size // 8, 12)
    smooth = filters.gaussian(image.astype(float), sigma=size / 100, channel_axis=2, preserve_range=True)
    low = transform.resize(smooth, (side, side), order=1, anti_aliasing=True, preserve_range=True)
    y, x = np.mgrid[:side, :side] / side
    points = np.concatenate([low.reshape(-1, 3) / 40, 3 * y.reshape(-1, 1), 3 * x.reshape(-1, 1)], 1)
    regions = KMeans(labels, n_init=2, random_state=0, max_iter=60).fit(points).labels_.reshape(side, side)
    coarse = transform.resize(np.eye(labels)[regions], (size, size), order=1, mode="edge")
    noise = np.random.default_rng(seed).standard_normal((size, size, labels))
    return image, np.ascontiguousarray((4 * coarse + 0.5 * noise).astype(np.float32).transpose(2, 0, 1))


def numbers(case: str) -> Preset:
    """The five parameters of a case, or of a preset of the package."""
    return CASES[case] if case in CASES else PRESETS[case]


def layer(case: str, labels: int = LABELS, quality: str = "default") -> crfrnn.CRFRNN:
    """The layer with a case's parameters; all of them but the bandwidths take gradients."""
    crf = crfrnn.CRFRNN(labels, preset=numbers(case), quality=quality)
    for name, parameter in crf.named_parameters():
        parameter.requires_grad_("theta" not in name)
    return crf


def tensors(image: np.ndarray, logits: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(logits.copy())[None], torch.from_numpy(image.transpose(2, 0, 1).copy())[None]


def forward(
    case: str, image: np.ndarray, logits: np.ndarray, iterations: int, quality: str = "default"
) -> torch.Tensor:
    unary, guide = tensors(image, logits)
    with torch.no_grad():
        return layer(case, len(logits), quality).eval()(unary, guide, iterations=iterations)


def forward_backward(case: str, image: np.ndarray, logits: np.ndarray, iterations: int) -> torch.Tensor:
    unary, guide = tensors(image, logits)
    # The loss is not part of the layer, so its gradient is given (a copy of the unary; any values do).
    gradient = unary.clone()
    unary.requires_grad_()
    layer(case, len(logits))(unary, guide, iterations=iterations).backward(gradient)
    assert unary.grad is not None
    return unary.grad


def peer(case: str, image: np.ndarray, logits: np.ndarray, iterations: int) -> np.ndarray:
    """pydensecrf2 with the same kernels, its one thread, normalised after like ours."""
    five = numbers(case)
    height, width = image.shape[:2]
    crf = dcrf.DenseCRF2D(width, height, len(logits))
    crf.setUnaryEnergy(-logits.reshape(len(logits), -1).copy())
    options = {"kernel": dcrf.DIAG_KERNEL, "normalization": dcrf.NORMALIZE_AFTER}
    crf.addPairwiseGaussian(sxy=five.theta_gamma, compat=five.spatial_weight, **options)
    crf.addPairwiseBilateral(
        sxy=five.theta_alpha,
        srgb=five.theta_beta,
        rgbim=image.copy(),
        compat=five.bilateral_weight,
        **options,
    )
    return np.array(crf.inference(iterations))


def in_turn(functions: list[Callable[[], object]], runs: int, warm_up: bool = True) -> list[float]:
    """Median seconds of each, A B A B …, after one warm-up of each unless an earlier call was one."""
    times: list[list[float]] = [[] for _ in functions]
    for turn in range(0 if warm_up else 1, runs + 1):
        for function, own in zip(functions, times, strict=True):
            start = time.perf_counter()
            function()
            if turn:
                own.append(time.perf_counter() - start)
    return [statistics.median(own) for own in times]


def _peak(work: str, case: str, pipe: object) -> None:
    image, logits = photograph_and_logits("astronaut", 500)
    functions = {
        "forward": (forward, 10),
        "forward + backward": (forward_backward, 5),
        "pydensecrf2": (peer, 10),
    }
    function, iterations = functions[work]
    small = (image[:60, :60].copy(), np.ascontiguousarray(logits[:, :60, :60]))
    function(case, *small, iterations)  # libraries and their own pools count as the start
    page, highest, running = resource.getpagesize(), 0, True

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * page

    def watch() -> None:
        nonlocal highest
        while running:
            highest = max(highest, resident())
            time.sleep(0.0005)

    before = resident()
    watcher = threading.Thread(target=watch)
    watcher.start()
    function(case, image, logits, iterations)
    running = False
    watcher.join()
    pipe.send((highest - before) / 2**20)  # type: ignore[attr-defined]


def peak_memory(work: str, case: str = "demo") -> float:
    """MiB above the start, in a fresh process, input copies included."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_peak, args=(work, case, theirs))
    process.start()
    value = ours.recv()
    process.join()
    return value


def bandwidth() -> float:
    """GB/s of a large copy with all threads, the limit of the machine."""
    source = torch.randn(64 * 2**20)
    target = torch.empty_like(source)
    seconds = in_turn([lambda: target.copy_(source)], 5)[0]
    return 2 * source.nbytes / seconds / 1e9


def measure(runs: int) -> list[tuple[str, float, float, str]]:
    """Rows (what, ours, pydensecrf2, must) in seconds or MiB."""
    rows: list[tuple[str, float, float, str]] = []
    small, large = photograph_and_logits("astronaut", 500), photograph_and_logits("astronaut", 1000)
    for case in CASES:
        ours, theirs = in_turn(
            [lambda c=case: forward(c, *small, 10), lambda c=case: peer(c, *small, 10)], runs
        )
        rows.append((f"forward T=10 {case}, s", ours, theirs, "6x faster"))
    ours, theirs = in_turn(
        [lambda: forward_backward("demo", *small, 5), lambda: peer("demo", *small, 5)], runs
    )
    rows.append(
        ("forward + backward T=5 demo, s (its forward alone)", ours, theirs, "at most 0.5 of its forward")
    )
    big, little = in_turn(
        [lambda: forward("demo", *large, 10), lambda: forward("demo", *small, 10)], max(runs // 2, 3)
    )
    rows.append(("1000² (ours) over 500² (ours) T=10 demo, s", big, little, "at most 4.4x"))
    if Path("/proc/self/statm").exists():
        rows.append(
            ("memory forward T=10 demo, MiB", peak_memory("forward"), peak_memory("pydensecrf2"), "200")
        )
        rows.append(
            (
                "memory forward + backward T=5 demo, MiB",
                peak_memory("forward + backward"),
                float("nan"),
                "450",
            )
        )
    return rows


def machine_and_versions() -> tuple[str, str]:
    """The machine and versions, for the head of a table."""
    machine = f"{platform.machine()}, {torch.get_num_threads()} threads, {_native.instruction_set()}"
    versions = f"crfrnn {version('crfrnn')}, torch {torch.__version__}, pydensecrf2 {version('pydensecrf2')}"
    return machine, versions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/results/engine.csv"))
    arguments = parser.parse_args()
    ready(parser, arguments.output)
    console = Console()
    machine, versions = machine_and_versions()
    with console.status("measuring, a few minutes"):
        rows = measure(arguments.runs)
        copy = bandwidth()
    table = Table(
        "what", "ours", "pydensecrf2", "ratio", "must", title=f"{versions}; {machine}; copy {copy:.1f} GB/s"
    )
    for what, ours, theirs, must in rows:
        ratio = ours / theirs if "over" in what or "backward" in what else theirs / ours
        table.add_row(what, f"{ours:.3g}", f"{theirs:.3g}", f"{ratio:.2f}", must)
    console.print(table)
    head = ["what", "ours", "pydensecrf2", "must", "versions", "machine", "copy GB/s"]
    write_csv(arguments.output, [head, *([*row, versions, machine, f"{copy:.1f}"] for row in rows)])
    console.print(arguments.output)


if __name__ == "__main__":
    main()
