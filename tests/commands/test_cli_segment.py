# SPDX-License-Identifier: MIT
"""`crfrnn segment` as a user runs it: files of every kind, folders, failures, Ctrl-C, exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import crfrnn.models.pretrained
from colour_network import NAMES, colour_segmenter, flag, nearest, save_colours
from command_line import names, run
from crfrnn import CRFRNN, Predictor, Segmenter
from crfrnn.io import read_label_png, voc_palette
from crfrnn.models import LiteFPN

FLAG = flag()
TRUTH = nearest(FLAG)


@pytest.fixture
def colours(tmp_path: Path) -> Path:
    return save_colours(tmp_path / "colours")


def photos(folder: Path, count: int = 3) -> Path:
    folder.mkdir()
    for k in range(count):
        Image.fromarray(np.roll(FLAG, 3 * k, 1)).save(folder / f"p{k}.png")
    return folder


def test_one_photograph_gives_labels_overlay_and_areas(tmp_path: Path, colours: Path) -> None:
    photo, out = tmp_path / "a b [x].png", tmp_path / "new" / "out"
    Image.fromarray(FLAG).save(photo)
    code, said, errors = run("segment", photo, "-o", out, "-c", colours, "--save-probabilities", "--compare")
    assert (code, errors) == (0, "")
    stem = "a b [x]"
    endings = (".json", ".png", "_overlay.png", "_panel.png", "_probabilities.npz")
    assert names(out) == sorted(stem + ending for ending in endings)
    np.testing.assert_array_equal(read_label_png(out / f"{stem}.png"), TRUTH)
    with Image.open(out / f"{stem}.png") as picture:
        assert picture.mode == "P" and picture.getpalette()[:12] == voc_palette()[:4].ravel().tolist()  # pyright: ignore[reportOptionalSubscript]
    record = json.loads((out / f"{stem}.json").read_text(encoding="utf-8"))
    counts = np.bincount(TRUTH.ravel(), minlength=4)
    assert record["areas"] == [
        {"label": k, "name": NAMES[k], "pixels": counts[k], "share": round(counts[k] / TRUTH.size, 6)}
        for k in range(4)
    ]
    assert (record["width"], record["height"], record["crf"], record["tiles"]) == (36, 24, True, 1)
    assert record["picture"] == photo.name and record["changed"] == 0
    with np.load(out / f"{stem}_probabilities.npz") as held:
        expected = Predictor(colour_segmenter())(FLAG, probabilities=True).probabilities
        np.testing.assert_allclose(held["probabilities"], expected, atol=1e-6)
    assert all(name in said for name in NAMES) and f"Results: {out}" in said


def save_turned(path: Path) -> None:
    """As written by a camera held upright: the stored picture is rotated, and EXIF states the orientation."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(FLAG).copy()).save(path, exif=exif)


def save_sixteen(path: Path) -> None:
    grey = np.where(TRUTH == 1, 220, 30).astype(np.uint16) * 257
    Image.fromarray(grey).save(path)


WRITERS = {
    "turned.png": save_turned,
    "turned.jpg": save_turned,
    "cmyk.tif": lambda path: Image.fromarray(FLAG).convert("CMYK").save(path),
    "palette.gif": lambda path: Image.fromarray(FLAG).quantize(4).save(path),
    "alpha.png": lambda path: Image.fromarray(FLAG).convert("RGBA").save(path),
    "lossless.webp": lambda path: Image.fromarray(FLAG).save(path, lossless=True),
    "plain.bmp": lambda path: Image.fromarray(FLAG).save(path),
    "grey.png": lambda path: Image.fromarray(np.where(TRUTH == 1, 220, 30).astype(np.uint8)).save(path),
    "sixteen.png": save_sixteen,
    "sixteen.tif": save_sixteen,
}


def test_pictures_of_every_kind_in_one_folder(tmp_path: Path, colours: Path) -> None:
    for name, write in WRITERS.items():
        (tmp_path / name.replace(".", "_")).mkdir()
        write(tmp_path / name.replace(".", "_") / f"{name.replace('.', '_')}{Path(name).suffix}")
    code, said, errors = run(
        "segment", tmp_path / "*_*" / "*", "-o", tmp_path / "out", "-c", colours, "--no-crf", "--no-overlay"
    )
    assert (code, errors) == (0, "") and f"{len(WRITERS)} of {len(WRITERS)} segmented" in said
    for name in WRITERS:
        found = read_label_png(tmp_path / "out" / f"{name.replace('.', '_')}.png")
        expected = np.where(TRUTH == 1, 1, 0) if name.startswith(("grey", "sixteen")) else TRUTH
        if name.endswith(".jpg"):  # JPEG blurs colours across borders
            assert found.shape == TRUTH.shape and (found == expected).mean() > 0.8
        else:
            np.testing.assert_array_equal(found, expected, err_msg=name)


def test_a_failed_picture_is_reported_and_the_others_are_done(tmp_path: Path, colours: Path) -> None:
    folder, out = photos(tmp_path / "in"), tmp_path / "out"
    whole = (folder / "p1.png").read_bytes()
    (folder / "p1.png").write_bytes(whole[: len(whole) // 2])
    (folder / "notes.txt").write_text("no picture")
    code, said, errors = run("segment", folder, "-o", out, "-c", colours, "--no-overlay")
    assert code == 1 and "p1.png" in errors and "1 of 3 pictures failed" in errors
    assert "2 of 3 segmented" in said
    assert names(out) == ["p0.json", "p0.png", "p2.json", "p2.png"]
    (folder / "p1.png").write_bytes(whole)
    (out / "p0.png").write_bytes(b"kept")
    code, said, _ = run("segment", folder, "-o", out, "-c", colours, "--no-overlay", "--skip-existing")
    assert code == 0 and "1 of 3 segmented, 2 already existed" in said
    assert (out / "p0.png").read_bytes() == b"kept" and (out / "p1.png").is_file()


def test_an_interruption_leaves_only_complete_files(
    tmp_path: Path, colours: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = photos(tmp_path / "in"), tmp_path / "out"
    write, calls = Image.Image.save, []

    def interrupted(self: Image.Image, fp: Path, **options: object) -> None:
        calls.append(fp)
        write(self, fp, **options)  # pyright: ignore[reportArgumentType]
        if len(calls) == 4:  # the label map of the second picture is written but not yet in place
            raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", interrupted)
    code, said, errors = run("segment", folder, "-o", out, "-c", colours)
    assert code == 130 and "stopped" in errors and "1 of 3 segmented" in said
    assert names(out) == ["p0.json", "p0.png", "p0_overlay.png", "p1.json", "p1_overlay.png"]
    for path in out.glob("*.png"):
        with Image.open(path) as picture:
            picture.load()


@pytest.mark.slow
def test_a_large_picture_is_tiled_or_downscaled(tmp_path: Path) -> None:
    torch.manual_seed(1)
    segmenter = Segmenter(LiteFPN(5, channels=8), CRFRNN(5), class_names=list("abcde"))
    segmenter.save_pretrained(tmp_path / "net")
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (20, 24, 3), np.uint8).repeat(16, 0).repeat(16, 1)
    Image.fromarray(image).save(tmp_path / "large.png")
    out, common = tmp_path / "out", ("-c", tmp_path / "net", "-T", 2)
    code, said, errors = run("segment", tmp_path / "large.png", "-o", out, *common, "--memory", 105)
    assert (code, errors) == (0, "")
    record = json.loads((out / "large.json").read_text())
    assert record["tiles"] > 1 and f"({record['tiles']} tiles)" in said
    expected = Predictor(segmenter, iterations=2, memory=105)(image).labels
    np.testing.assert_array_equal(read_label_png(out / "large.png"), expected)
    code, _, _ = run("segment", tmp_path / "large.png", "-o", out, *common, "--long-side", 90)
    record = json.loads((out / "large.json").read_text())
    assert code == 0 and (record["width"], record["height"], record["tiles"]) == (384, 320, 1)
    code, _, errors = run("segment", tmp_path / "large.png", "-o", out, *common, "--memory", 5)
    assert code == 1 and "memory: expected at least" in errors


def test_the_checkpoint_of_the_package_is_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, home = photos(tmp_path / "in", 5), tmp_path / "checkpoints"
    monkeypatch.setattr(crfrnn.models.pretrained, "CHECKPOINTS", home)
    code, _, errors = run("segment", folder, "-o", tmp_path / "out")
    assert code == 2 and "contains no checkpoint" in errors and not (tmp_path / "out").exists()
    save_colours(home / "small", crf=False)
    code, said, _ = run("segment", folder, "-o", tmp_path / "out", "--limit", 2)
    assert code == 0 and "2 of 2 segmented" in said
    record = json.loads((tmp_path / "out" / "p0.json").read_text())
    assert record["checkpoint"] == "small" and record["crf"] is False


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["in", "--memory", 0], "memory: expected"),
        (["in", "--tile", 2], "tile: expected"),
        (["in", "-T", -1], "iterations: expected"),
        (["in", "--limit", 0], "--limit: expected"),
        (["in", "--device", "gpu"], "--device: expected"),
        (["in", "--no-crf", "--compare"], "--compare: expected an active CRF"),
        (["in", "--no-crf", "-T", 3], "--iterations: expected an active CRF"),
        (["nothing"], "no such file"),
        (["in/*"], "expected a different name for each result"),
        (["in", "-c", "no-such"], "check the spelling"),
        (["in", "-o", "in"], "would overwrite"),
    ],
)
def test_usage_errors_are_one_line_before_any_work(
    tmp_path: Path, colours: Path, monkeypatch: pytest.MonkeyPatch, words: list[object], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    photos(Path("in"), 2)
    if "different name" in says:
        (tmp_path / "in" / "p0.jpg").write_bytes(b"")
    before = (tmp_path / "in" / "p0.png").read_bytes()
    code, _, errors = run("segment", "-o", "out", "-c", colours, *words)
    assert code == 2 and says in errors and errors.count("\n") == 1
    assert not Path("out").exists() and (tmp_path / "in" / "p0.png").read_bytes() == before


def test_more_labels_than_a_png_holds_are_refused(
    tmp_path: Path, colours: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(FLAG).save(tmp_path / "p.png")
    many = Predictor(Segmenter(torch.nn.Conv2d(3, 300, 1)))
    monkeypatch.setattr(Predictor, "from_pretrained", lambda *_, **__: many)
    code, _, errors = run("segment", tmp_path / "p.png", "-o", tmp_path / "out", "-c", colours)
    assert code == 1 and "at most 256" in errors and names(tmp_path / "out") == []
