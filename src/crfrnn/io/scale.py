# SPDX-License-Identifier: MIT
"""Numbers of other ranges as 0..255: by the caller's scale, or by the bit depth of the file."""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crfrnn.io.files import FileError, PathLike
from crfrnn.lattice.validate import warn

Scale = tuple[float, float]  # the numbers that become 0 and 255
SHALLOW = 4  # a largest number below 1/4 of the range suggests a lower bit depth than the file's


def check_scale(scale: Scale | None) -> Scale | None:
    """ValueError unless it is two finite numbers in increasing order."""
    if scale is not None and not (all(map(math.isfinite, scale)) and scale[0] < scale[1]):
        raise ValueError(
            f"scale: expected two finite numbers, LOW below HIGH, got {scale[0]:g} and {scale[1]:g}; "
            "give the numbers that become 0 and 255"
        )
    return scale


def scaled(values: NDArray[Any], scale: Scale, path: PathLike) -> NDArray[np.uint8]:
    """``(v - LOW) · 255 / (HIGH - LOW)``, rounded and clipped.

    Raises: ValueError for NaN or infinity.

    >>> scaled(np.array([0, 512, 5000]), (0, 1023), "a.png").tolist()
    [0, 128, 255]
    """
    numbers = values.astype(np.float64)
    if not np.isfinite(numbers).all():
        raise FileError(
            "image", path, "finite numbers", "NaN or infinity", "fill such pixels, for example with LOW"
        )
    return np.rint(stretched(numbers, scale)).astype(np.uint8)


def stretched(values: NDArray[np.floating], scale: Scale) -> NDArray[np.floating]:
    """``(v - LOW) · 255 / (HIGH - LOW)`` in the values' own dtype, clipped."""
    low, high = scale
    with np.errstate(over="ignore"):
        return ((values - low) * (255 / (high - low))).clip(0, 255)


def by_depth(values: NDArray[Any], top: int, path: PathLike) -> NDArray[np.uint8]:
    """``v · 255 / top``, rounded, with a warning if the numbers use only a small part of 0..top.

    Cameras, microscopes and DICOM exports save 10 or 12 bits in 16-bit files: scaled by the file's depth,
    such a picture is nearly black.

    >>> by_depth(np.array([0, 65535]), 65535, "a.png").tolist()
    [0, 255]
    """
    low, high = (int(values.min()), int(values.max())) if values.size else (0, 0)
    if low < high and SHALLOW * high <= top:
        own = 2 ** high.bit_length() - 1
        remedy = f"state which numbers become 0 and 255, --scale 0 {own} (scale=(0, {own}))"
        warn_of_depth(path, top, high, remedy)
    return ((values.astype(np.int64) * 255 + top // 2) // top).astype(np.uint8)


def warn_of_depth(path: PathLike, top: int, high: int, remedy: str) -> None:
    """Warn that a picture is nearly black because it uses fewer bits than its file has."""
    warn(
        f"image {os.fspath(path)!r}: numbers up to {high}, although its bit depth allows {top}, so that it "
        f"is nearly black in 0..255; if they have fewer bits, {remedy}, or save it with 8 bits"
    )
