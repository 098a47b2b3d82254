# SPDX-License-Identifier: MIT
"""The fast bilateral solver, from the equations of its paper, as OpenCV's wheels do not include one."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from crfrnn.experiments.refiners.refiner import Range, Refiner
from crfrnn.experiments.refiners.scene import Scene
from crfrnn.extras import optional

BALANCING, SOLVING = 10, 25  # iterations
_TINY = 1e-5  # relative residual of the solution
# Luma and chroma of ITU-R BT.601, as in JPEG.
_YUV = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])


def _grid(image: NDArray[np.uint8], spatial: float, luma: float, chroma: float) -> tuple[Any, Any]:
    """Splat S [M, N] and blur B [M, M] of the bilateral grid, both sparse."""
    sparse = optional("scipy.sparse", "train", "the bilateral solver")
    rows, columns = np.indices(image.shape[:2]).reshape(2, -1)
    colours = image.reshape(-1, 3) @ _YUV.T / (luma, chroma, chroma)
    place = np.floor(np.column_stack([columns / spatial, rows / spatial, colours])).astype(np.int64)
    place -= place.min(0) - 1  # so that all neighbours of a cell are at least 0
    sizes = place.max(0) + 2
    steps = np.cumprod([1, *sizes[:-1]])
    cells, of_pixel = np.unique(place @ steps, return_inverse=True)
    count, pixels = len(cells), len(of_pixel)
    splat = sparse.csr_matrix((np.ones(pixels), (of_pixel, np.arange(pixels))), (count, pixels))
    blur = 2 * len(steps) * sparse.identity(count, format="csr")
    for step in steps:
        found = np.searchsorted(cells, cells + step)
        there = np.flatnonzero(cells[np.minimum(found, count - 1)] == cells + step)
        pairs = sparse.csr_matrix((np.ones(len(there)), (there, found[there])), (count, count))
        blur = blur + pairs + pairs.T
    return splat, blur


def bilateral_solver(
    scene: Scene, *, sigma_spatial: float, sigma_luma: float, sigma_chroma: float, smoothness: float
) -> NDArray[np.int64]:
    """``min_x λ/2 Σ_ij Ŵ_ij (x_i - x_j)² + Σ_i c_i (x_i - t_i)²`` for each label's probability t.

    Ŵ is the bistochastic bilateral affinity on the simplified grid, c a pixel's highest probability,
    λ the `smoothness`; conjugate gradients on the grid with Jacobi's preconditioner.
    """
    sparse, linalg = (optional(f"scipy.sparse{part}", "train", "the solver") for part in ("", ".linalg"))
    splat, blur = _grid(scene.image, sigma_spatial, sigma_luma, sigma_chroma)
    mass = np.asarray(splat.sum(1)).ravel()
    scale = np.ones_like(mass)
    for _ in range(BALANCING):
        scale = np.sqrt(scale * mass / (blur @ scale))
    mass = scale * (blur @ scale)  # the mass of the blur after these iterations
    p = scene.probabilities.numpy().reshape(len(scene.labels), -1).astype(np.float64)
    confidence = p.max(0)
    balanced = sparse.diags(scale) @ blur @ sparse.diags(scale)
    weights = splat @ confidence
    system = smoothness * (sparse.diags(mass) - balanced) + sparse.diags(weights)
    jacobi = sparse.diags(1 / system.diagonal())
    found = []
    for target in p:
        right = splat @ (confidence * target)
        solved, _ = linalg.cg(system, right, right / weights, rtol=_TINY, maxiter=SOLVING, M=jacobi)
        found.append(solved)
    return (np.argmax(found, 0) @ splat).astype(np.int64).reshape(scene.image.shape[:2])


SOLVER = Refiner(
    "bilateral-solver", "fast bilateral solver", "Barron & Poole, ECCV 2016, arXiv:1511.03296",
    bilateral_solver,
    {"sigma_spatial": 8.0, "sigma_luma": 8.0, "sigma_chroma": 8.0, "smoothness": 128.0},
    {"sigma_spatial": Range(3.0, 40.0), "sigma_luma": Range(3.0, 40.0), "sigma_chroma": Range(3.0, 40.0),
     "smoothness": Range(0.5, 512.0)},
)  # fmt: skip
