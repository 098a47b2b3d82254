# SPDX-License-Identifier: MIT
"""The refiners by name, in the order of the tables: cheap ones first."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from crfrnn.experiments.refiners import adaptive, crfs, filters, graphs, ranking, solver
from crfrnn.experiments.refiners.refiner import Refiner
from crfrnn.experiments.refiners.scene import Scene


def argmax(scene: Scene) -> NDArray[np.int64]:
    return scene.winners


NONE = Refiner("none", "none: the argmax of the scores", "", argmax)
OURS, LEARNED, AFTER = crfs.TUNED.name, "crfrnn-learned", "crfrnn-rankseg"
_KNOWN = {
    found.name: found
    for found in (
        NONE, crfs.DEFAULT, crfs.TUNED, crfs.PYDENSECRF, ranking.RANKSEG, graphs.SLIC, filters.GUIDED,
        solver.SOLVER, adaptive.PAMR, adaptive.PAR, graphs.GRABCUT, graphs.WALKER,
    )
}  # fmt: skip
# The learned CRF and RankSEG after a CRF are built from the result of the search.
NAMES = (*list(_KNOWN)[:3], LEARNED, *list(_KNOWN)[3:5], AFTER, *list(_KNOWN)[5:])


def refiner(name: str) -> Refiner:
    """A refiner that needs only a scene and numbers, by name."""
    return _KNOWN[name]
