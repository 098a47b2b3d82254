# SPDX-License-Identifier: MIT
"""Stored DeepLab logits: a coarse quantised grid per picture, brought to the picture's size on demand."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crfrnn.io.arrays import read_arrays
from crfrnn.io.files import FileError, PathLike

CANVAS = 513  # DeepLab's input: the picture lies in its top left corner at native size


@dataclass(frozen=True)
class DeepLabUnaries:
    """The logits of many pictures, held as quantised grids (23 kB a picture); see `load`.

    ``logit = scale · (q - zero_point)`` on a grid that spans the 513 × 513 canvas corner on corner: pixel
    (y, x) of the picture lies at (y, x) · (grid - 1) / 512, and between grid points the logits are bilinear.

    Attributes:
        grids: UInt8[grid, grid, L] by the picture's id.
        scale, zero_point: of the quantisation.
    """

    grids: dict[str, NDArray[np.uint8]] = field(repr=False)
    scale: float
    zero_point: float

    @classmethod
    def load(cls, path: PathLike) -> DeepLabUnaries:
        """Read an .npz with ``scale``, ``zero_point`` and a UInt8[grid, grid, L] per picture, under its id.

        Raises:
            ValueError: no such file, damaged, entries missing or of another form.
        """
        arrays = read_arrays(path, "unaries")
        numbers = []
        for name in ("scale", "zero_point"):
            value = arrays.pop(name, np.empty(0))
            if value.size != 1 or not np.isfinite(value).all():
                raise FileError("unaries", path, f"a finite number {name!r}", f"shape {value.shape}", _REMEDY)
            numbers.append(float(value.reshape(())))
        forms = sorted({f"{a.dtype} {a.shape}" for a in arrays.values()})
        first = next(iter(arrays.values()), np.empty(0))
        if len(forms) != 1 or first.dtype != np.uint8 or first.ndim != 3 or 0 in first.shape:
            expected = "uint8 [grid, grid, L], the same for every id"
            raise FileError("unaries", path, expected, ", ".join(forms) or "no entry", _REMEDY)
        return cls(arrays, *numbers)

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(self.grids)

    def __len__(self) -> int:
        return len(self.grids)

    def logits(self, name: str, size: tuple[int, int]) -> Tensor:
        """The logits of one picture at its size (height, width), each at most 513: Float32[L, H, W]."""
        if name not in self.grids:
            raise ValueError(f"name: expected one of {len(self)} ids, got {name!r}; see .ids")
        height, width = size
        if not (1 <= height <= CANVAS and 1 <= width <= CANVAS):
            raise ValueError(
                f"size: expected (height, width) in 1..{CANVAS} each, got {tuple(size)}; "
                "these logits belong to pictures that fit their canvas unscaled"
            )
        grid = torch.from_numpy(self.grids[name]).permute(2, 0, 1).to(torch.float32)
        # Bilinear interpolation is a hat function along each axis: two small matrices do it, four times as
        # fast as interpolating the whole canvas and cropping. Integers in sixteenths are exact in float32,
        # whatever the order of the sums: labels that tie on the grid tie here, on every machine.
        quantised = _hat(height, grid.shape[1]) @ (grid @ _hat(width, grid.shape[2]).T)
        return quantised.sub_(self.zero_point).mul_(self.scale)


_REMEDY = "the file should hold scale, zero_point and one grid per picture"


def _hat(pixels: int, points: int) -> Tensor:
    place = torch.arange(pixels, dtype=torch.float32) * ((points - 1) / (CANVAS - 1))
    return (1 - (place[:, None] - torch.arange(points)).abs()).clamp(min=0)
