# SPDX-License-Identifier: MIT
"""Footprints of kernels: the weights of all pixels in the message to one pixel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from crfrnn.crf import GaussianKernel
from crfrnn.plots.charts import figure_of, picture_of

Pixel = tuple[int, int]  # x, y


@torch.no_grad()
def footprint(kernel: GaussianKernel, shape: tuple[int, int], pixel: Pixel) -> NDArray[np.float64]:
    """Row i of a kernel as computed: ``K_ij / Σ_j K_ij`` at every pixel j, Float[H, W], sum 1.

    Args:
        kernel: for one picture, with any method and normalisation.
        shape: (H, W) of the picture.
        pixel: (x, y) of i.

    >>> kernel = GaussianKernel.spatial((3, 3), 1.0)
    >>> int(footprint(kernel, (3, 3), (1, 1)).argmax())
    4
    """
    one = torch.zeros(1, shape[0] * shape[1], 1, dtype=kernel.features.dtype)
    one[0, _index(shape, pixel)] = 1
    return _as_shares(kernel.T @ one, shape)


@torch.no_grad()
def exact_footprint(kernel: GaussianKernel, shape: tuple[int, int], pixel: Pixel) -> NDArray[np.float64]:
    """The same row by its formula, ``exp(-½ |f_i - f_j|²)`` over its sum, in float64.

    Args: as in `footprint`; only the kernel's features are used.

    >>> kernel = GaussianKernel.spatial((3, 3), 1.0)
    >>> np.allclose(exact_footprint(kernel, (3, 3), (0, 2)), footprint(kernel, (3, 3), (0, 2)))
    True
    """
    features = kernel.features[0].double()
    apart = (features - features[_index(shape, pixel)]).square().sum(-1)
    return _as_shares((-0.5 * apart).exp(), shape)


def kernel_footprints(
    image: NDArray[np.uint8], footprints: Mapping[str, NDArray[np.float64]], pixel: Pixel
) -> Image.Image:
    """Weights over the photograph, side by side on one scale; a cross marks the receiving pixel.

    Args:
        image: UInt8[H, W, 3].
        footprints: Float[H, W] by title, from `footprint` and `exact_footprint`.
        pixel: (x, y).

    The colour scale is logarithmic, from the largest weight down to a thousandth of it; below that the
    photograph is shown, pale and grey. The figure is cropped to the part with such weights, with a margin.

    >>> weights = np.full((8, 8), 1 / 64)
    >>> kernel_footprints(np.zeros((8, 8, 3), np.uint8), {"exact": weights}, (3, 4)).mode
    'RGB'
    """
    height, width = image.shape[:2]
    for weights in footprints.values():
        if weights.shape != (height, width):
            raise ValueError(
                f"footprints: expected {(height, width)} as the picture has, got {weights.shape}"
            )
    top = max(float(weights.max()) for weights in footprints.values())
    left, right, above, bottom = _window([weights > top / 1000 for weights in footprints.values()])
    pale = 255 - 0.4 * (255 - image @ np.array([0.299, 0.587, 0.114]))
    ratio = (right - left) / (bottom - above)
    across = 4.2 * min(1.0, ratio) + 0.2
    figure, _ = figure_of(across * len(footprints) + 1.1, 4.2 * min(1.0, 1 / ratio) + 0.7)
    figure.clear()
    places = figure.subplots(1, len(footprints), squeeze=False)[0]
    for axes, (title, weights) in zip(places, footprints.items(), strict=True):
        shares = np.log10(np.maximum(weights, 1e-300) / top)
        axes.imshow(pale, cmap="gray", vmin=0, vmax=255)
        shown = np.ma.masked_less(shares, -3)
        cells = axes.imshow(shown, cmap="viridis", vmin=-3, vmax=0, alpha=0.85, interpolation="nearest")
        axes.plot(*pixel, marker="+", color="#ec008c", markersize=12, markeredgewidth=2)
        axes.set(title=title, xticks=[], yticks=[], xlim=(left, right), ylim=(bottom, above))
    bar = figure.colorbar(cells, ax=list(places), shrink=0.85, ticks=[-3, -2, -1, 0])
    bar.ax.set_yticklabels(["1/1000", "1/100", "1/10", "largest"])
    return picture_of(figure)


def _window(marked: Sequence[NDArray[np.bool_]]) -> tuple[float, float, float, float]:
    """Left, right, upper and lower edge of the union of the masks, with a margin, within the picture."""
    height, width = marked[0].shape
    y, x = np.nonzero(np.logical_or.reduce(marked))
    edges = []
    for places, size in ((x, width), (y, height)):
        margin = max(8, (places.max() - places.min()) // 3)
        edges += [max(0, places.min() - margin) - 0.5, min(size - 1, places.max() + margin) + 0.5]
    return float(edges[0]), float(edges[1]), float(edges[2]), float(edges[3])


def _index(shape: tuple[int, int], pixel: Pixel) -> int:
    x, y = pixel
    if not (0 <= x < shape[1] and 0 <= y < shape[0]):
        raise ValueError(f"pixel: expected x in 0..{shape[1] - 1} and y in 0..{shape[0] - 1}, got {x} {y}")
    return y * shape[1] + x


def _as_shares(weights: Tensor, shape: tuple[int, int]) -> NDArray[np.float64]:
    values = weights.reshape(shape).double().numpy()
    return values / values.sum()
