# SPDX-License-Identifier: MIT
"""What a CRF sees of a picture, by rectangles, and what nine of them say about the whole of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crfrnn.crf import CRFRNN, principal_directions
from crfrnn.crf.unit import warn_of_guide
from crfrnn.io.rectangles import Windowed, finite, valid_in_all

SAMPLE, SAMPLES = 128, 3  # side of the pieces that are looked at, pieces along each side


@dataclass(frozen=True)
class Guide:
    """A picture as the CRF takes it.

    Attributes:
        image: real numbers [C, H, W].
        prepare: from [1, C, h, w], as it is read, to the guide, on the device where the CRF runs.
        others: pictures or scores whose pixels without data count as pixels without data in the picture.
    """

    image: Windowed
    prepare: Callable[[Tensor], Tensor]
    others: tuple[Windowed, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        return self.image.shape[1:]

    def valid(self, rows: slice, columns: slice) -> NDArray[np.bool_] | None:
        """Bool[h, w], True where there is data; None where there is everywhere."""
        return valid_in_all(rows, columns, self.image, *self.others)

    def piece(self, rows: slice, columns: slice, valid: NDArray[np.bool_] | None) -> Tensor:
        """The picture as it is read, [1, C, h, w]; ValueError for NaN or infinity where there is data."""
        return torch.from_numpy(finite(self.image, rows, columns, valid))[None]

    def samples(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Nine pieces of the guide, [1, C, h, w], with their masks; those without data are left out."""
        for rows, columns in pieces(*self.size):
            valid = self.valid(rows, columns)
            if valid is None or valid.any():
                part = self.prepare(self.piece(rows, columns, valid))
                yield part, None if valid is None else torch.from_numpy(valid)[None].to(part.device)

    def colours(self) -> Tensor:
        """Of the pixels with data in the nine pieces, [C, N]."""
        found = [part[0].flatten(1) if mask is None else part[0][:, mask[0]] for part, mask in self.samples()]
        return torch.cat(found, 1) if found else torch.zeros(self.image.shape[0], 0)


def pieces(height: int, width: int) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of nine pieces, evenly over a picture.

    >>> next(pieces(100, 300))
    (slice(0, 100, None), slice(0, 128, None))
    """
    for i in range(SAMPLES):
        for j in range(SAMPLES):
            top, left = (max(0, n - SAMPLE) * k // (SAMPLES - 1) for n, k in ((height, i), (width, j)))
            yield slice(top, min(height, top + SAMPLE)), slice(left, min(width, left + SAMPLE))


def shared_directions(crf: CRFRNN, guide: Guide) -> Tensor | None:
    """The principal directions of the guide that all tiles share, Float[C, k]."""
    if crf.guide_components is None:
        return None
    colours = guide.colours().float()
    beta = crf.log_theta_beta.detach().exp().expand(len(colours))
    return principal_directions((colours / beta[:, None])[None], crf.guide_components)[0]


def check_unit(crf: CRFRNN, guide: Guide) -> None:
    """Warn where a float guide is not in the unit of θ_β; a tile alone may just be dark."""
    colours = guide.colours()
    if colours.is_floating_point():
        warn_of_guide(colours, crf.log_theta_beta)


def vertices_per_pixel(crf: CRFRNN, guide: Guide, directions: Tensor | None = None) -> float:
    """Of the CRF's lattices, the most that nine pieces have: flat sky has few, foliage many."""
    most = 0.0
    for part, mask in guide.samples() if "lattice" in (crf.bilateral_method, crf.spatial_method) else ():
        with torch.no_grad():
            kernels = crf.kernels(part, mask, guide_components=directions)
        found = sum(int(getattr(kernel.operator, "num_vertices", 0)) for kernel in kernels)
        most = max(most, found / (part.shape[2] * part.shape[3]))
    return most
