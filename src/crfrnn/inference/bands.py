# SPDX-License-Identifier: MIT
"""Probabilities a few rows at a time, so that a large picture never has all of them in memory at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

Bands = Iterator[tuple[int, Tensor]]  # first row, probabilities Float32[L, rows, W]
NUMBERS = 2**21  # that are worked on at a time: 8 MiB as float32


def collect(
    bands: Bands, height: int, width: int, clamp: Tensor | None, keep: bool
) -> tuple[NDArray[Any], NDArray[np.float32] | None]:
    """Labels and, if kept, probabilities of the whole picture; clamped pixels hold their label."""
    labels: NDArray[Any] | None = None
    whole: NDArray[np.float32] | None = None
    for start, band in bands:
        count = band.shape[0]
        if labels is None:
            labels = np.empty((height, width), np.uint8 if count <= 256 else np.int32)
            whole = np.empty((count, height, width), np.float32) if keep else None
            if clamp is not None and int(clamp.max()) >= count:
                raise ValueError(
                    f"clamp: expected labels 0..{count - 1}, or -1 for free, got {int(clamp.max())}"
                )
        step = _rows(count, width)
        for top in range(0, band.shape[1], step):
            part = band[:, top : top + step]
            rows = slice(start + top, start + top + part.shape[1])
            best = part.max(0).indices  # the first of equal ones, as argmax, in a third of its time
            if clamp is not None:
                known = clamp[rows] >= 0
                best = torch.where(known, clamp[rows], best)
                if whole is not None:
                    sure = F.one_hot(best, count).permute(2, 0, 1).to(part.dtype)
                    part = torch.where(known, sure, part)
            labels[rows] = best.numpy()
            if whole is not None:
                whole[:, rows] = part.numpy()
    assert labels is not None
    return labels, whole


def enlarge(bands: Bands, count: int, height: int, width: int) -> Bands:
    """Bilinear, pixel centres kept, as `F.interpolate` does it in one piece; `count` rows become `height`."""
    places = ((torch.arange(height) + 0.5) * (count / height) - 0.5).clamp_min(0)
    upper = places.long().clamp_max(count - 1)
    lower, share = (upper + 1).clamp_max(count - 1), (places - upper)[:, None]
    first = done = 0
    held: Tensor | None = None
    for start, band in bands:
        held = band if held is None else torch.cat([held, band], 1)
        ready = int(torch.searchsorted(lower, start + band.shape[1]))
        step = _rows(len(band), width)
        for top in range(done, ready, step):
            rows = slice(top, min(top + step, ready))
            part = torch.lerp(held[:, upper[rows] - first], held[:, lower[rows] - first], share[rows])
            size = (part.shape[1], width)
            yield top, F.interpolate(part[None], size=size, mode="bilinear", align_corners=False)[0]
        done = ready
        if done < height:
            held, first = held[:, int(upper[done]) - first :], int(upper[done])


def _rows(labels: int, width: int) -> int:
    return max(1, NUMBERS // (labels * width))


def shrink(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear over all the pixels that fall into one; UInt8 or Float [3, H, W] of the same dtype."""
    values = F.interpolate(image[None], size=size, mode="bilinear", antialias=True)[0]
    return values.clamp(0, 255)


def shrink_clamp(clamp: Tensor, size: tuple[int, int]) -> Tensor:
    """No known pixel is lost, be it as thin as a line: the last of those that fall together counts."""
    y, x = torch.nonzero(clamp >= 0, as_tuple=True)
    small = clamp.new_full(size, -1)
    # Numpy says which of several writes to one place stays: the last.
    small.numpy()[(y * size[0] // clamp.shape[0]).numpy(), (x * size[1] // clamp.shape[1]).numpy()] = clamp[
        y, x
    ].numpy()
    return small


def check_clamp(clamp: NDArray[Any] | Tensor | None, height: int, width: int) -> Tensor | None:
    """Int64[H, W] on the CPU; ValueError or TypeError for what does not fit the picture."""
    if clamp is None:
        return None
    held = clamp if isinstance(clamp, Tensor) else torch.as_tensor(np.asarray(clamp))
    if held.is_floating_point() or held.is_complex() or held.dtype in (torch.bool, torch.uint8):
        raise TypeError(
            f"clamp: expected signed integers, -1 = free, got {held.dtype}; "
            "numpy.where(mask == 255, -1, mask.astype(int)) makes them from a label map"
        )
    if tuple(held.shape) != (height, width):
        raise ValueError(f"clamp: expected {(height, width)} as the upright picture, got {tuple(held.shape)}")
    held = held.detach().to("cpu", torch.int64)
    if int(held.min()) < -1:
        raise ValueError(f"clamp: expected -1 = free or a label, got {int(held.min())}")
    return held
