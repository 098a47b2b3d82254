# SPDX-License-Identifier: MIT
"""The accuracy settings of the lattice, by name."""

from __future__ import annotations

from typing import NamedTuple

from crfrnn.lattice.validate import check_choice


class Quality(NamedTuple):
    """What a lattice does to approach the exact Gaussian sum.

    scale          multiplies the features: the finite stencil is not quite as narrow as the Gaussian
    rings          how many times missing ±n_j neighbours are added before blurring
    ring_support   a missing vertex is added only if at least so many of its 2(d+1) neighbours are there:
                   most of a full ring's gain comes from the few vertices that stand between others
    together       so many axes are blurred at once, 1 to 3 and never all: their stencils' product reaches
                   over a missing vertex, where a blur axis by axis loses what would have gone through it
    unit_diagonal  the barycentric weights are scaled so that a point's response to itself is 1, as the
                   exact sum's is, wherever in its simplex it lies
    """

    scale: float = 1.0
    rings: int = 0
    ring_support: int = 1
    together: int = 1
    unit_diagonal: bool = False


QUALITIES: dict[str, Quality] = {
    "classic": Quality(),  # Adams, Baek & Davis 2010, as every public implementation has it
    "default": Quality(),  # today the same, the fastest
    "high": Quality(scale=1.04, together=3, unit_diagonal=True),  # half the error, hardly more vertices
    "finest": Quality(scale=1.055, rings=1, unit_diagonal=True),  # several times as many vertices
}


def get_quality(quality: str | Quality) -> Quality:
    """The setting called `quality`; a Quality is passed through.

    >>> get_quality("high").together
    3
    """
    if isinstance(quality, Quality):
        return quality
    return QUALITIES[check_choice("quality", quality, QUALITIES)]
