# SPDX-License-Identifier: MIT
"""The plain DeepLab unaries of the VOC 2012 person subset against the figures published for them."""

from __future__ import annotations

import time

import pytest

from crfrnn.datasets import DeepLabUnaries, voc_person_folder, voc_pictures
from crfrnn.evaluation import Evaluator
from crfrnn.io import VOC_CLASSES

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def plain():
    """All 311 pictures of val, counted once."""
    folder = voc_person_folder()
    assert folder is not None
    return count(folder)


def count(folder):
    unaries = DeepLabUnaries.load(folder / "unaries/val.npz")
    evaluator = Evaluator(21, class_names=VOC_CLASSES)
    spent = []
    for item in voc_pictures(folder, "val"):
        truth = item.mask
        guess = unaries.logits(item.id, truth.shape).max(0).indices.numpy()  # the first of equals, as argmax
        start = time.process_time()
        evaluator.update(item.id, truth, {"plain": guess})
        spent.append(time.process_time() - start)
    return evaluator.compute(), spent


@pytest.mark.slow
@pytest.mark.parametrize(
    ("metric", "percent"),
    [("mean_iu", 67.37), ("pixel_accuracy", 92.25), ("trimap_iu", 51.95), ("trimap_accuracy", 75.24)],
)
def test_published_figures(plain, metric, percent):
    result, _ = plain
    assert len(result.ids) == 311
    assert round(100 * result.score("plain", metric), 2) == percent


@pytest.mark.slow
def test_the_trimap_curve_rises_to_the_whole_picture(plain):
    result, _ = plain
    curve = result.trimap_curve("plain")
    assert len(curve) == 40
    assert (curve[1:] > curve[:-1]).all()
    assert curve[4] == result.score("plain", "trimap_iu")
    assert curve[-1] < result.score("plain", "mean_iu")


def test_all_metrics_of_a_picture_are_quick(plain):
    _, spent = plain
    assert sorted(spent)[len(spent) // 2] < 0.2  # processor seconds, not the clock's
