# SPDX-License-Identifier: MIT
"""Convert any representation of a picture to a tensor [3, H, W] in 0..255."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from crfrnn.io.images import as_rgb, read_image
from crfrnn.io.scale import by_depth

Picture = str | os.PathLike[str] | Image.Image | NDArray[Any] | Tensor


def picture_tensor(picture: Picture) -> Tensor:
    """UInt8 or Float [3, H, W], RGB in 0..255, upright.

    Args:
        picture: a path, read by `crfrnn.io.read_image`; a Pillow picture, by the same rules; an array
            UInt8 or UInt16 [H, W], [H, W, 1], [H, W, 3] or [H, W, 4], whose fourth channel is transparency,
            composited on white; or a tensor UInt8 or Float [3, H, W] or [1, H, W] in 0..255.

    Raises:
        TypeError: anything else, or a type of number with an unknown range.
        ValueError: axes that do not fit, an empty picture, tensors outside 0..255, unreadable files.

    >>> picture_tensor(np.zeros((4, 5), np.uint8)).shape
    torch.Size([3, 4, 5])
    """
    if isinstance(picture, Tensor):
        return _from_tensor(picture)
    if isinstance(picture, Image.Image):
        if 0 in picture.size:
            raise ValueError(f"picture: expected at least one pixel, got size {picture.size}")
        array = as_rgb(picture)
    elif isinstance(picture, np.ndarray):
        array = _from_array(picture)
    elif isinstance(picture, str | os.PathLike):
        array = read_image(picture)
    else:
        raise TypeError(
            "picture: expected a path, a Pillow picture, an array [H, W, 3] or a tensor [3, H, W], "
            f"got {type(picture).__name__}"
        )
    return torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1)))


def _from_array(array: NDArray[Any]) -> NDArray[np.uint8]:
    if array.dtype not in (np.uint8, np.uint16, np.bool_):
        raise TypeError(
            f"picture: expected an array of uint8 or uint16, got {array.dtype}; from 0..1 make "
            "(255 * picture).round().astype('uint8'), from 0..255 picture.astype('uint8')"
        )
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or 0 in array.shape:
        remedy = "channels come last in an array: picture.transpose(1, 2, 0)" if array.ndim == 3 else ""
        raise ValueError(
            f"picture: expected [H, W], [H, W, 3] or [H, W, 4] with at least one pixel, got {array.shape}; "
            + (remedy or "pass one picture")
        )
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * np.uint8(255)
    if array.dtype == np.uint16:
        array = by_depth(array, 65535, "(in memory)")
    if array.shape[2] == 1:
        array = array.repeat(3, 2)
    if array.shape[2] == 4:
        array = as_rgb(Image.fromarray(np.ascontiguousarray(array)))
    return array


def _from_tensor(picture: Tensor) -> Tensor:
    if picture.ndim != 3 or picture.shape[0] not in (1, 3) or 0 in picture.shape:
        remedy = "pass one picture, picture[0]" if picture.ndim == 4 else "channels come first in a tensor"
        raise ValueError(
            f"picture: expected a tensor [3, H, W] with at least one pixel, got {tuple(picture.shape)}; "
            + remedy
        )
    if picture.is_floating_point():
        low, high = (float(v) for v in picture.aminmax())
        if not (low >= 0 and high <= 255):  # also NaN
            raise ValueError(
                f"picture: expected numbers in 0..255, got {low:g}..{high:g}; undo the "
                "preprocessing, which the segmenter does itself"
            )
        if 0 < high <= 1:
            raise ValueError(
                f"picture: expected numbers in 0..255, got {low:g}..{high:g}, which looks like 0..1; "
                "multiply by 255"
            )
        picture = picture if picture.dtype == torch.float64 else picture.float()
    elif picture.dtype != torch.uint8:
        raise TypeError(f"picture: expected a tensor of uint8 or float, got {picture.dtype}; use .float()")
    return picture.detach().expand(3, -1, -1)
