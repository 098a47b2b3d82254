# SPDX-License-Identifier: MIT
"""The definition of a refiner: a function of a scene and a few numbers, with the range of each number."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crfrnn.experiments.refiners.scene import Scene

Numbers = Mapping[str, Any]
Run = Callable[..., NDArray[np.int64]]  # (scene, **numbers) -> Int64[H, W], positions among scene.labels


class Range(NamedTuple):
    """The search range of a number: logarithmic if `log`, whole numbers if `whole`."""

    low: float
    high: float
    log: bool = True
    whole: bool = False


@dataclass(frozen=True)
class Refiner:
    """A way to refine labels.

    Attributes:
        name: name of its file.
        title: title in tables.
        source: publication of the method.
        run: see `Run`.
        start: the published or usual numbers: the first trial of the search.
        space: the search space: a `Range`, or choices. Empty: no search.
        two_labels: whether it separates one label from all others, and is searched and evaluated on that.
    """

    name: str
    title: str
    source: str
    run: Run
    start: Numbers = field(default_factory=dict)
    space: Mapping[str, Range | tuple[str, ...]] = field(default_factory=dict)
    two_labels: bool = False

    def labels(self, scene: Scene, numbers: Numbers) -> NDArray[np.int64]:
        """Int64[H, W], the labels of the data set."""
        found = np.asarray(self.run(scene, **numbers))
        if found.shape != scene.image.shape[:2]:
            raise ValueError(f"{self.name}: expected labels {scene.image.shape[:2]}, got {found.shape}")
        return scene.labels[found]
