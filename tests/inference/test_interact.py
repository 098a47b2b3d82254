# SPDX-License-Identifier: MIT
"""Scribbles, seeds and boxes on real photographs: composites with known ground truth, and a landscape."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from skimage import data, filters, transform
from sklearn.datasets import load_sample_image

from crfrnn import CRFRNN
from crfrnn.datasets import voc_person_folder
from crfrnn.inference.interact import Marked, default_crf, segment_box, segment_scribbles, segment_seeds
from crfrnn.inference.interact import marked as marked_module
from crfrnn.io import read_image, read_label_png
from crfrnn.lattice import Lattice

SIZE = (110, 150)


def photograph(name: str) -> np.ndarray:
    picture = load_sample_image(f"{name}.jpg") if name in ("china", "flower") else getattr(data, name)()
    return np.rint(255 * transform.resize(picture, SIZE, anti_aliasing=True)).astype(np.uint8)


def composite(front: str, behind: str) -> tuple[np.ndarray, np.ndarray]:
    """Paste a three-lobed patch with soft edges on another photograph; also return its mask, Bool[H, W]."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    angle, radius = np.arctan2(y - 55, x - 75), np.hypot(y - 55, x - 75)
    truth = radius < 30 * (1 + 0.25 * np.cos(3 * angle) + 0.1 * np.sin(5 * angle))
    alpha = filters.gaussian(truth.astype(float), 0.7)[..., None]
    mixed = alpha * photograph(front) + (1 - alpha) * photograph(behind)
    return mixed.round().astype(np.uint8), truth


def iou(found: np.ndarray, truth: np.ndarray) -> float:
    return float(((found == 1) & truth).sum() / ((found == 1) | truth).sum())


def box_around(truth: np.ndarray, margin: int) -> tuple[int, int, int, int]:
    rows, columns = np.nonzero(truth)
    return (
        max(int(columns.min()) - margin, 0),
        max(int(rows.min()) - margin, 0),
        min(int(columns.max()) + 1 + margin, truth.shape[1]),
        min(int(rows.max()) + 1 + margin, truth.shape[0]),
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("front", "behind"), [("coffee", "rocket"), ("chelsea", "rocket"), ("rocket", "chelsea")]
)
def test_a_box_finds_the_object(front: str, behind: str) -> None:
    image, truth = composite(front, behind)
    left, top, right, bottom = box = box_around(truth, 6)
    boxed = np.zeros(SIZE)
    boxed[top:bottom, left:right] = 1
    found = segment_box(image, box)
    assert found.labels[boxed == 0].max() == 0, "the outside is held"
    assert iou(found.labels, truth) > 0.9 > 0.7 > iou(boxed, truth)
    assert iou(found.labels, truth) > iou(found.before, truth), "the CRF adds to colour alone"


def strokes() -> np.ndarray:
    drawn = np.full(SIZE, -1)
    drawn[53:57, 62:88], drawn[42:68, 73:77] = 1, 1
    drawn[5:8, 8:142], drawn[103:106, 8:142], drawn[12:98, 5:8], drawn[12:98, 142:145] = 0, 0, 0, 0
    return drawn


@pytest.mark.parametrize(("front", "behind"), [("coffee", "flower"), ("rocket", "chelsea")])
def test_scribbles_find_the_object_and_keep_their_labels(front: str, behind: str) -> None:
    image, truth = composite(front, behind)
    drawn = strokes()
    found = segment_scribbles(image, drawn)
    assert np.array_equal(found.labels[drawn >= 0], drawn[drawn >= 0])
    assert iou(found.labels, truth) > max(0.85, iou(found.before, truth))
    seeded = segment_seeds(
        image, [(75, 55, 1), (20, 20, 0), (130, 20, 0), (20, 95, 0), (130, 95, 0)], radius=8
    )
    assert seeded.labels[55, 75] == 1 and seeded.labels[20, 20] == 0
    assert iou(seeded.labels, truth) > 0.6


def test_corrections_in_a_box_keep_their_labels() -> None:
    image, truth = composite("coffee", "rocket")
    fix = np.full(SIZE, -1)
    fix[50:60, 70:80] = 0
    found = segment_box(image, box_around(truth, 6), scribbles=fix, rounds=2)
    assert (found.labels[50:60, 70:80] == 0).all()
    fix[50:60, 70:80] = 1
    assert (segment_box(image, box_around(truth, 6), scribbles=fix, rounds=2).labels[50:60, 70:80] == 1).all()


def test_a_marked_picture_learns_and_builds_only_what_another_layer_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    image, truth = composite("coffee", "rocket")
    box, counts = box_around(truth, 6), {"colours": 0, "lattices": 0}
    learn, build = marked_module.colour_unary, Lattice.of_checked

    def counted(name: str, function: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            counts[name] += 1
            return function(*arguments, **options)

        return call

    monkeypatch.setattr(marked_module, "colour_unary", counted("colours", learn))
    monkeypatch.setattr(Lattice, "of_checked", staticmethod(counted("lattices", build)))
    marked, first = Marked(image, box=box, rounds=3), default_crf(2, SIZE)
    found = marked(first)
    learnt = counts["colours"]
    assert 1 < learnt <= 3 and counts["lattices"] == 1
    assert np.array_equal(marked(first).labels, found.labels)
    *_, last = marked.steps(first)
    assert np.array_equal(last, found.labels)
    assert counts == {"colours": learnt, "lattices": 1}
    weaker = default_crf(2, SIZE, bilateral_weight=1.0)
    again = marked(weaker)
    assert counts["colours"] < 2 * learnt, "the first round sees the same marks"
    assert counts["lattices"] == 1
    alone = segment_box(image, box, rounds=3, crf=weaker)
    assert np.array_equal(again.labels, alone.labels) and not np.array_equal(again.labels, found.labels)
    marked(default_crf(2, SIZE, theta_beta=9.0))
    assert counts["lattices"] == 3


def test_three_labels_on_a_landscape() -> None:
    """China.jpg: sky above, garden below, the palace between; check the unambiguous regions."""
    image = photograph("china")
    drawn = np.full(SIZE, -1)
    drawn[5:12, 20:130] = 0  # sky
    drawn[62:72, 55:95] = 1  # palace
    drawn[92:104, 10:140] = 2  # garden
    found = segment_scribbles(image, drawn)
    assert (found.labels[:15] == 0).mean() > 0.95 and set(np.unique(found.labels)) == {0, 1, 2}
    assert (found.labels[100:] == 2).mean() > 0.8
    assert found.probabilities.shape == (3, *SIZE) and np.allclose(found.probabilities.sum(0), 1, atol=1e-5)
    again = segment_scribbles(image, drawn)
    assert np.array_equal(found.labels, again.labels), "the same at every call"


def test_an_own_layer_is_used() -> None:
    image, _ = composite("coffee", "rocket")
    crf = CRFRNN(2, iterations=0).eval()
    found = segment_scribbles(image, strokes(), crf=crf)
    free = strokes() < 0
    assert np.array_equal(found.labels[free], found.before[free])
    assert default_crf(4, (300, 400)).log_theta_alpha.exp().item() == pytest.approx(25)


@pytest.mark.slow
@pytest.mark.real
def test_segmented_boxes_of_people_are_better_than_the_boxes() -> None:
    """VOC 2012 val, boxes computed from the masks of pictures with one compact person region."""
    folder = voc_person_folder()
    assert folder is not None
    base, gains = folder / "VOCdevkit" / "VOC2012", []
    for name in sorted(p.stem for p in (base / "SegmentationClass").glob("*.png")):
        mask = read_label_png(base / "SegmentationClass" / f"{name}.png")
        truth = (mask == 15)[::3, ::3]
        if not 0.08 < truth.mean() < 0.3:
            continue
        image, void = (
            np.ascontiguousarray(read_image(base / "JPEGImages" / f"{name}.jpg")[::3, ::3]),
            mask[::3, ::3],
        )
        left, top, right, bottom = box = box_around(truth, 2)
        if (right - left) * (bottom - top) > 0.7 * truth.size:
            continue
        boxed = np.zeros(truth.shape)
        boxed[top:bottom, left:right] = 1
        known, found = void != 255, segment_box(image, box, rounds=3).labels
        gains.append(iou(found[known], truth[known]) - iou(boxed[known], truth[known]))
        if len(gains) == 12:
            break
    assert len(gains) == 12 and np.mean(gains) > 0.03


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda i: segment_scribbles(i[..., 0], np.zeros(SIZE, int)), "image: expected uint8"),
        (lambda i: segment_scribbles(i, np.zeros((3, 3), int)), "scribbles: expected integers of shape"),
        (lambda i: segment_scribbles(i, np.full(SIZE, -1)), "scribbles: expected labels"),
        (lambda i: segment_scribbles(i, strokes(), 3), r"scribbles: expected some of every label 0..2"),
        (lambda i: segment_scribbles(i, strokes(), 1), "scribbles: expected labels 0..0"),
        (lambda i: segment_scribbles(i, strokes(), rounds=0), "rounds: expected at least 1"),
        (lambda i: Marked(i), "scribbles: expected scribbles or a box"),
        (lambda i: Marked(i, num_labels=3, box=(5, 5, 50, 50)), "num_labels: expected 2 with a box"),
        (lambda i: segment_seeds(i, [(150, 5, 0)]), "seeds: expected points"),
        (lambda i: segment_seeds(i, [(5, 5, 0)], radius=-1), "radius: expected at least 0"),
        (lambda i: segment_box(i, (10, 10, 10, 40)), "box: expected"),
        (lambda i: segment_box(i, (0, 0, 150, 110)), "box: expected a part of the picture outside"),
        (lambda i: segment_box(i, (5, 5, 50)), "box: expected"),
        (lambda i: segment_box(i, (5, 5, 50, 50), scribbles=np.full(SIZE, 2)), "scribbles: expected 0, 1"),
        (
            lambda i: segment_box(i, (5, 5, 50, 50), scribbles=np.zeros(SIZE, int)),
            "scribbles: expected free pixels in the box",
        ),
        (lambda i: segment_scribbles(i, strokes(), crf=CRFRNN(3)), "unary: expected 3 labels"),
    ],
)
def test_bad_input_is_named(call: Any, named: str) -> None:
    with pytest.raises(ValueError, match=f"^{named}"):
        call(np.zeros((*SIZE, 3), np.uint8))


def test_white_strokes_are_refused_and_the_remedies_work() -> None:
    image = np.zeros((6, 8, 3), np.uint8)
    image[:, 4:] = 200
    scribbles = np.zeros((6, 8), np.uint8)
    scribbles[2, 6] = 255
    for segment in (segment_scribbles, lambda i, s: segment_box(i, (2, 1, 8, 5), scribbles=s)):
        with pytest.raises(ValueError, match=r"nothing but 0 and 255.*np.where\(scribbles == 255, 1, -1\)"):
            segment(image, scribbles)
    mended = np.where(scribbles == 255, 1, -1)
    mended[2, 1] = 0  # also on the background
    assert segment_scribbles(image, mended).labels[0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
