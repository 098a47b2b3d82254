# SPDX-License-Identifier: MIT
"""RankSEG: the label map with the best expected overlap instead of the argmax; alone and after a CRF."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from crfrnn.crf import CRFRNN
from crfrnn.experiments.refiners.crfs import refined
from crfrnn.experiments.refiners.refiner import Numbers, Range, Refiner
from crfrnn.experiments.refiners.scene import Scene
from crfrnn.extras import optional

SOURCE = "Dai & Li, JMLR 24(224), 2023; Wang & Dai, NeurIPS 2025; package rankseg"
START = {"temperature": 1.0, "metric": "iou", "pruning": 0.5}
SPACE: dict[str, Any] = {
    "temperature": Range(0.25, 6.0), "metric": ("dice", "iou"), "pruning": Range(0.0, 0.9, log=False)
}  # fmt: skip


def _ranked(logits: Tensor, temperature: float, metric: str, pruning: float) -> NDArray[np.int64]:
    solve = optional("rankseg", "peers", "RankSEG").RankSEG(metric=metric, pruning_prob=pruning)
    return solve((logits / temperature).softmax(0)[None])[0].numpy()


def rankseg(scene: Scene, *, temperature: float, metric: str, pruning: float) -> NDArray[np.int64]:
    """The label map whose expected Dice or IoU is highest under the scores' probabilities."""
    return _ranked(scene.logits, temperature, metric, pruning)


RANKSEG = Refiner("rankseg", "RankSEG", SOURCE, rankseg, START, SPACE)


def crf_then_rankseg(
    scene: Scene, *, crf: Numbers, temperature: float, metric: str, pruning: float
) -> NDArray[np.int64]:
    """RankSEG on the marginals of this package's CRF with the numbers `crf`."""
    return _ranked(refined(scene, CRFRNN(len(scene.labels), **crf)), temperature, metric, pruning)


def after_crf(crf: Numbers) -> Refiner:
    """RankSEG after this package's CRF, whose numbers are fixed in the search."""
    title = "crfrnn with its searched parameters, then RankSEG"
    run = partial(crf_then_rankseg, crf=dict(crf))
    return Refiner("crfrnn-rankseg", title, SOURCE, run, START, SPACE)
