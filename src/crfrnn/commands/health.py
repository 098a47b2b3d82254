# SPDX-License-Identifier: MIT
"""Checks of `crfrnn doctor`: each backend on a small problem, and the published timing on this machine."""

from __future__ import annotations

import math
import statistics
import time
from typing import Any

# README.md's first table: forward, T = 10, θ 160/3/3, 500 × 500 pixels, 21 labels, on two x86-64 cores.
PUBLISHED_SECONDS = 0.11
SIDE, LABELS, ITERATIONS = 500, 21, 10
BUDGET = 2.0  # seconds of measurement on a machine as fast as the published one
TOLERANCE = 1e-4


def backends() -> dict[str, str]:
    """The state of each backend: "works" after a test run, otherwise the reason."""
    import torch

    from crfrnn.crf import GaussianKernel
    from crfrnn.lattice import Lattice

    generator = torch.Generator().manual_seed(0)
    features = 3 * torch.rand(1, 200, 5, generator=generator)
    values = torch.rand(1, 200, 3, generator=generator)
    expected = Lattice.build(features, backend="reference").filter(values)
    wide = features.double()
    dense = (-0.5 * torch.cdist(wide, wide).square()).exp() @ values.double()

    def lattice(backend: str, device: str = "cpu") -> str:
        found = Lattice.build(features.to(device), backend=backend).filter(values.to(device)).cpu()
        return _compared(found, expected)

    def exact() -> str:
        kernel = GaussianKernel(features, method="exact", normalization="none")
        return _compared((kernel @ values).double(), dense)

    def triton() -> str:
        if not torch.cuda.is_available():
            return "not run: no GPU"
        return lattice("triton", "cuda")

    return {
        "native": _tried(lambda: lattice("cpu")),
        "exact": _tried(exact),
        "triton": _tried(triton),
    }


def speed() -> str:
    """One line with this machine's time for the published problem, and the published time."""
    import torch

    from crfrnn.crf import CRFRNN

    try:
        image = _photograph()
    except ImportError as error:
        return f"not measured: {error}"
    unary = torch.randn(1, LABELS, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    crf = CRFRNN(LABELS, preset="crfasrnn").eval()
    times: list[float] = []
    begun = time.perf_counter()
    with torch.no_grad():
        while not times or (time.perf_counter() - begun < BUDGET and len(times) < 8):
            start = time.perf_counter()
            crf(unary.clone(), image.clone(), iterations=ITERATIONS)
            times.append(time.perf_counter() - start)
    seconds = statistics.median(times)
    return (
        f"{seconds:.2f} s for {SIDE} × {SIDE} pixels, {LABELS} labels, T = {ITERATIONS} with "
        f"{torch.get_num_threads()} threads (median of {len(times)}); published: {PUBLISHED_SECONDS} s on "
        f"two quiet x86-64 cores, {_ratio(seconds / PUBLISHED_SECONDS)}"
    )


def _ratio(times: float) -> str:
    if not math.isfinite(times) or times <= 0:
        return "not comparable"
    return f"{times:.1f} times as long" if times >= 1 else f"{1 / times:.1f} times as fast"


def _compared(found: Any, expected: Any) -> str:
    error = float((found - expected).abs().max() / expected.abs().max())
    return "works" if error < TOLERANCE else f"wrong results: relative error {error:.1e}; please report it"


def _tried(run: Any) -> str:
    try:
        return run()
    except Exception as error:
        return f"does not work: {type(error).__name__}: {str(error).strip() or 'no message'}"


def _photograph() -> Any:
    """UInt8[1, 3, SIDE, SIDE], scikit-image's cat."""
    import numpy as np
    import torch
    from PIL import Image

    from crfrnn.extras import optional

    samples = optional("skimage.data", "demo", "the photograph of the timing", "scikit-image")
    picture = Image.fromarray(samples.chelsea()).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(picture).transpose(2, 0, 1).copy())[None]
