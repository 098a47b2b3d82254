# SPDX-License-Identifier: MIT
"""GeoTIFF variants: all kinds of missing data, unusual bit depths, other ways to store the georeference."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.control import GroundControlPoint
from rasterio.rpc import RPC

from command_line import names, run
from crfrnn.io import Raster
from rasters import save

SIZE = (40, 50)
NUMBERS = ["--theta-alpha", 3, "--theta-beta", 20, "--theta-gamma", 1, "-T", 2, "--overlap", 4]
TRUTH = (np.arange(SIZE[1]) // 10 % 2)[None].repeat(SIZE[0], 0)
HOLE = np.zeros(SIZE, bool)
HOLE[:, :15] = HOLE[30:, 40:] = True


def guide() -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, 0.015, (3, *SIZE))
    return (np.array([[0.05, 0.08, 0.06], [0.3, 0.25, 0.28]])[TRUTH].transpose(2, 0, 1) + noise).astype("f4")


def scores() -> np.ndarray:
    p = np.exp(np.random.default_rng(1).normal(0, 1.2, (2, *SIZE)) + np.stack([TRUTH == 0, TRUTH == 1]))
    return (p / p.sum(0)).astype("f4")


def tiles(root: Path, *more: Any, scene: str = "scene.tif", unary: str = "p.tif") -> tuple[np.ndarray, str]:
    """Return the label map and the command's output."""
    words = [
        "-u",
        root / unary,
        "--kind",
        "probabilities",
        *NUMBERS,
        "-o",
        root / "o.tif",
        "--overwrite",
        *more,
    ]
    code, said, error = run("tiles", root / scene, *words)
    assert code == 0, error
    with rasterio.open(root / "o.tif") as file:
        return file.read(1), said + error


def refused(root: Path, *more: Any, scene: str = "scene.tif", unary: str = "p.tif") -> str:
    words = ["-u", root / unary, "--kind", "probabilities", *NUMBERS, "-o", root / "o.tif", *more]
    before = names(root)
    code, _, error = run("tiles", root / scene, *words)
    assert code == 2, error
    assert names(root) == before
    return error


@pytest.fixture
def root(tmp_path: Path) -> Path:
    save(tmp_path / "scene.tif", guide(), tiled=False)
    save(tmp_path / "p.tif", scores(), tiled=False)
    return tmp_path


SCALE = ["--scale", 0, 0.35]


@pytest.mark.slow
@pytest.mark.parametrize("value", [math.nan, -3.4e38, float(np.finfo("f4").min), -9999.0, math.inf])
def test_every_number_for_no_data_gives_the_same_labels(root: Path, value: float) -> None:
    image = guide()
    image[:, HOLE] = value
    save(root / "holed.tif", image, tiled=False, nodata=value)
    image[:, HOLE] = 0.2
    mask = np.where(HOLE, 0, 255).astype("u1")
    save(root / "masked.tif", image, tiled=False)
    with rasterio.open(root / "masked.tif", "r+") as file:
        file.write_mask(mask)
    found, said = tiles(root, *SCALE, scene="holed.tif")  # planned from samples that include the hole
    assert np.array_equal(found == 255, HOLE)
    assert np.array_equal(found, tiles(root, *SCALE, scene="masked.tif")[0])
    with rasterio.open(root / "p.tif") as file:
        changed = (file.read().argmax(0) != found)[~HOLE].mean()  # only pixels with data
    assert f"{100 * changed:.1f} % of the pixels changed" in said


def test_one_band_of_nodata_is_no_hole(root: Path) -> None:
    image = (guide() * 600).clip(1, 255).astype("u1")
    image[1, 5:20, 5:20] = 0  # zero in green only
    image[:, HOLE] = 0
    save(root / "byte.tif", image, tiled=False, nodata=0)
    assert np.array_equal(tiles(root, scene="byte.tif")[0] == 255, HOLE)
    with Raster(root / "byte.tif", bands=[2]) as one:  # for the selected bands
        found = one.valid(slice(0, 40), slice(0, 50))
        assert found is not None and np.array_equal(~found, HOLE | (image[1] == 0))
    image = guide()
    image[1, 5:20, 5:20] = math.nan
    save(root / "nan.tif", image, tiled=False, nodata=math.nan)
    dark = np.where(np.isnan(image), 0, image)
    save(root / "dark.tif", dark, tiled=False)
    pair = [tiles(root, *SCALE, scene=name)[0] for name in ("nan.tif", "dark.tif")]
    assert np.array_equal(*pair) and (pair[0] != 255).all()


def test_an_alpha_band_makes_holes(root: Path) -> None:
    image = np.concatenate([(guide() * 600).clip(0, 255), np.where(HOLE, 0, 255)[None]]).astype("u1")
    save(root / "rgba.tif", image, tiled=False, photometric="RGB", alpha="YES")
    assert np.array_equal(tiles(root, scene="rgba.tif")[0] == 255, HOLE)


@pytest.mark.parametrize("value", [math.nan, -9999.0])
def test_holes_of_the_scores_are_holes_of_the_result(root: Path, value: float) -> None:
    p = scores()
    p[:, HOLE] = value
    save(root / "holed.tif", p, tiled=False, nodata=value)
    found, _ = tiles(root, *SCALE, "--save-probabilities", unary="holed.tif")
    assert np.array_equal(found == 255, HOLE)
    with rasterio.open(root / "o_probabilities.tif") as file:
        again = file.read()
        assert math.isnan(file.nodata) and np.array_equal(np.isnan(again).all(0), HOLE)
    # The command also accepts these as scores.
    assert np.array_equal(tiles(root, *SCALE, unary="o_probabilities.tif")[0] == 255, HOLE)


def test_holes_of_a_label_map_are_holes_and_unknown_labels_are_filled(root: Path) -> None:
    labels = scores().argmax(0)[None].astype("u1")
    labels[0, HOLE], labels[0, :8, 30:34] = 200, 255
    save(root / "map.tif", labels, tiled=False, nodata=200)
    found, _ = tiles(root, *SCALE, "--kind", "labels", "--labels", 2, unary="map.tif")
    assert np.array_equal(found == 255, HOLE)
    labels = np.where(HOLE, 0, 1)[None].astype("u1")  # is 0 a label or nodata?
    save(root / "map.tif", labels, tiled=False, nodata=0)
    found, said = tiles(root, *SCALE, "--kind", "labels", "--labels", 2, unary="map.tif")
    assert np.array_equal(found == 255, HOLE) and "label 0 is also the file's nodata value" in said


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--scale", 0, "inf"], "scale: expected two finite numbers, LOW below HIGH, got 0 and inf"),
        (["--scale", 5, 5], "got 5 and 5"),
        (["--scale", 9, 5], "got 9 and 5"),
        (["--scale", 0, "nan"], "got 0 and nan"),
        ([], "expected 8 bits per band, got float32 of 32 bits; pass --scale LOW HIGH"),
    ],
)
def test_scales(root: Path, more: list[Any], said: str) -> None:
    assert said in refused(root, *more)


def test_numbers_that_say_too_little(root: Path) -> None:
    save(root / "loud.tif", scores() * 0.8, tiled=False)
    assert "sum 1 over the labels, got sums 0.8..0.8" in refused(root, *SCALE, unary="loud.tif")
    image = guide()
    image[:, 7, 9] = math.nan
    save(root / "nan.tif", image, tiled=False)
    assert "at row 7, column 9" in refused(root, *SCALE, scene="nan.tif")
    p = scores()
    p[0, 7, 9] = math.nan
    save(root / "p_nan.tif", p, tiled=False, nodata=math.nan)  # NaN in one of two labels is not nodata
    assert "NaN or infinite" in refused(root, *SCALE, unary="p_nan.tif")
    save(root / "nibble.tif", (guide() * 40).clip(0, 15).astype("u1"), tiled=False, nbits=4)
    assert "got uint8 of 4 bits" in refused(root, scene="nibble.tif")
    save(root / "map.tif", TRUTH[None].astype("u1"), tiled=False, photometric="PALETTE")
    with rasterio.open(root / "map.tif", "r+") as file:
        file.write_colormap(1, {0: (0, 0, 0), 1: (255, 0, 0)})
    assert "palette indices" in refused(root, "--bands", 1, scene="map.tif")


@pytest.mark.slow
@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("zero_is", ["MINISBLACK", "MINISWHITE"])
def test_shallow_label_maps_hold_the_stored_numbers(root: Path, bits: int, zero_is: str) -> None:
    save(root / "map.tif", TRUTH[None].astype("u1"), tiled=False, nbits=bits, photometric=zero_is)
    words = ["--kind", "labels", "--labels", 2, "--gt-prob", 0.99]
    assert np.array_equal(tiles(root, *SCALE, *words, unary="map.tif")[0], TRUTH)


def test_transforms_are_compared_to_a_thousandth_of_a_pixel(root: Path) -> None:
    here = rasterio.Affine(0.5, 0.1, 400000, 0.1, -0.5, 5800000)
    for crs in ("EPSG:32633", None):
        save(root / "scene.tif", guide(), tiled=False, crs=crs)
        for other in ("EPSG:32633", None):
            for step, fits in ((1e-4, True), (0.01, False), (1, False)):
                moved = here @ rasterio.Affine.translation(step, 0)
                save(root / "p.tif", scores(), tiled=False, crs=other, transform=moved)
                with Raster(root / "scene.tif") as a, Raster(root / "p.tif") as b:
                    assert (a.misfit(b) is None) == fits, (crs, other, step)
    assert "got a corner 1 pixels away" in refused(root, *SCALE)
    turned = rasterio.Affine(0, 2, 10, -2, 0, 20)  # with a rotation by 90°, a is 0
    for name in ("scene.tif", "p.tif"):
        save(root / name, guide(), tiled=False, transform=turned)
    with Raster(root / "scene.tif") as a, Raster(root / "p.tif") as b:
        assert a.misfit(b) is None
    save(root / "p.tif", scores(), tiled=False, crs=None, transform=rasterio.Affine.identity())
    with Raster(root / "scene.tif") as a, Raster(root / "p.tif") as b:
        assert a.misfit(b) is None  # no georeference


def test_control_points_rational_functions_and_the_corner_of_a_pixel_are_kept(root: Path) -> None:
    points = [
        GroundControlPoint(row=r, col=c, x=10 + c / 100, y=50 - r / 100, z=1.0, id=str(r + c))
        for r, c in ((0, 0), (0, 50), (40, 0), (40, 50))
    ]
    numbers = [1.0, *[0.0] * 19]
    model = RPC(
        height_off=10.0, height_scale=500.0, lat_off=50.0, lat_scale=0.2, line_off=20.0, line_scale=20.0,
        long_off=10.0, long_scale=0.2, samp_off=25.0, samp_scale=25.0, line_den_coeff=numbers,
        line_num_coeff=[0, 0, 1.0, *[0.0] * 17], samp_den_coeff=numbers,
        samp_num_coeff=[0, 1.0, *[0.0] * 18], err_bias=0.5, err_rand=0.5,
    )  # fmt: skip
    plain = {"tiled": False, "crs": None, "transform": rasterio.Affine.identity()}
    save(root / "points.tif", guide(), **{**plain, "gcps": points, "crs": "EPSG:4326"})
    save(root / "model.tif", guide(), **{**plain, "rpcs": model})
    with rasterio.open(root / "scene.tif", "r+") as file:
        file.update_tags(AREA_OR_POINT="Point")
        transform = file.transform
    tiles(root, *SCALE, scene="scene.tif")
    with rasterio.open(root / "o.tif") as file:
        assert file.tags()["AREA_OR_POINT"] == "Point" and file.transform == transform
    tiles(root, *SCALE, scene="points.tif")
    with rasterio.open(root / "o.tif") as file:
        found, system = file.gcps
        assert system == rasterio.CRS.from_epsg(4326)
        assert [(p.row, p.col, p.x, p.y) for p in found] == [(p.row, p.col, p.x, p.y) for p in points]
    tiles(root, *SCALE, scene="model.tif")
    with rasterio.open(root / "o.tif") as file:
        assert file.rpcs is not None and file.rpcs.to_dict() == model.to_dict()
    assert [n for n in names(root) if n.startswith("o")] == ["o.tif"]


def test_a_picture_without_any_data(root: Path) -> None:
    save(root / "void.tif", np.full((3, *SIZE), math.nan, "f4"), tiled=False, nodata=math.nan)
    found, said = tiles(root, *SCALE, scene="void.tif")
    assert (found == 255).all() and "0.0 % of the pixels changed" in said
