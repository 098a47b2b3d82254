# SPDX-License-Identifier: MIT
"""Pictures of labels, kernels and numbers: what is drawn where, and errors that name the argument."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence
from skimage.color import rgb2lab

from crfrnn import GaussianKernel
from crfrnn.io import voc_palette
from crfrnn.plots import (
    CHANGED,
    as_seen,
    charts,
    curves,
    difference,
    energy_curve,
    exact_footprint,
    footprint,
    frames,
    heat_map,
    kernel_footprints,
    least_difference,
    overlay,
    painted,
    palette,
    panel,
    safe_palette,
    shrunk,
    tiles,
    trimap_curves,
    write_film,
)

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


def test_labels_of_invisible_area_are_not_in_the_legend() -> None:
    image, labels = np.full((100, 400, 3), 90, np.uint8), np.full((100, 400), 15)
    labels[0, :19] = 3  # 0.0475 %
    without = np.asarray(painted(image, labels))[101:]
    labels[0, :20] = 3
    colour = voc_palette()[3]
    assert not (without == colour).all(-1).any()
    assert (np.asarray(painted(image, labels))[101:] == colour).all(-1).any()


@pytest.mark.parametrize(("height", "width"), [(60, 80), (10, 90), (90, 10), (1, 1)])
def test_panel_has_the_requested_width_for_any_picture(height: int, width: int) -> None:
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
    assert (
        painted(image[:, :9], labels[:, :9]).width >= 300
    )  # a narrow picture still leaves room for the names


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
    cell = blue.sum() - red.sum()  # the colour bar is symmetric about 0
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


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Collect the drawn figures, to read their data."""
    found: list[Any] = []
    really = charts.picture_of

    def picture_of(figure: Any) -> Image.Image:
        found.append(figure)
        return really(figure)

    for module in ("charts", "footprint"):
        monkeypatch.setattr(sys.modules[f"crfrnn.plots.{module}"], "picture_of", picture_of)
    return found


def test_trimap_and_energy_curves_draw_the_numbers_at_their_widths_and_iterations(figures: list[Any]) -> None:
    trimap_curves({"before": [0.5, 0.25], "after": [0.75, 0.5]})
    energy_curve({"plain": [7.0, 3.0, 4.0], "damped": [7.0, 2.0]})
    lines = [[line.get_xydata().tolist() for line in figure.axes[0].lines] for figure in figures]
    assert lines[0] == [[[1, 50], [2, 25]], [[1, 75], [2, 50]]]
    assert lines[1] == [[[0, 5], [1, 1], [2, 2]], [[0, 5], [1, 0]]]


def test_a_footprint_is_the_row_of_the_kernels_matrix() -> None:
    image = torch.rand(1, 3, 5, 6) * 255
    for method, normalization in (("lattice", "after"), ("lattice", "symmetric"), ("exact", "none")):
        kernel = GaussianKernel.bilateral(image, 3.0, 60.0, method, normalization)
        matrix = (kernel @ torch.eye(30)[None])[0]
        for x, y in ((0, 0), (4, 2)):
            row = matrix[y * 6 + x].reshape(5, 6).numpy()
            assert np.allclose(footprint(kernel, (5, 6), (x, y)), row / row.sum(), atol=1e-6)


def test_the_exact_footprint_is_the_gaussian_of_places_and_colours() -> None:
    image = torch.rand(1, 3, 5, 6) * 255
    y, x = np.mgrid[:5, :6]
    colours = image[0].double().permute(1, 2, 0).numpy()
    apart = ((x - 4) ** 2 + (y - 2) ** 2) / 3.0**2 + ((colours - colours[2, 4]) ** 2).sum(-1) / 60.0**2
    expected = np.exp(-apart / 2) / np.exp(-apart / 2).sum()
    kernel = GaussianKernel.bilateral(image, 3.0, 60.0)
    assert np.allclose(exact_footprint(kernel, (5, 6), (4, 2)), expected, rtol=1e-4)
    with pytest.raises(ValueError, match=r"pixel: expected x in 0..5 and y in 0..4, got 6 2"):
        footprint(kernel, (5, 6), (6, 2))


def test_footprints_are_drawn_on_one_scale_with_a_cross(figures: list[Any]) -> None:
    weights = np.full((6, 8), 1e-4)
    weights[3, 2], weights[3, 3] = 0.5, 0.05
    kernel_footprints(IMAGE, {"exact": weights, "lattice": weights / 10}, (2, 3))
    first, second, _ = figures[0].axes
    assert [axes.get_title() for axes in (first, second)] == ["exact", "lattice"]
    drawn = [axes.images[1].get_array() for axes in (first, second)]
    assert np.allclose([drawn[0][3, 2], drawn[0][3, 3], drawn[1][3, 2]], [0, -1, -1])
    assert drawn[0].mask.sum() == 46  # less than a thousandth of the largest
    assert first.lines[0].get_xydata().tolist() == [[2, 3]]
    assert (*first.get_xlim(), *first.get_ylim()) == (-0.5, 7.5, 5.5, -0.5)  # all of a small picture
    wide, far = np.zeros((60, 80, 3), np.uint8), np.full((60, 80), 1e-6)
    far[30, 40] = far[32, 43] = 0.5
    kernel_footprints(wide, {"exact": far}, (40, 30))
    assert figures[1].axes[0].get_xlim() == (31.5, 51.5) and figures[1].axes[0].get_ylim() == (40.5, 21.5)
    with pytest.raises(ValueError, match=r"footprints: expected \(6, 8\)"):
        kernel_footprints(IMAGE, {"exact": weights[1:]}, (2, 3))


def test_the_safe_palette_keeps_its_colours_apart_for_colour_blind_readers() -> None:
    colours = safe_palette()
    assert colours[:8].tolist() == [list(colour) for colour in palette.OKABE_ITO]
    assert len(np.unique(colours, axis=0)) == 256
    for count, apart in ((8, 16), (21, 16), (81, 9), (256, 4)):
        assert least_difference(colours[:count]) > apart
    assert least_difference(voc_palette(21)) < 2  # its purpose
    assert np.allclose(palette._lab(colours), rgb2lab(colours), atol=0.05)


def test_colours_as_seen_with_a_colour_deficiency() -> None:
    greys = np.arange(256, dtype=np.uint8)[:, None].repeat(3, 1)
    for deficiency in palette.DEFICIENCIES:
        assert np.abs(as_seen(greys, deficiency).astype(int) - greys).max() <= 1
        red, green = as_seen(np.array([[180, 0, 0], [60, 90, 0]], np.uint8), deficiency)
        assert abs(int(red[2]) - int(green[2])) < 30  # only a difference in lightness is left
    red = np.array([255, 0, 0], np.uint8)
    lightness = [palette._lab(as_seen(red, name)[None])[0, 0] for name in ("protanopia", "deuteranopia")]
    assert lightness[0] < lightness[1] - 10  # reds are dark to protanopes
    with pytest.raises(ValueError, match="deficiency: expected one of protanopia, deuteranopia"):
        as_seen(red, "blue")


@pytest.mark.parametrize("ending", [".gif", ".png"])
def test_a_film_shows_every_iteration(tmp_path: Path, ending: str) -> None:
    labels = [np.full((30, 40), k) for k in (1, 2, 15)]
    shots = frames(np.full((30, 40, 3), 90, np.uint8), labels)
    assert [np.asarray(shot)[26:, :40].tolist() for shot in shots] == [
        overlay(np.full((30, 40, 3), 90, np.uint8), found).tolist() for found in labels
    ]
    write_film(shots, tmp_path / f"film{ending}", milliseconds=200)
    with Image.open(tmp_path / f"film{ending}") as film:
        seen = [(np.asarray(f.convert("RGB")), f.info["duration"]) for f in ImageSequence.Iterator(film)]
        assert film.info["loop"] == 0
    assert [shown for _, shown in seen] == [200, 200, 600]
    for (found, _), shot in zip(seen, shots, strict=True):
        assert np.abs(found[28:].astype(int) - np.asarray(shot)[28:]).max() <= (4 if ending == ".gif" else 0)
    assert [path.name for path in tmp_path.iterdir()] == [f"film{ending}"]


def test_a_film_needs_frames_and_a_format(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"path: expected a name that ends with \.gif, \.png, \.apng"):
        write_film([Image.new("RGB", (2, 2))], tmp_path / "film.mp4")
    for call in (lambda: write_film([], tmp_path / "film.gif"), lambda: frames(IMAGE, [])):
        with pytest.raises(ValueError, match="expected at least one"):
            call()


def test_tiles_show_pictures_labels_and_shares() -> None:
    shares = np.array([[0.0, 1.0, 0.2, 2.0]] * 6).repeat(2, 1)
    out = np.asarray(tiles({"a": IMAGE, "b": AFTER, "c": shares}, height=60, columns=2))
    first, second, third = out[26:86, 8:88], out[26:86, 96:176], out[120:180, 8:88]
    assert (first == 128).all()
    assert (second == safe_palette()[AFTER].repeat(10, 0).repeat(10, 1)).all()
    assert [third[30, x].tolist() for x in (5, 25, 45, 65)] == [[v] * 3 for v in (0, 255, 51, 255)]
    for wrong in (AFTER - 1, IMAGE.astype(float), np.full((6, 8), True)):
        with pytest.raises(ValueError, match="pictures: expected"):
            tiles({"a": wrong})
