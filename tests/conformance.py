# SPDX-License-Identifier: MIT
"""The rows of the conformance suite: a backend and a dtype is one row, every test runs on all of them."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

import torch
from torch import Tensor

from crfrnn.crf.kernels import GaussianKernel, SymmetrizedKernel

THETA = {"theta_alpha": 3.1234, "theta_beta": 41.567}  # off the lattice's ties
THETA_GAMMA = 2.3456
LATTICES = ["reference"]
if importlib.util.find_spec("crfrnn.lattice.cpu") is not None:
    LATTICES.append("cpu")
METHODS = [*LATTICES, "exact", "separable"]


@dataclass(frozen=True)
class Row:
    """How to build a kernel over a picture, and how exact its arithmetic is."""

    method: str
    dtype: torch.dtype

    def __str__(self) -> str:
        return f"{self.method}-{str(self.dtype).removeprefix('torch.')}"

    @property
    def is_lattice(self) -> bool:
        return self.method in LATTICES

    @property
    def tolerance(self) -> float:
        return 1e-4 if self.dtype == torch.float32 else 1e-11

    def kernel(self, image: Tensor, normalization: str = "after", **options: object) -> GaussianKernel:
        """Bilateral over Float[B, C, H, W]; separable, which knows no colours, over its grid."""
        if self.method == "separable":
            shape = tuple(image.shape[2:])
            options.pop("quality", None)
            return GaussianKernel.spatial(
                shape, THETA_GAMMA, normalization=normalization, dtype=self.dtype, **options
            )
        how = {"method": "lattice", "backend": self.method} if self.is_lattice else {"method": self.method}
        return GaussianKernel.bilateral(
            image.to(self.dtype), **THETA, normalization=normalization, **how, **options
        )

    def points(self, features: Tensor, normalization: str = "after", **options: object) -> GaussianKernel:
        """Over free points Float[B, N, d]."""
        how = {"method": "lattice", "backend": self.method} if self.is_lattice else {"method": self.method}
        return GaussianKernel(features.to(self.dtype), normalization=normalization, **how, **options)

    def values(self, batch: int, points: int, channels: int = 3) -> Tensor:
        return torch.rand(batch, points, channels, dtype=self.dtype)


ROWS = [Row(method, dtype) for method in METHODS for dtype in (torch.float32, torch.float64)]
NORMALIZATIONS = ("none", "before", "after", "symmetric")


def picture(batch: int = 2, channels: int = 3, height: int = 6, width: int = 7) -> Tensor:
    """Float64[B, C, H, W] in 0..255, a ramp with an edge: pixels share vertices and miss neighbours."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    ramp = 12.0 * x + 7.0 * y + 90.0 * (x > width // 2)
    noise = 20 * torch.rand(batch, channels, height, width, dtype=torch.float64)
    return (ramp + noise + 5 * torch.arange(channels).view(-1, 1, 1)).clamp(0, 255)


def matrix(kernel: GaussianKernel | SymmetrizedKernel) -> Tensor:
    """The kernel as Float[B, N, N]."""
    batch, points = kernel.shape
    eye = torch.eye(points, dtype=getattr(kernel, "kernel", kernel).features.dtype)
    return kernel @ eye.expand(batch, points, points)
