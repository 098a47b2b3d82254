# SPDX-License-Identifier: MIT
"""Splat, blur and slice on the GPU, and the gradient of the weights: no atomics, the same bits in every run.

Every sum runs in one fixed order: a splat goes through the corners sorted by vertex, piece by piece
(`build.build`). Half types are loaded directly and summed in float32. Nothing here synchronises with the
device, so a CUDA graph can capture it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from crfrnn.lattice.triton import kernels
from crfrnn.lattice.triton.launch import Launcher, block, ceil_div, on_device, power_of_2

CHANNELS = 32  # columns per program; more channels use more programs


class Structure(NamedTuple):
    """The tables of `build.build`."""

    corner: Tensor
    rank: Tensor
    neighbour: Tensor
    order: Tensor
    bounds: tuple[Tensor, Tensor, Tensor]

    @staticmethod
    def of(tensors: Sequence[Tensor]) -> Structure:
        """Build from the seven tensors of a lattice's structure."""
        corner, rank, neighbour, order, first, second, third = tensors
        return Structure(corner, rank, neighbour, order, (first, second, third))

    @property
    def size(self) -> int:
        return self.corner.shape[1]

    @property
    def vertices(self) -> int:
        return self.neighbour.shape[2] - 1


def shares(weights: Tensor, structure: Structure) -> Tensor:
    """The weights in the summation order of the splat."""
    return weights.reshape(-1).index_select(0, structure.order)


class Passes:
    """Successive filters of C channels over one lattice, in the weights' type.

    Rows of lattice values are [M, ≥ C], padded to whole sectors.
    """

    def __init__(self, structure: Structure, channels: int, weights: Tensor) -> None:
        self.structure, self.channels, self._like = structure, channels, weights
        sector, points = 32 // weights.element_size(), len(weights)
        self._sectors = ceil_div(channels, sector)
        self.width = self._sectors * sector
        self._tables = [table for table in structure.bounds if table.numel()]
        most = max((table.numel() for table in self._tables), default=1)
        self._rows, self._points = block(32, most), block(32, points)  # a program's
        padded, own = (min(power_of_2(n), CHANNELS) for n in (self.width, channels))
        self._across, self._own_across = ceil_div(self.width, padded), ceil_div(channels, own)
        self._pixels = ceil_div(points, self._points)
        rows = {"SECTOR": sector, "BLOCK": self._rows, "COLUMNS": padded}
        each = {"SIZE": structure.size, "SECTOR": sector, "BLOCK": self._points, "COLUMNS": own}
        sums, dots = kernels.sum_pieces, kernels.corner_dots
        self._first = {
            whole: Launcher(sums, 0, 7, SIZE=structure.size, FIRST=True, PADDED=whole, **rows)
            for whole in (False, True)
        }
        self._next = Launcher(sums, SIZE=structure.size, FIRST=False, PADDED=True, **rows)
        offsets = structure.neighbour.shape[1]
        if offsets == 2:
            self._blur = Launcher(kernels.blur_axis, **rows)
        else:
            self._blur = Launcher(kernels.blur_group, OFFSETS=offsets, **rows)
        self._slice = Launcher(kernels.slice_rows, **each)
        self._dots = {
            (add, scaled): Launcher(dots, 0, 8, ADD=add, SCALED=scaled, **each)
            for add in (False, True)
            for scaled in (False, True)
        }

    def spread(self, values: Tensor, share: Tensor, reverse: bool) -> Tensor:
        """Splat and blur: [P, C] in any float type -> rows. Padded input rows must be zero beyond C."""
        return self.blur(self.splat(values, share), reverse)

    def splat(self, values: Tensor, share: Tensor) -> Tensor:
        """The sum over each vertex's corners, in passes with separate buffers, at most two at a time."""
        if not self.structure.vertices:
            return self._like.new_empty(0, self.width)
        stride = values.stride(0)
        launch, order = self._first[stride == self.width], self.structure.order
        channels = self.channels
        for table in self._tables:
            count = table.numel() - 1
            out = self._like.new_empty(count, self.width)
            launch(
                ceil_div(count, self._rows), self._across, values, out, order, share, table, count, channels,
                stride, self._sectors,
            )  # fmt: skip
            launch, values, channels, stride = self._next, out, self.width, self.width
        return values

    def blur(self, rows: Tensor, reverse: bool) -> Tensor:
        """Blur the groups of axes in turn, in reverse order if `reverse`; overwrites `rows`."""
        neighbour, vertices = self.structure.neighbour, self.structure.vertices
        if not vertices:
            return rows
        other, programs = torch.empty_like(rows), ceil_div(vertices, self._rows)
        groups = range(len(neighbour))
        for group in reversed(groups) if reverse else groups:
            self._blur(programs, self._across, rows, other, neighbour, group, vertices, self._sectors)
            rows, other = other, rows
        return rows

    def gather(self, rows: Tensor, weights: Tensor) -> Tensor:
        """Slice: rows -> [P, C]."""
        out = rows.new_empty(len(weights), self.channels)
        if out.numel():
            self._slice(
                self._pixels, self._own_across, rows, out, weights, self.structure.corner, len(weights),
                self.structure.vertices, self.channels, self._sectors, self.channels,
            )  # fmt: skip
        return out

    def corner_dots(
        self, values: Tensor, rows: Tensor, out: Tensor, add: bool, scale: Tensor | None = None
    ) -> None:
        """out[p, r] (+)= scale[p] / (1 + 2^-d) <values[p], rows[corner[p, r]]>."""
        self._dots[add, scale is not None](
            self._pixels, 1, values, rows, out, self.structure.corner, out if scale is None else scale,
            len(values), self.structure.vertices, self.channels, values.stride(0), self._sectors,
        )  # fmt: skip


def filter(values: Tensor, weights: Tensor, reverse: bool, *structure: Tensor) -> Tensor:
    """[P, C] -> [P, C]: splat, blur (the adjoint's when `reverse`), slice, times 1 / (1 + 2^-d)."""
    values, weights, parts = values.contiguous(), weights.contiguous(), Structure.of(structure)
    if not values.numel():
        return torch.empty_like(values, dtype=weights.dtype)
    with on_device(values):
        passes = Passes(parts, values.shape[1], weights)
        return passes.gather(passes.spread(values, shares(weights, parts), reverse), weights)


def weight_gradient(x: Tensor, g: Tensor, weights: Tensor, *structure: Tensor) -> Tensor:
    """d<g, filter(x)>/dw: the splat's term, from the adjoint's values at the corners, plus the slice's."""
    x, g, weights, parts = x.contiguous(), g.contiguous(), weights.contiguous(), Structure.of(structure)
    out = torch.zeros_like(weights)
    if x.numel():
        with on_device(x):
            passes, share = Passes(parts, x.shape[1], weights), shares(weights, parts)
            passes.corner_dots(g, passes.spread(x, share, False), out, add=False)
            passes.corner_dots(x, passes.spread(g, share, True), out, add=True)
    return out
