# SPDX-License-Identifier: MIT
"""The position of a feature map's cells in the picture, from which the crops of an FCN are derived."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class Grid:
    """Cell i of a map is centred on picture coordinate ``start + step · i``, the same on both axes.

    A window of k cells with padding p and stride s moves the start by (k - 1)/2 - p cells and multiplies the
    step by s; its transpose divides the step and moves the start back. Rounding (ceil mode) changes only the
    number of cells, not their positions.

    Source: Long, Shelhamer & Darrell, *Fully Convolutional Networks*, CVPR 2015, section 3.2;
    doi:10.1109/CVPR.2015.7298965.

    >>> padded = Grid().window(3, padding=100)
    >>> Grid().offset_in(padded)
    99
    """

    start: Fraction = Fraction(0)
    step: Fraction = Fraction(1)

    def window(self, kernel: int, stride: int = 1, padding: int = 0) -> Grid:
        """The grid of a convolution's or a pooling's output."""
        return Grid(self.start + self.step * (Fraction(kernel - 1, 2) - padding), self.step * stride)

    def transposed(self, kernel: int, stride: int) -> Grid:
        """The grid of a transposed convolution's output, without padding."""
        step = self.step / stride
        return Grid(self.start - step * Fraction(kernel - 1, 2), step)

    def offset_in(self, other: Grid) -> int:
        """The cell of `other` at the position of this grid's cell 0; both must have the same step.

        Raises: ValueError if there is no such cell.
        """
        offset = (self.start - other.start) / other.step
        if self.step != other.step or offset.denominator != 1:
            raise ValueError(f"other: expected a grid that shares cells with {self}, got {other}")
        return int(offset)
