# SPDX-License-Identifier: MIT
"""The class `DenseCRF` of the file utils/dcrf.py (or crf.py) that many projects contain."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from crfrnn.compat.pydensecrf import densecrf, utils
from crfrnn.compat.pydensecrf._engine import running


class DenseCRF:
    """Marginals from a picture and its probability map, by one Gaussian and one bilateral kernel.

    ``Q = mean field of U = -log p`` with weights `pos_w`, `bi_w` and Potts compatibility, with
    pydensecrf's constants and results. An object can be pickled and used by several processes or threads at
    once (joblib, multiprocessing).

    Args:
        iter_max: T, iterations.
        pos_w, pos_xy_std: weight and σ in pixels of the Gaussian kernel.
        bi_w, bi_xy_std, bi_rgb_std: weight, σ in pixels and σ in colour steps of the bilateral kernel.

    Source: Krähenbühl & Koltun, *Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials*,
    NIPS 2011; the class as in kazuto1011/deeplab-pytorch, libs/utils/crf.py.

    >>> post = DenseCRF(iter_max=10, pos_w=3, pos_xy_std=3, bi_w=4, bi_xy_std=64, bi_rgb_std=5)
    >>> q = post(np.zeros((6, 7, 3), np.uint8), np.full((2, 6, 7), 0.5, np.float32))
    >>> q.shape, q.dtype.name
    ((2, 6, 7), 'float32')
    """

    def __init__(
        self,
        iter_max: int,
        pos_w: float,
        pos_xy_std: float,
        bi_w: float,
        bi_xy_std: float,
        bi_rgb_std: float,
    ) -> None:
        self.iter_max = iter_max
        self.pos_w, self.pos_xy_std = pos_w, pos_xy_std
        self.bi_w, self.bi_xy_std, self.bi_rgb_std = bi_w, bi_xy_std, bi_rgb_std

    def __call__(self, image: NDArray[np.uint8], probmap: Any) -> NDArray[np.float32]:
        """Float32[L, H, W], the marginals.

        Args:
            image: UInt8[H, W, 3], 0..255. probmap: Float[L, H, W], probabilities.

        Raises:
            ValueError: sizes that do not fit.
        """
        probabilities = np.asarray(probmap)
        if probabilities.ndim != 3:
            raise ValueError(f"probmap: expected [L, H, W], got {probabilities.shape}")
        labels, height, width = probabilities.shape
        if np.shape(image) != (height, width, 3):
            raise ValueError(
                f"image: expected UInt8 {(height, width, 3)} as probmap is {probabilities.shape}, "
                f"got {np.shape(image)}; resize both to one size"
            )
        model = densecrf.DenseCRF2D(width, height, labels)
        model.setUnaryEnergy(np.ascontiguousarray(utils.unary_from_softmax(probabilities)))
        model.addPairwiseGaussian(sxy=self.pos_xy_std, compat=self.pos_w)
        model.addPairwiseBilateral(
            sxy=self.bi_xy_std, srgb=self.bi_rgb_std, rgbim=np.ascontiguousarray(image), compat=self.bi_w
        )
        # Not model.inference(): its matrix has the labels of a pixel together, and would be transposed twice.
        with running():
            logits = model._inferred(self.iter_max)
            return logits.softmax(1).view(labels, height, width).numpy()
