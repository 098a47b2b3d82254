# SPDX-License-Identifier: MIT
"""What a refiner is: a function of a scene and of a few numbers, with the range of each number."""

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
    """What a number is searched in: on a logarithmic scale if `log`, whole numbers if `whole`."""

    low: float
    high: float
    log: bool = True
    whole: bool = False


@dataclass(frozen=True)
class Refiner:
    """A way to refine labels.

    Attributes:
        name: of its file.
        title: for people.
        source: where the method comes from.
        run: see `Run`.
        start: the numbers that its authors publish, or that are usual: the first trial of the search.
        space: what is searched: a `Range`, or choices. Empty: nothing is searched.
        two_labels: it separates one label from all others, and is searched and judged by that.
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
