# SPDX-License-Identifier: MIT
"""Panels and overlays: sizes, colours where they belong, and errors that name the argument."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from crfrnn.io import voc_palette
from crfrnn.plots import CHANGED, curves, difference, heat_map, overlay, painted, panel, shrunk

IMAGE = np.full((6, 8, 3), 128, np.uint8)
BEFORE = np.zeros((6, 8), int)
AFTER = BEFORE.copy()
AFTER[2:4, 3:5] = 2


def test_difference_marks_exactly_the_changed_pixels() -> None:
    out = difference(IMAGE, BEFORE, AFTER).astype(int)
    coloured = np.ptp(out, axis=2) > 0
    assert (coloured == (BEFORE != AFTER)).all()
    assert np.abs(out[2, 3] - np.array(CHANGED)).max() < 40


def test_opaque_overlay_is_the_palette_away_from_borders() -> None:
    out = overlay(IMAGE, np.full((6, 8), 15), opacity=1.0)
    assert (out == voc_palette()[15]).all()
    mine = np.array([[9, 9, 9], [1, 2, 3]], np.uint8)
    assert (overlay(IMAGE, BEFORE + 1, mine, opacity=1.0) == [1, 2, 3]).all()


@pytest.mark.parametrize("label", [0, 255])
def test_background_and_void_stay_the_photograph(label: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    assert (overlay(image, np.full((6, 8), label)) == image).all()
    legend = np.asarray(painted(image, np.full((6, 8), label), names=["background"]))[6:]
    assert not (legend == voc_palette()[label]).all(-1).any()  # black, in VOC's palette


def test_the_photograph_shows_under_every_tint() -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    image[:, 4:] = 255
    for label in (1, 2, 15):
        out = overlay(image, np.full((8, 8), label)).astype(int)
        assert (out[0, 7] - out[0, 0] > 100).all()


def test_labels_of_no_share_that_can_be_seen_are_not_in_the_legend() -> None:
    image, labels = np.full((100, 400, 3), 90, np.uint8), np.full((100, 400), 15)
    labels[0, :19] = 3  # 0.0475 %
    without = np.asarray(painted(image, labels))[101:]
    labels[0, :20] = 3
    colour = voc_palette()[3]
    assert not (without == colour).all(-1).any()
    assert (np.asarray(painted(image, labels))[101:] == colour).all(-1).any()


@pytest.mark.parametrize(("height", "width"), [(60, 80), (10, 90), (90, 10), (1, 1)])
def test_panel_has_the_width_asked_for_whatever_the_picture_is(height: int, width: int) -> None:
    image, labels = np.zeros((height, width, 3), np.uint8), np.zeros((height, width), int)
    out = panel(image, labels, labels, names=["nothing"], width=600)
    assert out.width == 600 and out.height > 60 and out.mode == "RGB"


def test_panel_of_many_labels_wraps_its_legend() -> None:
    labels = np.arange(200).reshape(10, 20)
    image = np.zeros((10, 20, 3), np.uint8)
    many, few = panel(image, labels, labels), panel(image, labels * 0, labels * 0)
    assert many.height > few.height


@pytest.mark.parametrize(
    ("image", "labels", "named"),
    [
        (IMAGE.astype(float), BEFORE, "image"),
        (IMAGE[..., 0], BEFORE, "image"),
        (IMAGE, BEFORE[:3], "labels"),
        (IMAGE, BEFORE.astype(float), "labels"),
        (IMAGE, BEFORE - 1, "labels"),
        (IMAGE, BEFORE + 256, "labels"),
    ],
)
def test_bad_input_is_named(image: np.ndarray, labels: np.ndarray, named: str) -> None:
    with pytest.raises(ValueError, match=f"^{named}: expected"):
        panel(image, labels, labels)


def test_wrong_number_of_captions() -> None:
    with pytest.raises(ValueError, match="captions"):
        panel(IMAGE, BEFORE, AFTER, captions=["one"])


def test_painted_is_the_overlay_with_a_legend_of_its_labels_beneath() -> None:
    image, labels = np.full((100, 400, 3), 90, np.uint8), np.zeros((100, 400), int)
    labels[:, 200:] = 15
    out = np.asarray(painted(image, labels, names=["background"]))
    assert (out[:100] == overlay(image, labels)).all() and out.shape[1] == 400 and len(out) > 100
    legend = {tuple(colour) for colour in out[100:].reshape(-1, 3).tolist()}
    assert tuple(voc_palette()[15].tolist()) in legend and CHANGED not in legend
    assert painted(image[:, :9], labels[:, :9]).width >= 300  # a narrow picture leaves the names their room


def test_shrunk_pictures_keep_labels_labels() -> None:
    image = np.zeros((90, 300, 3), np.uint8)
    labels = np.where(np.arange(300) < 150, 3, 200)[None].repeat(90, 0)
    small, found = shrunk(image, labels, long_side=100)
    assert small.shape == (30, 100, 3) and found.tolist() == [[3] * 50 + [200] * 50] * 30
    same, kept = shrunk(image, labels, long_side=300)
    assert same is image and kept is labels


def test_a_heat_map_is_white_at_0_and_blue_below() -> None:
    picture = np.asarray(heat_map(np.array([[-1.0, 0.0], [0.0, 0.0]]), ("a", "b"))).astype(int)
    blue, red = ((picture == colour).all(-1) for colour in ((5, 48, 97), (103, 0, 31)))
    white = (np.abs(picture - 247) <= 1).all(-1)
    cell = blue.sum() - red.sum()  # the ends of the colour bar are of one size
    assert cell > 400 and white.sum() == pytest.approx(3 * cell, rel=0.1)
    with pytest.raises(ValueError, match="L = 1 names"):
        heat_map(np.eye(2), ("a",))


def test_curves_have_their_size_and_gaps() -> None:
    gap = [0.2, float("nan"), 0.3]
    for name in ("a", "$x_{", "_a", "a name of a row that is longer than the figure has room for"):
        assert curves({name: gap, "b": [0.1, 0.2, 0.3]}, "x", "y").size == (760, 460)
    joined, apart = (
        (np.asarray(curves({"a": line}, "x", "y")) == (31, 119, 180)).all(-1).sum()
        for line in ([0.2, 0.25, 0.3], gap)
    )
    assert joined > 4 * apart > 0  # two points, and no line between them
    names = [np.asarray(curves({name: gap}, "x", "y")) for name in ("_a", "_b")]
    assert (names[0] != names[1]).any()  # matplotlib leaves such names out of its own legends


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"matplotlib, got none; pip install '\.\[plots\]'"):
        curves({"a": [1.0, 2.0]}, "x", "y")
