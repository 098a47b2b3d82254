# SPDX-License-Identifier: MIT
"""Features of the Gaussian kernels: positions and colours divided by their bandwidths."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from crfrnn.crf.validate import describe
from crfrnn.lattice.validate import check_dense, fit_for_a_bandwidth

_PART = 2**16  # pixels per chunk of a covariance, which is computed in float64


def bandwidths(
    name: str,
    theta: Tensor | float | Sequence[float],
    count: int,
    unit: str,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """A positive number or one per axis, as a differentiable Float[count].

    dtype and device: by default those of `theta` if it is a tensor, else torch's defaults.

    >>> bandwidths("theta", 3.0, 2, "pixels")
    tensor([3., 3.])
    """
    if not isinstance(theta, Tensor):
        try:
            theta = torch.as_tensor(theta, dtype=dtype or torch.get_default_dtype())
        except (TypeError, ValueError, RuntimeError, OverflowError) as error:
            raise TypeError(
                f"{name}: expected a positive number or {count} of them, got {describe(theta)}"
            ) from error
    if not theta.is_floating_point():
        theta = theta.to(torch.get_default_dtype())
    theta = theta.to(device=device, dtype=dtype)
    if theta.ndim > 1 or (theta.ndim == 1 and len(theta) not in (1, count)):
        raise ValueError(
            f"{name}: expected a positive number or {count} of them, got {describe(theta)}; "
            "positions are ordered x, y, z, channels as in the image"
        )
    if not fit_for_a_bandwidth(theta):
        raise ValueError(f"{name}: expected positive finite bandwidths in {unit}, got {theta.tolist()}")
    return theta.expand(count)


def grid_features(shape: Sequence[int], theta: Tensor, origin: Sequence[int] | None = None) -> Tensor:
    """Pixel positions over bandwidths, Float[N, axes] in the order x, y, (z), N pixels in row-major order.

    `origin`: the first pixel's position in the order of `shape`, so that tiles share coordinates.

    >>> grid_features((1, 3), torch.tensor([2.0, 1.0]), origin=(5, 0))
    tensor([[0.0000, 5.0000],
            [0.5000, 5.0000],
            [1.0000, 5.0000]])
    """
    if len(shape) < 1 or any(n < 0 for n in shape):
        raise ValueError(f"shape: expected the size of at least one spatial axis, got {tuple(shape)}")
    first = tuple(origin) if origin is not None else (0,) * len(shape)
    if len(first) != len(shape):
        raise ValueError(f"origin: expected {len(shape)} positions, one per axis, got {first}")
    work = theta if theta.dtype == torch.float64 else theta.float()
    axes = [  # divided before expansion to the grid, while they are small
        torch.arange(begin, begin + n, dtype=work.dtype, device=work.device) / bandwidth
        for begin, n, bandwidth in zip(first, shape, work.flip(0), strict=True)
    ]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1], -1)
    return grid.reshape(math.prod(shape), len(shape))


def image_features(
    image: Tensor,
    theta_alpha: Tensor | float | Sequence[float],
    theta_beta: Tensor | float | Sequence[float],
    origin: Sequence[int] | None = None,
    components: int | Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Positions / θ_α then channels / θ_β: Float or UInt8[B, C, *spatial] -> Float[B, N, axes + C].

    `origin` as in `grid_features`. float64 if the image is, else float32. With `components` the scaled
    channels are projected onto that many principal directions of the pixels in Bool[B, N] `mask`
    (`principal_directions`), or onto the columns of Float[C, k]; a distance of 1 remains one bandwidth.

    >>> image_features(torch.zeros(1, 3, 4, 5, dtype=torch.uint8), 80.0, 13.0).shape
    torch.Size([1, 20, 5])
    """
    if not isinstance(image, Tensor) or not (image.is_floating_point() or image.dtype == torch.uint8):
        raise TypeError(
            f"image: expected a float or uint8 tensor [B, C, *spatial], got {describe(image)}; "
            "convert with image.float()"
        )
    check_dense("image", image)
    if image.ndim < 3 or image.shape[1] < 1:
        raise ValueError(
            f"image: expected [B, C, *spatial] with at least one channel and axis, got {describe(image)}; "
            "add a missing batch axis with image.unsqueeze(0), a missing channel axis with image.unsqueeze(1)"
        )
    dtype = image.dtype if image.dtype == torch.float64 else torch.float32
    shape = image.shape[2:]
    alpha = bandwidths("theta_alpha", theta_alpha, len(shape), "pixels", dtype, image.device)
    beta = bandwidths("theta_beta", theta_beta, image.shape[1], "the image's units", dtype, image.device)
    places = grid_features(shape, alpha, origin).expand(image.shape[0], -1, -1)
    colours = image.flatten(2).to(dtype) / beta[:, None]  # by planes: five times as fast as by pixels
    if components is not None:
        directions = _directions(colours, components, mask)
        # Not a matrix product: autocast and TF32 would cost the features three digits.
        each = zip(colours.unbind(1), directions.unbind(1), strict=True)
        terms = (channel.unsqueeze(1) * part.unsqueeze(-1) for channel, part in each)
        colours = functools.reduce(torch.add, terms)
    return torch.cat([places, colours.transpose(1, 2)], -1)


def principal_directions(colours: Tensor, count: int, mask: Tensor | None = None) -> Tensor:
    """The `count` directions in which the pixels' channels vary most: Float[B, C, N] -> Float[B, C, count].

    The eigenvectors of each picture's covariance with the largest eigenvalues, which are the leading right
    singular vectors of the centred pixels. They are orthonormal; the entry of largest magnitude of
    each is positive. Bool[B, N] `mask`: True = valid, other pixels are excluded. No gradient flows through
    the directions.

    Pearson, Philosophical Magazine 2(11), 1901, doi:10.1080/14786440109462720.

    >>> principal_directions(torch.tensor([[[0.0, 3.0, 6.0], [0.0, 4.0, 8.0]]]), 1)
    tensor([[[0.6000],
             [0.8000]]])
    """
    channels = colours.shape[1]
    if isinstance(count, bool) or not isinstance(count, int):
        raise TypeError(
            f"guide_components: expected an integer or Float[C, k] directions, got {describe(count)}"
        )
    if not 1 <= count <= channels:
        raise ValueError(
            f"guide_components: expected 1 to {channels}, as many as the guide has channels, got {count}; "
            "None uses the channels unchanged"
        )
    with torch.no_grad():
        valid = torch.ones_like(colours[:1, :1], dtype=torch.bool) if mask is None else mask.unsqueeze(1)
        # Not a multiplication: a masked pixel may hold NaN.
        mean = torch.where(valid, colours, 0).mean(-1, keepdim=True, dtype=torch.float64)
        mean = mean / valid.double().mean(-1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
        covariance = mean.new_zeros(len(colours), channels, channels)
        for part, there in zip(
            colours.split(_PART, -1), valid.expand_as(colours).split(_PART, -1), strict=True
        ):
            centred = torch.where(there, part.double() - mean, 0)
            covariance += centred @ centred.mT
        vectors = torch.linalg.eigh(covariance)[1][..., -count:].flip(-1)
        largest = vectors.gather(1, vectors.abs().argmax(1, keepdim=True))
        return (vectors * torch.where(largest < 0, -1.0, 1.0)).to(colours.dtype)


def _directions(colours: Tensor, components: int | Tensor, mask: Tensor | None) -> Tensor:
    """Float[B or 1, C, k]."""
    if not isinstance(components, Tensor):
        return principal_directions(colours, components, mask)
    if components.ndim != 2 or components.shape[0] != colours.shape[1] or not components.is_floating_point():
        raise ValueError(
            f"guide_components: expected directions Float[{colours.shape[1]}, k], a row per channel of the "
            f"guide, got {describe(components)}"
        )
    return components.to(colours).unsqueeze(0)
