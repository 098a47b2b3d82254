# SPDX-License-Identifier: MIT
"""Windowed GeoTIFF processing that keeps the georeference: `crfrnn tiles` and `segment` end to end."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image

from colour_network import nearest, save_colours
from command_line import names, run
from crfrnn import CRFRNN, Segmenter
from crfrnn.inference import refine_tiles
from crfrnn.io import InMemory, LabelRaster, Raster
from rasters import save

SIZE = (300, 420)
NUMBERS = ["--theta-alpha", 8, "--theta-beta", 8, "--theta-gamma", 1.5, "-T", 3]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    truth = (np.add.outer(np.arange(SIZE[0]) // 40, np.arange(SIZE[1]) // 50)) % 3
    image = np.array([[60, 110, 60], [150, 70, 40], [170, 150, 190]])[truth] + rng.normal(0, 5, (*SIZE, 3))
    save(tmp_path / "scene.tif", image.astype(np.uint8).transpose(2, 0, 1))
    scores = 1.5 * (truth == np.arange(3)[:, None, None]) + rng.standard_normal((3, *SIZE))
    save(tmp_path / "scores.tif", scores.astype(np.float32))
    save(tmp_path / "map.tif", scores.argmax(0)[None].astype(np.uint8))
    return tmp_path


def test_it_equals_the_function_and_keeps_the_georeference(root: Path) -> None:
    out = root / "new" / "out.tif"
    code, said, error = run(
        "tiles", root / "scene.tif", "-u", root / "scores.tif", "--kind", "logits", "-o", out, "--tile", 192,
        "--save-probabilities", *NUMBERS,
    )  # fmt: skip
    assert code == 0, error
    assert "6 tiles of at most 192 pixels, overlap 24" in said
    with rasterio.open(root / "scene.tif") as file:
        image, crs, transform = file.read(), file.crs, file.transform
    with rasterio.open(root / "scores.tif") as file:
        scores = file.read()
    wanted = np.zeros(SIZE, int)

    def keep(top: int, left: int, labels: np.ndarray, p: np.ndarray, valid: object) -> None:
        wanted[top : top + labels.shape[0], left : left + labels.shape[1]] = labels

    crf = CRFRNN(3, theta_alpha=8, theta_beta=8, theta_gamma=1.5, iterations=3).eval()
    refine_tiles(InMemory(image), InMemory(scores), crf, keep, tile=192)
    assert names(out.parent) == ["out.tif", "out_probabilities.tif"]
    with rasterio.open(out) as file:
        assert (file.read(1) == wanted).all() and file.dtypes == ("uint8",) and file.nodata == 255
        assert file.crs == crs and file.transform == transform
        assert file.colormap(1)[1][:3] == (128, 0, 0)
    with rasterio.open(out.parent / "out_probabilities.tif") as file:
        assert file.transform == transform and (file.read().argmax(0) == wanted).all()
    assert (wanted != scores.argmax(0)).mean() > 0.1


def test_a_label_map_as_unary_and_sixteen_bits_with_a_scale(root: Path) -> None:
    with rasterio.open(root / "scene.tif") as file:
        save(root / "deep.tif", file.read().astype(np.uint16) * 40)
    for scene, more in (("scene.tif", []), ("deep.tif", ["--scale", 0, 10200])):
        code, _, error = run(
            "tiles", root / scene, "-u", root / "map.tif", "--kind", "labels", "--labels", 3, *more,
            "-o", root / f"{scene}_out.tif", *NUMBERS,
        )  # fmt: skip
        assert code == 0, error
    a, b = (rasterio.open(root / f"{name}_out.tif").read(1) for name in ("scene.tif", "deep.tif"))
    assert (a == b).mean() > 0.9999


def test_only_windows_are_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    plain = Raster.read

    def watched(self: Raster, rows: slice, columns: slice) -> np.ndarray:
        values = plain(self, rows, columns)
        sizes.append(values.shape[1:])
        return values

    monkeypatch.setattr(Raster, "read", watched)
    crf = CRFRNN(3, theta_alpha=8.0).eval()
    with (
        Raster(root / "scene.tif") as image,
        Raster(root / "scores.tif") as scores,
        LabelRaster(root / "o.tif", image, 3) as out,
    ):
        refine_tiles(image, scores, crf, out.write, tile=192)
    assert max(h for h, _ in sizes) <= 192 and max(w for _, w in sizes) <= 192
    assert len([size for size in sizes if size != (128, 128)]) == 12  # excluding the sampled windows


def test_pixels_without_data_stay_without_data(root: Path) -> None:
    with rasterio.open(root / "scene.tif") as file:
        image = file.read().clip(1)
    image[:, 30:90, 50:120] = 0
    save(root / "holed.tif", image, nodata=0)
    code, _, error = run(
        "tiles", root / "holed.tif", "-u", root / "scores.tif", "--kind", "logits", "-o", root / "o.tif",
        "--tile", 192, *NUMBERS,
    )  # fmt: skip
    assert code == 0, error
    with rasterio.open(root / "o.tif") as file:
        assert ((file.read(1) == 255) == (image == 0).any(0)).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--unary", "moved.tif"], "--unary 'moved.tif': expected the picture's 420 × 300 pixels"),
        (["--unary", "small.tif"], "got 9 × 9"),
        (["--unary", "absent.tif"], "absent.tif"),
        (["--unary", "cut.tif"], "cut.tif': expected a whole GeoTIFF"),
        (["--unary", "text.tif"], "text.tif': expected a whole GeoTIFF"),
        (["--kind", "odds"], "kind: expected one of"),
        (["--bands", "1,2,7"], "expected bands 1..3"),
        (["--bands", "red"], "--bands: expected numbers"),
        (["--memory", "50"], "memory: expected at least"),
        (["--kind", "labels", "--unary", "map.tif"], "--labels: expected a number"),
        (["-o", "out.png"], "output: expected a name in .tif"),
    ],
)
def test_refusals_are_one_line_and_leave_nothing(
    root: Path, words: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with rasterio.open(root / "scores.tif") as file:
        scores = file.read()
    save(root / "moved.tif", scores, transform=rasterio.Affine(0.5, 0, 0, 0, -0.5, 0))
    save(root / "small.tif", scores[:, :9, :9], tiled=False)
    whole = (root / "scores.tif").read_bytes()
    (root / "cut.tif").write_bytes(whole[: len(whole) // 2])
    (root / "text.tif").write_text("no picture")
    monkeypatch.chdir(root)
    before = names(root)
    arguments = ["-u", "scores.tif", "--kind", "logits", "-o", "out.tif", *NUMBERS, *words]
    code, _, error = run("tiles", "scene.tif", *arguments)
    assert code == 2 and said in error and len(error.strip().splitlines()) == 1, error
    assert names(root) == before


@pytest.mark.slow
def test_a_file_truncated_by_a_full_disk_is_an_error_even_if_gdal_reports_none(root: Path) -> None:
    """A file size limit simulates a full disk; GDAL reaches it when it closes the file."""
    if not hasattr(signal, "SIGXFSZ"):
        pytest.skip("no such limit here")
    words = ["tiles", "scene.tif", "-u", "scores.tif", "--kind", "logits", "-T", "1", "-o", "out.tif"]
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192)); "
        "from crfrnn.cli import main; main(sys.argv[1:])"
    )
    before = names(root)
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=root, capture_output=True, text=True)
    assert done.returncode == 2 and "error: output 'out.tif': expected all of it" in done.stderr
    assert names(root) == before


def test_an_interrupted_write_leaves_no_file(root: Path) -> None:
    with (
        pytest.raises(KeyboardInterrupt),
        Raster(root / "scene.tif") as scene,
        LabelRaster(root / "o.tif", scene, 3, root / "p.tif"),
    ):
        raise KeyboardInterrupt
    assert not [name for name in names(root) if name not in ("scene.tif", "scores.tif", "map.tif")]


def test_segment_takes_a_geotiff_by_windows(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with rasterio.open(root / "scene.tif") as file:
        image, crs, transform = file.read(), file.crs, file.transform
    image = image.clip(1)
    image[:, 30:90, 50:120] = 0
    deep = np.roll(image, -1, 0).astype(np.uint16) * 40  # green, blue, red
    save(root / "deep.tif", deep, nodata=0)
    save_colours(root / "net")
    sizes, plain = [], Raster.read

    def watched(self: Raster, rows: slice, columns: slice) -> np.ndarray:
        sizes.append((rows.stop - rows.start, columns.stop - columns.start))
        return plain(self, rows, columns)

    monkeypatch.setattr(Raster, "read", watched)
    words = (
        "segment", root / "deep.tif", "-o", root / "new/out.tif", "-c", root / "net", "--bands", "3,1,2",
        "-T", 3, "--scale", 0, 10200, "--tile", 256, "--overlap", 64, "--save-probabilities",
    )  # fmt: skip
    code, said, error = run(*words)
    assert (code, error) == (0, "")
    assert "6 tiles of at most 256 pixels, overlap 64; " in said and "deep.tif: suit" in said
    assert max(map(max, sizes)) <= 256
    assert names(root / "new") == ["out.json", "out.tif", "out_probabilities.tif"]
    hole = (image == 0).all(0)
    with rasterio.open(root / "new/out.tif") as file:
        labels = file.read(1)
        assert (file.crs, file.transform, file.nodata) == (crs, transform, 255)
    with rasterio.open(root / "new/out_probabilities.tif") as file:
        p = file.read()
        assert (file.crs, file.transform, file.count) == (crs, transform, 4)
    assert ((labels == 255) == hole).all() and np.isnan(p[:, hole]).all()
    segmenter = Segmenter.from_pretrained(root / "net")
    batch, mask = torch.from_numpy(image)[None], torch.from_numpy(~hole)[None]
    with torch.no_grad():
        whole = segmenter(batch.float(), mask, iterations=3)[0].softmax(0).numpy()
    assert (labels != whole.argmax(0))[~hole].mean() < 2e-4  # from docs/big-pictures.md
    assert np.abs(p - whole)[:, ~hole].mean() < 1e-4
    record = json.loads((root / "new/out.json").read_text())
    said = [record[name] for name in ("width", "height", "tiles", "picture")]
    assert said == [420, 300, 6, "deep.tif"]
    assert sum(area["pixels"] for area in record["areas"]) == (~hole).sum() and 0 < record["changed"] < 1

    written = (root / "new/out.tif").stat().st_mtime_ns
    code, said, error = run(*words, "--skip-existing")
    assert (code, error) == (0, "") and "1 already existed" in said
    assert (root / "new/out.tif").stat().st_mtime_ns == written
    code, said, error = run(*(w for w in words if w not in ("-T", 3)), "--no-crf", "--overwrite")
    assert (code, error) == (0, "") and "overlap 64." in said
    with rasterio.open(root / "new/out.tif") as file:
        assert (file.read(1) == nearest(image.transpose(1, 2, 0)))[~hole].mean() > 0.999  # except for ties


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["scene.tif", "--bands", "1,2"], "--bands: expected three, red, green, blue"),
        (["scene.tif", "--bands", "red"], "--bands: expected numbers"),
        (["scene.tif", "--compare"], "--compare: expected none for a GeoTIFF"),
        (["scene.tif", "--long-side", 90], "--long-side: expected none for a GeoTIFF"),
        (["scene.tif", "map.tif"], "-o: expected a folder, or FILE.tif for one existing GeoTIFF"),
        (["absent.tif"], "-o: expected a folder, or FILE.tif for one existing GeoTIFF"),
        (["photo.JPG"], "expected a GeoTIFF, got a picture in .jpg; photographs are for"),
        (["scores.tif"], "8 bits per band"),
        (["scene.tif", "--memory", 60], "memory: expected at least"),
        (["scene.tif", "-o", "scene.tif"], "scene.tif"),
        (["scene.tif", "--bands", "3,2,1", "-o", "folder"], "--bands: expected -o FILE.tif"),
    ],
)
def test_segment_refuses_a_geotiff_in_one_line(
    root: Path, words: list[object], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    save_colours(root / "net")
    Image.new("RGB", (9, 8)).save("photo.JPG")
    before = names(root)
    code, _, error = run("segment", "-o", "out.tif", "-c", "net", *words)
    assert code == 2 and said in error and len(error.strip().splitlines()) == 1, error
    assert names(root) == before
