# SPDX-License-Identifier: MIT
"""The accuracy settings of the lattice, by name."""

from __future__ import annotations

from typing import NamedTuple

from crfrnn.lattice.validate import check_choice


class Quality(NamedTuple):
    """Settings that improve a lattice's approximation of the exact Gaussian sum.

    scale          factor of the features, because the finite stencil is slightly wider than the Gaussian
    rings          how many times missing ±n_j neighbours are added before blurring
    ring_support   a missing vertex is added only if at least this many of its 2(d+1) neighbours exist:
                   most of a full ring's gain comes from the few vertices that lie between others
    together       number of axes blurred at once, 1 to 3 and never all: the product of their stencils
                   crosses a missing vertex, whereas separate blurs lose the values that would pass through it
    unit_diagonal  the barycentric weights are scaled so that a point's response to itself is 1, as in the
                   exact sum, for any position in its simplex
    """

    scale: float = 1.0
    rings: int = 0
    ring_support: int = 1
    together: int = 1
    unit_diagonal: bool = False


QUALITIES: dict[str, Quality] = {
    "classic": Quality(),  # Adams, Baek & Davis 2010, as in all public implementations
    "default": Quality(),  # currently the same, the fastest
    "high": Quality(scale=1.04, together=3, unit_diagonal=True),  # half the error, few additional vertices
    "finest": Quality(scale=1.055, rings=1, unit_diagonal=True),  # several times as many vertices
}


def get_quality(quality: str | Quality) -> Quality:
    """The setting called `quality`; a Quality is returned unchanged.

    >>> get_quality("high").together
    3
    """
    if isinstance(quality, Quality):
        return quality
    return QUALITIES[check_choice("quality", quality, QUALITIES)]
