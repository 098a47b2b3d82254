# SPDX-License-Identifier: MIT
"""The picture of `addPairwiseBilateral`: UInt8[h, w, 3], or an error with an expression that converts it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from crfrnn.compat.pydensecrf._checks import array, describe

_RGB = 3
_DEPTHS = {
    1023: 4,
    4095: 16,
    65535: 257,
}  # the largest number of 10, 12 and 16 bits, and its divisor to 0..255


def picture(value: Any, height: int, width: int) -> NDArray[np.uint8]:
    """`value` unchanged, or a ValueError (TypeError if not an array) as in pydensecrf."""
    wanted = (height, width, _RGB)
    if not isinstance(value, np.ndarray):
        value = array("rgbim", value, np.uint8, _RGB)
    if value.dtype == np.uint8 and value.shape == wanted and value.flags.c_contiguous:
        return value
    raise ValueError(
        f"rgbim: expected uint8 {wanted}, 3 axes in C-contiguous memory, got {describe(value)}; "
        f"{_remedy(value, height, width)}"
    )


def _remedy(value: NDArray[Any], height: int, width: int) -> str:
    shape, rgb = (height, width), "rgbim"
    if value.shape[:2] == shape[::-1] and value.shape[2:] == (_RGB,) and height != width:
        return f"build DenseCRF2D({height}, {width}, nlabels): the width comes first"
    if value.shape == (1, *shape, _RGB):
        rgb = "rgbim[0]"
    elif value.shape == (_RGB, *shape):
        rgb = "rgbim.transpose(1, 2, 0)"
    elif value.shape == shape:
        rgb = "np.repeat(rgbim[..., None], 3, axis=2)"
    elif value.shape == (*shape, 1):
        rgb = "np.repeat(rgbim, 3, axis=2)"
    elif value.shape == (*shape, 4):
        rgb = "rgbim[..., :3]"
    elif value.shape != (*shape, _RGB):
        return (
            "resize the picture to the unary's size; for other channels than three use "
            "utils.create_pairwise_bilateral and addPairwiseEnergy"
        )
    numbers = _bytes(value, rgb)
    also = ", or utils.create_pairwise_bilateral and addPairwiseEnergy" if value.shape[2:] == (1,) else ""
    return f"use np.ascontiguousarray({numbers}){also}"


def _bytes(value: NDArray[Any], rgb: str) -> str:
    """The expression that converts the numbers to 0..255: 0..1 is scaled up, 10 to 16 bits are divided."""
    if value.dtype == np.uint8:
        return rgb
    if value.dtype == np.bool_:
        return f"{rgb} * np.uint8(255)"
    if value.dtype.kind not in "iuf":
        return f"np.asarray({rgb}, np.uint8)"
    if not value.size or not np.isfinite(value).all():
        return f"np.nan_to_num({rgb}).clip(0, 255).astype(np.uint8)"
    low, high = float(value.min()), float(value.max())
    if value.dtype.kind == "f" and low >= 0 and high <= 1:
        return f"({rgb} * 255).round().astype(np.uint8)"
    if low < 0:  # normalised by mean and deviation
        return f"(({rgb} - rgbim.min()) * (255 / np.ptp(rgbim))).round().astype(np.uint8)"
    if high <= 255:
        return f"{rgb}.round().astype(np.uint8)" if value.dtype.kind == "f" else f"{rgb}.astype(np.uint8)"
    step = next((step for most, step in _DEPTHS.items() if high <= most), None)
    if step is None:
        return f"({rgb} * (255 / rgbim.max())).round().astype(np.uint8)"
    return f"({rgb} / {step}).clip(0, 255).astype(np.uint8)"
