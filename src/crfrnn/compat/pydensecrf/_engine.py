# SPDX-License-Identifier: MIT
"""Runs the engine for the interface: pydensecrf's lattice, no gradients, one thread in a worker process."""

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

_PROCESS = os.getpid()  # the importing process; in a forked child getpid() differs
QUALITY = "classic"  # pydensecrf's lattice with equal constants
_KEPT_PIXELS = 2**20  # a spatial kernel of this size takes about 40 MiB


@contextmanager
def running() -> Iterator[None]:
    """No gradients, no half precision; one thread in a worker process, assuming one process per core.

    A forked child cannot use more: it does not inherit its parent's thread pool, and a parallel loop would
        wait for it forever.
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
    """The spatial kernel of a picture (height, width); the last two are cached for pictures of equal size."""
    build = _spatial_kernel if grid[0] * grid[1] <= _KEPT_PIXELS else _spatial_kernel.__wrapped__
    return build(grid, sxy, normalization)


@lru_cache(maxsize=2)
def _spatial_kernel(grid: tuple[int, int], sxy: tuple[float, float], normalization: str) -> GaussianKernel:
    return GaussianKernel.spatial(grid, sxy, "lattice", normalization, QUALITY, dtype=torch.float32)


def forget() -> None:
    """Clear the cache of spatial kernels."""
    _spatial_kernel.cache_clear()


def scattered_kernel(features: Tensor, normalization: str) -> GaussianKernel:
    """A kernel on Float32[1, N, d] in units of the bandwidths; d above the compiled limit uses torch."""
    if features.shape[2] <= MAX_DIMENSION:
        return GaussianKernel(features, "lattice", normalization, QUALITY)
    features = check_features(features, max_dimension=None)
    lattice = Lattice.of_checked(features, get_quality(QUALITY), None, "reference")
    return GaussianKernel(features, normalization=normalization, operator=lattice)
