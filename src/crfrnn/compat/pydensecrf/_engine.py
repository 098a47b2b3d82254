# SPDX-License-Identifier: MIT
"""How the face runs the engine: pydensecrf's lattice, without gradients, one thread in a worker process."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import torch
from torch import Tensor

from crfrnn.crf import GaussianKernel
from crfrnn.lattice import Lattice
from crfrnn.lattice.quality import get_quality
from crfrnn.lattice.validate import MAX_DIMENSION, check_features

_PROCESS = os.getpid()  # the one that imported this module; in a forked child getpid() differs
QUALITY = "classic"  # pydensecrf's lattice to the last constant
_KEPT_PIXELS = 2**20  # a spatial kernel of so many pixels takes some 40 MiB


@contextmanager
def running() -> Iterator[None]:
    """No gradients, no half precision; one thread in a worker process, where there is one for each core.

    A forked child cannot use more: the thread pool that its parent started is not in it, and a parallel loop
    waits for it for ever.
    """
    threads = torch.get_num_threads()
    alone = threads > 1 and (os.getpid() != _PROCESS or multiprocessing.parent_process() is not None)
    if alone:
        torch.set_num_threads(1)
    try:
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            yield
    finally:
        if alone:
            torch.set_num_threads(threads)


def spatial_kernel(grid: tuple[int, int], sxy: tuple[float, float], normalization: str) -> GaussianKernel:
    """Over the pixels of a picture (height, width); the last two are kept, for pictures of one size."""
    build = _spatial_kernel if grid[0] * grid[1] <= _KEPT_PIXELS else _spatial_kernel.__wrapped__
    return build(grid, sxy, normalization)


@lru_cache(maxsize=2)
def _spatial_kernel(grid: tuple[int, int], sxy: tuple[float, float], normalization: str) -> GaussianKernel:
    return GaussianKernel.spatial(grid, sxy, "lattice", normalization, QUALITY, dtype=torch.float32)


def forget() -> None:
    """Drop the spatial kernels that are kept."""
    _spatial_kernel.cache_clear()


def scattered_kernel(features: Tensor, normalization: str) -> GaussianKernel:
    """Float32[1, N, d] in units of the bandwidths, any d: beyond the compiled lattice's d in plain torch."""
    if features.shape[2] <= MAX_DIMENSION:
        return GaussianKernel(features, "lattice", normalization, QUALITY)
    features = check_features(features, max_dimension=None)
    lattice = Lattice.of_checked(features, get_quality(QUALITY), None, "reference")
    return GaussianKernel(features, normalization=normalization, operator=lattice)
