# SPDX-License-Identifier: MIT
"""Superpixel voting, random walks and graph cuts."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray

from crfrnn.crf.likeliest import likeliest
from crfrnn.experiments.refiners.filters import cv2
from crfrnn.experiments.refiners.refiner import Range, Refiner
from crfrnn.experiments.refiners.scene import Scene
from crfrnn.extras import optional


def slic(scene: Scene, *, pixels: float, compactness: float, votes: str) -> NDArray[np.int64]:
    """Superpixels of about `pixels` pixels take their most frequent or their most probable label."""
    segmentation = optional("skimage.segmentation", "peers", "superpixels", "scikit-image")
    count = max(2, round(scene.winners.size / pixels))
    parts = segmentation.slic(scene.image, n_segments=count, compactness=compactness, start_label=0)
    if votes == "labels":
        given = [scene.winners == label for label in range(len(scene.labels))]
    else:
        given = list(scene.probabilities.numpy())
    sums = [np.bincount(parts.ravel(), weights=plane.ravel()) for plane in given]
    return np.argmax(sums, 0)[parts]


def random_walker(scene: Scene, *, beta: float, sure: float) -> NDArray[np.int64]:
    """Pixels whose probability is above `sure` keep their label, the others get one by random walks."""
    segmentation = optional("skimage.segmentation", "peers", "random walks", "scikit-image")
    winners = scene.winners
    seeds = np.where(scene.probabilities.amax(0).numpy() > sure, winners + 1, 0)
    present = np.unique(seeds[seeds > 0])
    if len(present) < 2 or seeds.all():  # nothing for a walk to decide
        return winners
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about pyamg, which would be faster, and single-pixel labels
        found = segmentation.random_walker(
            scene.image, seeds, beta=beta, mode="cg_j", tol=1e-3, channel_axis=2
        )  # its labels are the seeds' labels, renumbered without gaps
    return np.where(found > 0, present[found - 1] - 1, winners)


def grabcut(scene: Scene, *, sure: float, unsure: float, iterations: int) -> NDArray[np.int64]:
    """Separate the label `focus` by GrabCut; other pixels take the best of the other labels.

    Pixels with a probability above `sure` are fixed as object and those below `unsure` as background; between
    them the colours decide.
    """
    winners = scene.winners
    place = np.flatnonzero(scene.labels == scene.focus)
    if not len(place):
        return winners
    cv = cv2()
    p = scene.probabilities[place[0]].numpy()
    start = np.where(p > 0.5, cv.GC_PR_FGD, cv.GC_PR_BGD).astype(np.uint8)
    start[p > sure], start[p < unsure] = cv.GC_FGD, cv.GC_BGD
    objects = np.isin(start, (cv.GC_FGD, cv.GC_PR_FGD))
    if objects.any() and not objects.all():  # GrabCut needs colours of both
        cv.setRNGSeed(0)
        models = np.zeros((1, 65)), np.zeros((1, 65))
        start, *_ = cv.grabCut(scene.image, start, None, *models, iterations, cv.GC_INIT_WITH_MASK)
        objects = np.isin(start, (cv.GC_FGD, cv.GC_PR_FGD))
    others = scene.logits.clone()
    others[place[0]] = -np.inf
    return np.where(objects, place[0], likeliest(others))


SLIC = Refiner(
    "slic", "SLIC superpixels, majority", "Achanta et al., TPAMI 2012; scikit-image", slic,
    {"pixels": 400.0, "compactness": 10.0, "votes": "labels"},
    {"pixels": Range(30.0, 2000.0), "compactness": Range(1.0, 60.0), "votes": ("labels", "probabilities")},
)  # fmt: skip
WALKER = Refiner(
    "random-walker", "random walker", "Grady, TPAMI 2006; scikit-image", random_walker,
    {"beta": 130.0, "sure": 0.95}, {"beta": Range(10.0, 5000.0), "sure": Range(0.6, 0.999, log=False)},
)  # fmt: skip
GRABCUT = Refiner(
    "grabcut", "GrabCut", "Rother, Kolmogorov & Blake, SIGGRAPH 2004; OpenCV", grabcut,
    {"sure": 0.95, "unsure": 0.05, "iterations": 5},
    {"sure": Range(0.6, 0.999, log=False), "unsure": Range(0.001, 0.4),
     "iterations": Range(1, 5, log=False, whole=True)},
    two_labels=True,
)  # fmt: skip
