# SPDX-License-Identifier: MIT
"""The exact Gaussian filter over a regular grid: one 1-D filter per axis, without truncation."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from crfrnn.lattice.validate import check_dense, check_values, compute_dtype, describe, fit_for_a_bandwidth

DENSE = 4096  # longer axes use an FFT: a dense matrix would exceed the size of the picture


def separable_filter(values: Tensor, theta: Tensor | float) -> Tensor:
    """Gaussian sum over a grid: out(p) = Σ_q exp(-½ Σ_a ((p_a - q_a) / θ_a)²) v(q), the self term included.

    values Float[B, *spatial, C], any number of spatial axes; theta a positive number or one per axis in the
    order x, y, z (x is the last spatial axis), in pixels. float64 if either of them is, else float32.
    Differentiable in both.

    The Gaussian of Krähenbühl & Koltun, NIPS 2011, eq. 3 (arXiv:1210.5644), is a product over a grid's axes.

    >>> separable_filter(torch.ones(1, 1, 2, 1), theta=1.0).squeeze()
    tensor([1.6065, 1.6065])
    """
    if not isinstance(values, Tensor) or not values.is_floating_point():
        raise TypeError(
            f"values: expected a floating-point tensor [B, *spatial, C], got {describe(values)}; "
            "convert with values.float()"
        )
    check_dense("values", values)
    axes = values.ndim - 2
    if axes < 1:
        raise ValueError(
            f"values: expected [B, *spatial, C] with at least one spatial axis, got {describe(values)}; "
            "a signal [B, N, C] has one"
        )
    return _filter_axes(values, check_theta(theta, axes, values))


def _filter_axes(values: Tensor, theta: Tensor) -> Tensor:
    """`separable_filter` of validated values and one θ per axis."""
    for index in range(values.ndim - 2):
        axis = values.ndim - 2 - index  # x is the last spatial axis
        values = _filter_axis(values.movedim(axis, -1), theta[index]).movedim(-1, axis)
    return values


def check_theta(theta: Tensor | float, axes: int, values: Tensor) -> Tensor:
    """Positive bandwidths, Float[axes], in the computing dtype of the filter."""
    if not isinstance(theta, Tensor):
        theta = torch.as_tensor(theta, dtype=compute_dtype(values), device=values.device)
    theta = theta.to(compute_dtype(values, theta))
    if theta.ndim > 1 or (theta.ndim == 1 and len(theta) not in (1, axes)):
        raise ValueError(
            f"theta: expected a number or one per axis ({axes}, in the order x, y, z), got {describe(theta)}"
        )
    if not fit_for_a_bandwidth(theta):
        raise ValueError(f"theta: expected positive finite bandwidths in pixels, got {theta.tolist()}")
    return theta.expand(axes)


@dataclass(frozen=True, eq=False)
class Separable:
    """`separable_filter` as a linear operator over the pixels of a grid in row-major order.

    grid   the spatial shape, for example (H, W)
    theta  Float[axes], bandwidths in pixels in the order x, y, z

    >>> Separable((4, 5), torch.tensor([2.0, 3.0])).filter(torch.ones(7, 20, 1)).shape
    torch.Size([7, 20, 1])
    """

    grid: tuple[int, ...]
    theta: Tensor

    is_symmetric = True

    def filter(self, values: Tensor, reverse: bool = False) -> Tensor:
        """Float[B, N, C] -> Float[B, N, C], any B; symmetric, so `reverse` changes nothing."""
        values = check_values(values, *self.shape, self.theta.device)
        batch, _, channels = values.shape
        return separable_filter(values.reshape(batch, *self.grid, channels), self.theta).reshape(values.shape)

    def apply(self, values: Tensor, reverse: bool = False) -> Tensor:
        """`filter` of values returned by `check_values`, with θ returned by `check_theta`."""
        batch, _, channels = values.shape
        theta = self.theta.to(compute_dtype(values, self.theta))
        return _filter_axes(values.reshape(batch, *self.grid, channels), theta).reshape(values.shape)

    def mass(self) -> Tensor:
        """The filter's response to ones, Float[1, N]: the product of the axes' responses."""
        total = torch.ones(1, dtype=self.theta.dtype, device=self.theta.device)
        for length, theta in zip(
            reversed(self.grid), self.theta, strict=True
        ):  # x, the first, varies fastest
            # Not a matrix product, whose rounding depends on the number of threads, nor torch's sum on a GPU.
            weights = _axis_weights(length, theta)
            reach = running_sums(weights) if weights.is_cuda else weights.cumsum(0)
            along = reach + reach.flip(0) - 1
            total = (along[:, None] * total).flatten()
        return total.unsqueeze(0)

    def diagonal(self) -> Tensor:
        """exp(0) = 1, Float[1, N]."""
        return torch.ones(self.shape, dtype=self.theta.dtype, device=self.theta.device)

    @property
    def shape(self) -> tuple[int, int]:
        """(1, N): the same for every picture of a batch."""
        return 1, math.prod(self.grid)


def running_sums(numbers: Tensor, side: int = 64) -> Tensor:
    """Σ_{j ≤ i} x_j of Float[N], in one fixed order. On a GPU that of torch.cumsum depends on timing.

    >>> running_sums(torch.ones(5), side=2)
    tensor([1., 2., 3., 4., 5.])
    """
    pad = torch.nn.functional.pad
    rows = pad(numbers, (0, -len(numbers) % side)).view(-1, side)
    inside = (rows.unsqueeze(1) * rows.new_ones(side, side).tril()).sum(-1)
    if len(rows) > 1:
        inside = inside + pad(running_sums(inside[:-1, -1], side), (1, 0)).unsqueeze(1)
    return inside.flatten()[: len(numbers)]


def _axis_weights(length: int, theta: Tensor) -> Tensor:
    """exp(-½ (k/θ)²) for the offsets k = 0..length - 1."""
    offsets = torch.arange(length, dtype=theta.dtype, device=theta.device)
    return torch.exp(-0.5 * (offsets / theta).square())


def _filter_axis(values: Tensor, theta: Tensor) -> Tensor:
    """Convolve the last axis with exp(-½ (k/θ)²)."""
    length = values.shape[-1]
    values = values.to(theta.dtype)
    with torch.autocast(values.device.type, enabled=False):
        half = _axis_weights(length, theta)
        if torch.compiler.is_compiling():  # unfold would specialise a symbolic length
            places = torch.arange(length, device=theta.device)
            return values @ half[(places[:, None] - places).abs()]
        if length <= DENSE:
            row = torch.cat([half[1:].flip(0), half])  # the matrix is Toeplitz
            return values @ row.unfold(0, length, 1)[:length].flip(0)
        # Period 2n has room for every offset -(n-1)..n-1, so nothing wraps around.
        kernel = torch.cat([half, half.new_zeros(1), half[1:].flip(0)])
        spectrum = torch.fft.rfft(values, 2 * length) * torch.fft.rfft(kernel)
        return torch.fft.irfft(spectrum, 2 * length)[..., :length]
