# SPDX-License-Identifier: MIT
"""Resize a picture for segmentation, and its result back, without holding all probabilities in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from crfrnn.inference.windows import Tile

Rectangles = Iterable[tuple[int, int, Tile]]  # top, left, probabilities Float32[C, h, w]
Bands = Iterator[tuple[int, Tensor]]  # first row, probabilities Float32[C, rows, W]
NUMBERS = 2**21  # processed at a time: 8 MiB as float32


def collect(
    found: Rectangles, height: int, width: int, *, halves: bool, clamp: Tensor | None, keep: bool
) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.float32] | None]:
    """Collect labels, labels before the CRF and, if kept, probabilities of the whole picture.

    Args:
        halves: the first half of the channels are the marginals, the second half the probabilities before
            the CRF; False: without a CRF.
        clamp: labels that pixels keep after the CRF, but not before it.
    """
    out: tuple[NDArray[Any], NDArray[Any]] | None = None
    whole: NDArray[np.float32] | None = None
    for first, left, tile in found:
        rectangle = torch.from_numpy(tile.values)
        count = len(rectangle) // 2 if halves else len(rectangle)
        if out is None:
            dtype = np.uint8 if count <= 256 else np.int32
            out = np.empty((height, width), dtype), np.empty((height, width), dtype)
            whole = np.empty((count, height, width), np.float32) if keep else None
            if clamp is not None and int(clamp.max()) >= count:
                raise ValueError(
                    f"clamp: expected labels 0..{count - 1}, or -1 for free, got {int(clamp.max())}"
                )
        columns = slice(left, left + rectangle.shape[2])
        step = max(1, NUMBERS // (len(rectangle) * rectangle.shape[2]))
        for top in range(0, rectangle.shape[1], step):
            part = rectangle[:, top : top + step]
            place = slice(first + top, first + top + part.shape[1]), columns
            p = part[:count]
            best = p.max(0).indices  # the first of equal ones, as argmax, but three times as fast
            out[1][place] = (part[count:].max(0).indices if halves else best).numpy()
            if clamp is not None:
                known = clamp[place] >= 0
                best = torch.where(known, clamp[place], best)
                if whole is not None:
                    p = torch.where(known, F.one_hot(best, count).permute(2, 0, 1).to(p.dtype), p)
            out[0][place] = best.numpy()
            if whole is not None:
                whole[:, place[0], columns] = p.numpy()
            del part, p
        del tile, rectangle  # free it before the next one is made
    assert out is not None
    return *out, whole


def finished(
    found: Rectangles,
    work: tuple[int, int],
    size: tuple[int, int],
    *,
    halves: bool,
    clamp: Tensor | None = None,
    keep: bool = False,
) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.float32] | None]:
    """`collect`, for a picture that was segmented at the size `work`, at its original `size`."""
    if work != size:
        found = enlarge(bands(found, work[1]), work[0], *size)
    return collect(found, *size, halves=halves, clamp=clamp, keep=keep)


def work_size(size: tuple[int, int], long_side: int | None) -> tuple[int, int]:
    """Rows and columns at which a picture is segmented: no side is longer than `long_side`.

    >>> work_size((300, 400), 200), work_size((300, 400), None)
    ((150, 200), (300, 400))
    """
    share = 1.0 if long_side is None else long_side / max(size)
    return size if share >= 1 else (max(1, round(size[0] * share)), max(1, round(size[1] * share)))


def bands(found: Rectangles, width: int) -> Bands:
    """Join rectangles, in order, to bands of the whole width."""
    band: Tensor | None = None
    for top, left, tile in found:
        part = torch.from_numpy(tile.values)
        if part.shape[2] == width:
            yield top, part
            continue
        if left == 0 or band is None:
            band = part.new_empty(len(part), part.shape[1], width)
        band[:, :, left : left + part.shape[2]] = part
        if left + part.shape[2] == width:
            yield top, band


def enlarge(bands: Bands, count: int, height: int, width: int) -> Iterator[tuple[int, int, Tile]]:
    """Bilinear, pixel centres kept, equal to `F.interpolate` in one piece; `count` rows become `height`."""
    places = ((torch.arange(height) + 0.5) * (count / height) - 0.5).clamp_min(0)
    upper = places.long().clamp_max(count - 1)
    lower, share = (upper + 1).clamp_max(count - 1), (places - upper)[:, None]
    first = done = 0
    held: Tensor | None = None
    for start, band in bands:
        held = band if held is None else torch.cat([held, band], 1)
        ready = int(torch.searchsorted(lower, start + band.shape[1]))
        step = max(1, NUMBERS // (len(band) * width))
        for top in range(done, ready, step):
            rows = slice(top, min(top + step, ready))
            part = torch.lerp(held[:, upper[rows] - first], held[:, lower[rows] - first], share[rows])
            size = (part.shape[1], width)
            large = F.interpolate(part[None], size=size, mode="bilinear", align_corners=False)[0]
            yield top, 0, Tile(large.numpy())
        done = ready
        if done < height:
            held, first = held[:, int(upper[done]) - first :], int(upper[done])


def shrink(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Antialiased bilinear reduction of UInt8 or Float [3, H, W], keeping the dtype."""
    values = F.interpolate(image[None], size=size, mode="bilinear", antialias=True)[0]
    return values.clamp(0, 255)


def shrink_clamp(clamp: Tensor, size: tuple[int, int]) -> Tensor:
    """Reduce known labels without losing any, even thin lines: the last of several in one pixel is kept."""
    y, x = torch.nonzero(clamp >= 0, as_tuple=True)
    small = clamp.new_full(size, -1)
    # Numpy defines which of several writes to one position is kept: the last.
    small.numpy()[(y * size[0] // clamp.shape[0]).numpy(), (x * size[1] // clamp.shape[1]).numpy()] = clamp[
        y, x
    ].numpy()
    return small


def check_clamp(clamp: NDArray[Any] | Tensor | None, height: int, width: int) -> Tensor | None:
    """Int64[H, W] on the CPU; ValueError or TypeError if it does not fit the picture."""
    if clamp is None:
        return None
    held = clamp if isinstance(clamp, Tensor) else torch.as_tensor(np.asarray(clamp))
    if held.is_floating_point() or held.is_complex() or held.dtype in (torch.bool, torch.uint8):
        raise TypeError(
            f"clamp: expected signed integers, -1 = free, got {held.dtype}; "
            "numpy.where(mask == 255, -1, mask.astype(int)) makes them from a label map"
        )
    if tuple(held.shape) != (height, width):
        raise ValueError(
            f"clamp: expected {(height, width)} as in the upright picture, got {tuple(held.shape)}"
        )
    held = held.detach().to("cpu", torch.int64)
    if int(held.min()) < -1:
        raise ValueError(f"clamp: expected -1 = free or a label, got {int(held.min())}")
    return held
