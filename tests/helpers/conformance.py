# SPDX-License-Identifier: MIT
"""The rows of the conformance suite: a backend and a dtype is one row, every test runs on all of them."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

import torch
from torch import Tensor

from crfrnn.crf.kernels import GaussianKernel, SymmetrizedKernel

THETA = {"theta_alpha": 3.1234, "theta_beta": 41.567}  # away from the borders between simplices
THETA_GAMMA = 2.3456
LATTICES = ["reference"]
if importlib.util.find_spec("crfrnn.lattice.cpu") is not None:
    LATTICES.append("cpu")
HAS_GPU = torch.cuda.is_available()
TRITON_DEVICE = "cuda" if HAS_GPU else "cpu"  # where its kernels run: on a CPU in the interpreter
if importlib.util.find_spec("triton") is not None and not HAS_GPU:
    LATTICES.append("triton")  # in the interpreter, see conftest.py
METHODS = [*LATTICES, "exact", "separable"]


@dataclass(frozen=True)
class Row:
    """How to build a kernel over a picture, and the accuracy of its arithmetic."""

    method: str
    dtype: torch.dtype
    device: str = "cpu"

    def __str__(self) -> str:
        where = {"cpu": "-interpreter", "cuda": "-cuda"}[self.device] if self.method == "triton" else ""
        return f"{self.method}{where}-{str(self.dtype).removeprefix('torch.')}"

    @property
    def is_lattice(self) -> bool:
        return self.method in LATTICES or self.method == "triton"

    @property
    def tolerance(self) -> float:
        return 1e-4 if self.dtype == torch.float32 else 1e-11

    def kernel(self, image: Tensor, normalization: str = "after", **options: object) -> GaussianKernel:
        """Bilateral over Float[B, C, H, W]; separable, which ignores colours, over its grid."""
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


DTYPES = (torch.float32, torch.float64)
ROWS = [Row(method, dtype) for method in METHODS if method != "triton" for dtype in DTYPES]
# The interpreter is slow; in float64 it is compared with the reference itself, below and in test_lattice.py.
ROWS += [Row("triton", torch.float32)] if "triton" in LATTICES else []
ROWS += [Row("triton", dtype, "cuda") for dtype in DTYPES]
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
    plain = kernel.kernel if isinstance(kernel, SymmetrizedKernel) else kernel
    eye = torch.eye(points, dtype=plain.features.dtype)
    return kernel @ eye.expand(batch, points, points)
