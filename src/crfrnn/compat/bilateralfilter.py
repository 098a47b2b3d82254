# SPDX-License-Identifier: MIT
"""The module `bilateralfilter` of rloss on this engine: change the import line, or call `install()`.

Projects for weak supervision (rloss, ToCo, SeCo, MoRe and others) build it with SWIG for their dense-CRF
loss.
"""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from crfrnn.compat._names import stand_in
from crfrnn.crf import GaussianKernel

__all__ = ["DenseCRFLoss", "bilateralfilter", "bilateralfilter_batch", "install"]


def bilateralfilter(
    image: Any, values: Any, out: NDArray[np.float32], H: int, W: int, sigmargb: float, sigmaxy: float
) -> None:
    """Write the bilateral filter of one picture's planes into `out`.

    ``out_i = Σ_j exp(-|p_i - p_j|²/2σ_xy² - |I_i - I_j|²/2σ_rgb²) values_j`` for each plane, including j = i
    and without normalisation, by the lattice with the constants of the original (quality "classic").

    Args:
        image: 3·H·W numbers, flat: the planes red, green, blue in 0..255.
        values: K·H·W numbers, flat: K planes.
        out: Float32[K·H·W], contiguous; written in place.
        sigmargb: in colour steps. sigmaxy: in pixels.

    Raises:
        TypeError, ValueError: an argument of another form.

    Source: Tang et al., *On Regularized Losses for Weakly-supervised CNN Segmentation*, ECCV 2018,
    doi:10.1007/978-3-030-01270-0_31, with its published code.

    >>> out = np.zeros(12, np.float32)
    >>> bilateralfilter(np.zeros(36), np.ones(12), out, 3, 4, sigmargb=15, sigmaxy=100)
    >>> bool(np.allclose(out, 12, rtol=0.05))  # all pixels are similar and near: a sum
    True
    """
    bilateralfilter_batch(image, values, out, 1, _planes("values", values, H * W), H, W, sigmargb, sigmaxy)


def bilateralfilter_batch(
    images: Any,
    values: Any,
    out: NDArray[np.float32],
    N: int,
    K: int,
    H: int,
    W: int,
    sigmargb: float,
    sigmaxy: float,
) -> None:
    """`bilateralfilter` of N pictures at once, each with K planes.

    Args:
        images: N·3·H·W numbers, flat. values: N·K·H·W numbers, flat.
        out: Float32[N·K·H·W], contiguous; written in place.

    Raises:
        TypeError, ValueError: an argument of another form.

    >>> out = np.zeros(24, np.float32)
    >>> bilateralfilter_batch(np.zeros(72), np.ones(24), out, 2, 1, 3, 4, 15.0, 100.0)
    >>> bool(np.array_equal(out[:12], out[12:]))
    True
    """
    if not isinstance(out, np.ndarray) or out.dtype != np.float32 or not out.flags.c_contiguous:
        form = f"{out.dtype} {out.shape}" if isinstance(out, np.ndarray) else type(out).__name__
        raise TypeError(
            f"out: expected a contiguous float32 array to write into, got {form}; "
            "np.zeros(values.shape, np.float32) makes one"
        )
    pixels = H * W
    if out.size != N * K * pixels:
        raise ValueError(f"out: expected {N * K * pixels} numbers, got {out.size}")
    guide = torch.from_numpy(_flat("images", images, N * 3 * pixels).reshape(N, 3, H, W))
    planes = torch.from_numpy(_flat("values", values, N * K * pixels).reshape(N, K, H, W))
    with torch.no_grad():
        filtered = _filtered(guide, planes, sigmargb, sigmaxy)
    out.reshape(-1)[:] = filtered.reshape(-1).numpy()


class DenseCRFLoss(nn.Module):
    """The regularised loss of rloss: ``weight · -(1/N) Σ_n Σ_k S_nkᵀ W_n S_nk`` over pictures n and labels k.

    W is the bilateral kernel of `bilateralfilter`. Pictures, probabilities and regions are first scaled by
    `scale_factor`, and so is `sigma_xy`. Runs on any device without copies to the CPU; the gradient is exact
    for the filter in use, ``-(W + Wᵀ) S / N`` (the original uses ``-2 W S / N``).

    Args:
        weight: a factor. sigma_rgb: in colour steps. sigma_xy: in pixels. scale_factor: factor of both sides.

    >>> loss = DenseCRFLoss(weight=1e-7, sigma_rgb=15.0, sigma_xy=100.0, scale_factor=0.5)
    >>> probabilities = torch.full((2, 21, 8, 8), 1 / 21, requires_grad=True)
    >>> loss(torch.zeros(2, 3, 8, 8), probabilities, torch.ones(2, 8, 8)).backward()
    >>> probabilities.grad.shape
    torch.Size([2, 21, 8, 8])
    """

    def __init__(self, weight: float, sigma_rgb: float, sigma_xy: float, scale_factor: float) -> None:
        super().__init__()
        self.weight, self.sigma_rgb, self.sigma_xy = weight, sigma_rgb, sigma_xy
        self.scale_factor = scale_factor

    def forward(self, images: Tensor, segmentations: Tensor, ROIs: Tensor) -> Tensor:
        """Float[1] from pictures Float[N, 3, H, W] in 0..255, probabilities Float[N, K, H, W] and regions
        Float[N, H, W], 1 where the loss counts and 0 elsewhere."""
        images = F.interpolate(images, scale_factor=self.scale_factor)
        regions = F.interpolate(ROIs.unsqueeze(1), scale_factor=self.scale_factor)
        s = F.interpolate(segmentations, scale_factor=self.scale_factor, mode="bilinear", align_corners=False)
        s = s * regions.to(s)
        filtered = _filtered(images.to(s.device), s, self.sigma_rgb, self.sigma_xy * self.scale_factor)
        return self.weight * -(s * filtered).sum().reshape(1) / len(s)

    def extra_repr(self) -> str:
        return (
            f"sigma_rgb={self.sigma_rgb}, sigma_xy={self.sigma_xy}, weight={self.weight}, "
            f"scale_factor={self.scale_factor}"
        )


def install() -> None:
    """Make ``import bilateralfilter`` import this module for the rest of this process.

    Nothing on disk changes. Call it before the code that imports the original.

    Warns:
        RuntimeWarning: the original was already imported; names imported from it still refer to it.

    >>> install()
    >>> from bilateralfilter import bilateralfilter_batch as found
    >>> found.__module__
    'crfrnn.compat.bilateralfilter'
    """
    modules = {"bilateralfilter": sys.modules[bilateralfilter_batch.__module__]}
    stand_in(modules, modules, "crfrnn.compat.bilateralfilter.install", "bilateralfilter")


def _filtered(images: Tensor, planes: Tensor, sigma_rgb: float, sigma_xy: float) -> Tensor:
    """Float[N, K, H, W] filtered by the unnormalised bilateral kernel of Float[N, 3, H, W]."""
    for name, sigma in (("sigma_rgb", sigma_rgb), ("sigma_xy", sigma_xy)):
        if not 0 < sigma < math.inf:
            raise ValueError(f"{name}: expected a finite number above 0, got {sigma!r}")
    kernel = GaussianKernel.bilateral(images, sigma_xy, sigma_rgb, normalization="none", quality="classic")
    return (kernel @ planes.flatten(2).mT).mT.reshape(planes.shape)


def _flat(name: str, numbers: Any, size: int) -> NDArray[np.float32]:
    array = np.ascontiguousarray(numbers, dtype=np.float32)
    if array.size != size:
        raise ValueError(f"{name}: expected {size} numbers, got {array.size}; check N, K, H and W")
    return array


def _planes(name: str, numbers: Any, pixels: int) -> int:
    size = np.size(numbers)
    if pixels <= 0 or size % pixels:
        raise ValueError(f"{name}: expected planes of {pixels} numbers, got {size}; check H and W")
    return size // pixels
