# SPDX-License-Identifier: MIT
"""Pictures processed repeatedly: their lattices and a network's scores are kept between calls."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crfrnn.crf import CRFRNN, GaussianKernel
from crfrnn.crf.binary import for_two_labels, two_labels
from crfrnn.crf.likeliest import likeliest
from crfrnn.inference.enlarge import finished, work_size
from crfrnn.inference.prediction import Prediction, marginals
from crfrnn.inference.windows import Tile

_SETTINGS = (
    "spatial_method", "bilateral_method", "quality", "normalization", "exclude_self", "guide_components",
)  # fmt: skip


class Held:
    """A picture whose kernels are kept: the lattice is rebuilt only for other bandwidths.

    Args:
        image: UInt8[H, W, C] from `crfrnn.io.read_image`, or UInt8 / Float [C, H, W] as a tensor,
            0..255; with another number of axes a tensor [C, *spatial].
        axes: number of axes of the grid, 3 for a volume.

    Attributes:
        image: the image as [C, H, W] or [C, *spatial].

    Raises:
        ValueError: another number of axes or type of numbers.

    >>> held = Held(np.zeros((4, 5, 3), np.uint8))
    >>> held.logits(torch.zeros(2, 4, 5), CRFRNN(2)).shape
    torch.Size([2, 4, 5])
    """

    def __init__(self, image: NDArray[np.uint8] | Tensor, axes: int = 2) -> None:
        self.image = _channels_first(image, axes)
        self._key: tuple[Any, ...] | None = None
        self._kernels: tuple[GaussianKernel, GaussianKernel] | None = None

    @torch.no_grad()
    def logits(
        self,
        unary: Tensor,
        crf: CRFRNN,
        *,
        clamp: Tensor | None = None,
        iterations: int | None = None,
        initial: Tensor | None = None,
    ) -> Tensor:
        """``crf(unary, image)`` of one picture, [L, *spatial]; arguments as of `crfrnn.inference.refine`."""
        steps = crf.steps if iterations is None else iterations
        kernels = self.kernels(crf, unary.dtype) if steps else None
        held = None if clamp is None else clamp[None]
        start = None if initial is None else initial[None]
        return crf(
            unary[None], self.image[None], clamp=held, iterations=iterations, kernels=kernels, initial=start
        )[0]

    def steps(
        self, unary: Tensor, crf: CRFRNN, *, clamp: Tensor | None = None
    ) -> Iterator[NDArray[np.int64]]:
        """The labels Int64[H, W] after 0, 1, … iterations, up to the layer's number of iterations."""
        unary, crf = two_labels(unary), for_two_labels(crf)
        logits = self.logits(unary, crf, clamp=clamp, iterations=0)
        yield likeliest(logits)
        for _ in range(crf.steps):
            logits = self.logits(unary, crf, clamp=clamp, iterations=1, initial=logits)
            yield likeliest(logits)

    def kernels(
        self, crf: CRFRNN, dtype: torch.dtype = torch.float32
    ) -> tuple[GaussianKernel, GaussianKernel]:
        """``crf.kernels(image)``, rebuilt if bandwidths or settings differ from the last call."""
        wanted = torch.float64 if dtype == torch.float64 else torch.float32
        logs = (crf.log_theta_alpha, crf.log_theta_beta, crf.log_theta_gamma)
        key = (wanted, *(tuple(log.reshape(-1).tolist()) for log in logs))
        key += tuple(getattr(crf, name) for name in _SETTINGS)
        if self._kernels is None or key != self._key:
            self._kernels = None  # free the old ones first: a lattice may be large
            with torch.no_grad():
                self._kernels = crf.kernels(self.image[None], dtype=wanted)
            self._key = key
        return self._kernels


@dataclass(frozen=True)
class Seen:
    """A picture with a network's scores, see `crfrnn.Predictor.see`.

    Attributes:
        guide: the CRF's guide, at the size of the segmentation.
        unary: Float[L, h, w], the network's logits.
        before: Float32[L, h, w], their probabilities.
        size: rows and columns of the original picture.
        class_names: one per label, or none.
    """

    guide: Held
    unary: Tensor
    before: NDArray[np.float32]
    size: tuple[int, int]
    class_names: tuple[str, ...] = ()

    def __call__(self, crf: CRFRNN, *, probabilities: bool = False) -> Prediction:
        """The result of a `crfrnn.Predictor` with this CRF, at the picture's original size."""
        return self._prediction(crf, self.size, probabilities)

    def at(self, crf: CRFRNN, long_side: int) -> Prediction:
        """The same with marginals and at most `long_side` pixels along each side, for display."""
        return self._prediction(crf, work_size(self.size, long_side), True)

    def _prediction(self, crf: CRFRNN, size: tuple[int, ...], keep: bool) -> Prediction:
        after = marginals(self.guide.logits(self.unary, crf)[None])
        tile = Tile(np.concatenate([after, self.before]))
        work, (height, width) = self.before.shape[1:], size
        labels, before, p = finished([(0, 0, tile)], work, (height, width), halves=True, keep=keep)
        return Prediction(labels, before, p, self.class_names)


def _channels_first(image: NDArray[np.uint8] | Tensor, axes: int) -> Tensor:
    if isinstance(image, Tensor):
        if image.ndim != axes + 1:
            wanted = "[C, H, W]" if axes == 2 else f"of {axes + 1} axes, the channels first"
            raise ValueError(f"image: expected a tensor {wanted}, got {form(image)}; pass one picture")
        return image
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim != 3:
        raise ValueError(f"image: expected uint8 [H, W, C], got {form(array)}; use read_image")
    return torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1)))


def form(value: object) -> str:
    """Type and shape of a value, for messages."""
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    return type(value).__name__ if shape is None else f"{dtype} {tuple(shape)}"
