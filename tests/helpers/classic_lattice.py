# SPDX-License-Identifier: MIT
"""The permutohedral lattice of Adams, Baek & Davis (2010) over a dictionary, written from the paper."""

from __future__ import annotations

import itertools
import math

import numpy as np


class ClassicLattice:
    """features [N, d] -> v [N, C] ↦ slice(blur(splat(v))) / (1 + 2^-d)."""

    def __init__(self, features):
        count, d = features.shape
        self.size = d + 1
        # Columns span the plane Σx = 0: (1, …, 1, -i, 0, …, 0) / √(i(i+1)).
        basis = np.zeros((d + 1, d))
        for i in range(1, d + 1):
            basis[:i, i - 1] = 1
            basis[i, i - 1] = -i
            basis[:, i - 1] /= math.sqrt(i * (i + 1))
        lifted = features @ basis.T * (math.sqrt(2 / 3) * (d + 1))
        self.vertices = {}
        self.corners = np.zeros((count, d + 1), int)
        self.shares = np.zeros((count, d + 1))
        for n, x in enumerate(lifted):
            for r, (vertex, share) in enumerate(self._simplex(x)):
                self.corners[n, r] = self.vertices.setdefault(vertex, len(self.vertices))
                self.shares[n, r] = share

    def _simplex(self, x):
        """The d + 1 corners around x with their barycentric coordinates."""
        size = self.size
        nearest = (
            np.ceil(x / size - 0.5) * size
        )  # halves are rounded down, and of equal offsets the lower axis comes first
        order = np.argsort(nearest - x, kind="stable")
        # Rounding may leave the plane: correct it at the axes with the largest rounding errors.
        excess = round(float(nearest.sum()) / size)
        back = order[size - excess :] if excess > 0 else order[:-excess]
        nearest[back] -= size * np.sign(excess)
        order = np.roll(order, excess)
        offset = x - nearest
        falling = offset[order]
        for k in range(size):
            # Corner k decrements the axes that come last in descending order.
            vertex = nearest + k
            vertex[order[size - k :]] -= size
            if k == 0:
                share = 1 - (falling[0] - falling[-1]) / size
            else:
                share = (falling[size - 1 - k] - falling[size - k]) / size
            yield tuple(vertex.astype(int)), share

    def __matmul__(self, values):
        return self.apply(values, [[axis] for axis in range(self.size)])

    def apply(self, values, groups):
        """With the axes of each group blurred at once: [[0, 1, 2], [3]]."""
        grid = np.zeros((len(self.vertices), values.shape[1]))
        for r in range(self.size):
            np.add.at(grid, self.corners[:, r], self.shares[:, r, None] * values)
        steps = self.size * np.eye(self.size, dtype=int) - 1
        for axes in groups:
            blurred = np.zeros_like(grid)
            for ways in itertools.product((0, 1, -1), repeat=len(axes)):
                step = sum(way * steps[axis] for way, axis in zip(ways, axes, strict=True))
                for vertex, number in self.vertices.items():
                    other = self.vertices.get(tuple(np.add(vertex, step)))
                    if other is not None:
                        blurred[number] += 0.5 ** np.count_nonzero(ways) * grid[other]
            grid = blurred
        return (self.shares[..., None] * grid[self.corners]).sum(1) / (1 + 2.0 ** (1 - self.size))
