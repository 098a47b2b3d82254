# SPDX-License-Identifier: MIT
"""The guide of a CRF, read by rectangles, and estimates for the whole picture from nine of them."""

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

SAMPLE, SAMPLES = 128, 3  # side of the sampled pieces, and their number along each side


@dataclass(frozen=True)
class Guide:
    """A picture in the form that the CRF takes.

    Attributes:
        image: real numbers [C, H, W].
        prepare: function from [1, C, h, w], as read, to the guide on the CRF's device.
        others: pictures or scores whose pixels without data are also ignored in this picture.
    """

    image: Windowed
    prepare: Callable[[Tensor], Tensor]
    others: tuple[Windowed, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        return self.image.shape[1:]

    def valid(self, rows: slice, columns: slice) -> NDArray[np.bool_] | None:
        """Bool[h, w], True where there is data; None if there is data everywhere."""
        return valid_in_all(rows, columns, self.image, *self.others)

    def piece(self, rows: slice, columns: slice, valid: NDArray[np.bool_] | None) -> Tensor:
        """A piece of the picture as read, [1, C, h, w]; ValueError for NaN or infinity at valid pixels."""
        return torch.from_numpy(finite(self.image, rows, columns, valid))[None]

    def samples(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Nine pieces of the guide, [1, C, h, w], with their masks, except those without data."""
        for rows, columns in pieces(*self.size):
            valid = self.valid(rows, columns)
            if valid is None or valid.any():
                part = self.prepare(self.piece(rows, columns, valid))
                yield part, None if valid is None else torch.from_numpy(valid)[None].to(part.device)

    def colours(self) -> Tensor:
        """Colours of the pixels with data in the nine pieces, [C, N]."""
        found = [part[0].flatten(1) if mask is None else part[0][:, mask[0]] for part, mask in self.samples()]
        return torch.cat(found, 1) if found else torch.zeros(self.image.shape[0], 0)


def pieces(height: int, width: int) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of nine pieces, spread evenly over a picture.

    >>> next(pieces(100, 300))
    (slice(0, 100, None), slice(0, 128, None))
    """
    for i in range(SAMPLES):
        for j in range(SAMPLES):
            top, left = (max(0, n - SAMPLE) * k // (SAMPLES - 1) for n, k in ((height, i), (width, j)))
            yield slice(top, min(height, top + SAMPLE)), slice(left, min(width, left + SAMPLE))


def shared_directions(crf: CRFRNN, guide: Guide) -> Tensor | None:
    """The guide's principal directions, shared by all tiles, Float[C, k]."""
    if crf.guide_components is None:
        return None
    colours = guide.colours().float()
    beta = crf.log_theta_beta.detach().exp().expand(len(colours))
    return principal_directions((colours / beta[:, None])[None], crf.guide_components)[0]


def check_unit(crf: CRFRNN, guide: Guide) -> None:
    """Warn if a float guide is not in the unit of θ_β, by nine pieces since one tile may just be dark."""
    colours = guide.colours()
    if colours.is_floating_point():
        warn_of_guide(colours, crf.log_theta_beta)


def vertices_per_pixel(crf: CRFRNN, guide: Guide, directions: Tensor | None = None) -> float:
    """The largest number of lattice vertices per pixel in nine pieces: few in sky, many in foliage."""
    most = 0.0
    for part, mask in guide.samples() if "lattice" in (crf.bilateral_method, crf.spatial_method) else ():
        with torch.no_grad():
            kernels = crf.kernels(part, mask, guide_components=directions)
        found = sum(int(getattr(kernel.operator, "num_vertices", 0)) for kernel in kernels)
        most = max(most, found / (part.shape[2] * part.shape[3]))
    return most
