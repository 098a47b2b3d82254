# SPDX-License-Identifier: MIT
"""A CRF that knows where in the whole picture its tile lies."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from crfrnn.crf import CRFRNN, GaussianKernel
from crfrnn.crf.features import image_features


def placed(crf: CRFRNN, top: int, left: int) -> CRFRNN:
    """The same layer, sharing its parameters, with pixels counted from (top, left) of the whole picture.

    A lattice is not the same everywhere: with positions of its own every tile would make lattice errors of
    its own, far more than what is left with common ones (docs/big-pictures.md).
    """

    def kernels(
        image: Tensor, mask: Tensor | None = None, dtype: torch.dtype | None = None
    ) -> tuple[GaussianKernel, GaussianKernel]:
        if dtype is None:
            dtype = torch.float64 if image.dtype == torch.float64 else torch.float32
        image = image.to(dtype)
        alpha, beta, gamma = (
            log.to(dtype).exp() for log in (crf.log_theta_alpha, crf.log_theta_beta, crf.log_theta_gamma)
        )
        common = {
            "normalization": crf.normalization,
            "quality": crf.quality,
            "mask": mask,
            "exclude_self": crf.exclude_self,
        }
        # The exact spatial kernel is the same everywhere; a spatial lattice keeps the tile's own positions.
        spatial = GaussianKernel.spatial(tuple(image.shape[2:]), gamma, method=crf.spatial_method, **common)
        if mask is not None:
            image = torch.where(mask.unsqueeze(1), image, torch.zeros_like(image))
            common["mask"] = mask.flatten(1)
        features = image_features(image, alpha, beta)
        y, x = torch.meshgrid(
            *(
                torch.arange(n, n + size, dtype=dtype)
                for n, size in zip((top, left), image.shape[2:], strict=True)
            ),
            indexing="ij",
        )
        # The very numbers that the whole picture has: added first, divided then.
        places = torch.stack([x, y], -1).reshape(-1, 2).to(image.device) / alpha
        features = torch.cat([places.expand(len(image), -1, -1), features[..., 2:]], -1)
        return spatial, GaussianKernel(features, crf.bilateral_method, **common)

    view = copy.copy(crf)
    view.kernels = kernels  # pyright: ignore[reportAttributeAccessIssue]
    return view
