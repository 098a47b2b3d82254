# SPDX-License-Identifier: MIT
"""OpenCV's guided filter, and OpenCV configured for all refiners."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from crfrnn.experiments.refiners.refiner import Range, Refiner
from crfrnn.experiments.refiners.scene import Scene
from crfrnn.extras import optional


def cv2() -> Any:
    """OpenCV with its contributed modules, on one thread like all refiners."""
    found = optional("cv2", "peers", "filters and GrabCut", "opencv-contrib-python-headless")
    found.setNumThreads(1)
    return found


def guided(scene: Scene, *, radius: int, step: float) -> NDArray[np.int64]:
    """The guided filter on windows of 2 · radius + 1 pixels, ε = step² in colour steps of 0..255."""
    prepared = cv2().ximgproc.createGuidedFilter(scene.image, radius, step**2)
    planes = [prepared.filter(plane) for plane in scene.probabilities.numpy()]
    return np.argmax(planes, 0)


GUIDED = Refiner(
    "guided-filter", "guided filter", "He, Sun & Tang, TPAMI 2013; cv2.ximgproc", guided,
    {"radius": 16, "step": 10.0}, {"radius": Range(2, 80, whole=True), "step": Range(1.0, 80.0)},
)  # fmt: skip
