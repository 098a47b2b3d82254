# SPDX-License-Identifier: MIT
"""Peak memory of the backward pass on the GPU, counted in Triton's interpreter."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch

from conformance import LATTICES
from crfrnn import CRFRNN
from crfrnn.lattice import Lattice, backend

pytest.importorskip("triton")
from crfrnn.crf.triton import backend as mean_field
from crfrnn.crf.triton import backward
from gpu_memory import Peak

interpreted = pytest.mark.skipif("triton" not in LATTICES, reason="a GPU is here: no interpreter")


@interpreted
@pytest.mark.parametrize("side, beta", [(16, 20.0), (40, 200.0)])  # many vertices per pixel; few
def test_backward_holds_what_the_larger_kernel_needs(
    side: int, beta: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In addition to its inputs: g, dU, and two sets of rows, or ĝ and a Gaussian's two planes.

    The larger of the two is done with before there is dQ.
    """
    monkeypatch.setitem(backend.BY_DEVICE, "cpu", "triton")
    peaks: list[int] = []

    def counted(*args: Any) -> tuple[torch.Tensor, ...]:
        gc.collect()
        with Peak() as watch:
            out = backward.backward(*args)
        peaks.append(watch.peak)
        return out

    monkeypatch.setattr(mean_field, "backward", counted)
    labels = 24  # whole sectors: rows without padding
    crf = CRFRNN(labels, theta_alpha=side / 2, theta_beta=beta, theta_gamma=1.1, iterations=2)
    unary, image = torch.randn(1, labels, side, side), 255 * torch.rand(1, 3, side, side)
    (built,) = (k.operator for k in crf.kernels(image) if isinstance(k.operator, Lattice))
    out = crf(unary.requires_grad_(), image)
    torch.autograd.grad(out.square().sum(), [unary, *crf.parameters()])

    plane, rows = (
        unary.nbytes,
        4 * labels * max(len(table) for table in built.structure[4:]),
    )  # a pass may need more
    small = 5 * built.weights.nbytes + 2**16  # weights with factors and in the splat's order, their gradient
    lattice_needs, gaussian_needs = max(2 * rows, rows + plane), 3 * plane
    first, second = max(lattice_needs, gaussian_needs), min(lattice_needs, gaussian_needs)
    assert 2 * plane + 1.5 * rows < peaks[0] < 2 * plane + max(first, plane + second) + small
