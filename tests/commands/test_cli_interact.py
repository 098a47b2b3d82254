# SPDX-License-Identifier: MIT
"""`crfrnn interact` as a user runs it: scribbles and boxes, files and folders, failures, exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from command_line import names, run
from crfrnn.inference.interact import default_crf, segment_box, segment_scribbles
from crfrnn.io import read_label_png, save_parameters
from crfrnn.io.boxes import boxes_from, read_boxes

SIZE = (40, 60)
BOX = (6, 4, 50, 36)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NDArray[np.uint8]:
    """Two photographs of a noisy disk in photos/, strokes on the first, and the folder of strokes."""
    monkeypatch.chdir(tmp_path)
    rng, (y, x) = np.random.default_rng(0), np.mgrid[: SIZE[0], : SIZE[1]]
    disk = (y - 20) ** 2 + (x - 28) ** 2 < 120
    image = np.where(disk[..., None], [200, 90, 40], [60, 90, 160]) + rng.normal(0, 35, (*SIZE, 3))
    for folder in ("photos", "strokes"):
        Path(folder).mkdir()
    pixels = image.clip(0, 255).astype(np.uint8)
    for name, picture in (("a", pixels), ("b", pixels[:, ::-1])):
        Image.fromarray(np.ascontiguousarray(picture)).save(f"photos/{name}.png")
    strokes = np.full(SIZE, 255, np.uint8)
    strokes[18:22, 22:34], strokes[2:5, 4:56] = 1, 0
    Image.fromarray(strokes).save("strokes/a.png")
    return pixels


def test_scribbles_equal_the_function(here: NDArray[np.uint8]) -> None:
    code, said, error = run(
        "interact", "photos/a.png", "-s", "strokes/a.png", "--labels", 2, "--theta-beta", 30, "-T", 4,
        "--rounds", 2, "--components", 3, "--save-probabilities", "-o", "new/labels.png",
    )  # fmt: skip
    assert code == 0, error
    assert "1 of 1 completed" in said
    assert names(Path("new")) == ["labels.png", "labels_panel.png", "labels_probabilities.npz"]
    strokes = np.asarray(Image.open("strokes/a.png")).astype(int)
    crf = default_crf(2, SIZE, theta_beta=30.0, iterations=4)
    found = segment_scribbles(here, np.where(strokes == 255, -1, strokes), components=3, rounds=2, crf=crf)
    assert np.array_equal(read_label_png("new/labels.png"), found.labels)
    assert 0.05 < found.labels.mean() < 0.3
    with np.load("new/labels_probabilities.npz") as saved:
        assert np.array_equal(saved["probabilities"], found.probabilities)


def test_boxes_of_a_folder_by_name_and_corrections(here: NDArray[np.uint8]) -> None:
    mirrored = (SIZE[1] - BOX[2], BOX[1], SIZE[1] - BOX[0], BOX[3])
    Path("boxes.json").write_text(json.dumps({"a.png": BOX, "b": mirrored}))
    save_parameters("crf.safetensors", default_crf(2, SIZE, bilateral_weight=4.0))
    options = ["--box", "boxes.json", "--params", "crf.safetensors", "--no-panel", "-o"]
    code, _, error = run("interact", "photos", *options, "out")
    assert code == 0 and names(Path("out")) == ["a.png", "b.png"], error
    found = segment_box(here, BOX, crf=default_crf(2, SIZE, bilateral_weight=4.0))
    assert np.array_equal(read_label_png("out/a.png"), found.labels)
    other = segment_box(
        np.ascontiguousarray(here[:, ::-1]), mirrored, crf=default_crf(2, SIZE, bilateral_weight=4.0)
    )
    assert np.array_equal(read_label_png("out/b.png"), other.labels)
    strokes = np.full(SIZE, 255, np.uint8)
    strokes[18:22, 26:30] = 0  # a hole
    np.save("strokes/b.npy", np.where(strokes == 255, -1, strokes).astype(np.int16))
    Image.fromarray(strokes).save("strokes/a.png")
    code, _, error = run("interact", "photos", "--scribbles", "strokes", *options, "asked")
    assert code == 1 and 'if 255 does mean "unknown", pass --void 255' in error
    code, _, error = run("interact", "photos", "--scribbles", "strokes", "--void", 255, *options, "corrected")
    assert code == 0, error
    assert not read_label_png("corrected/a.png")[18:22, 26:30].any() and found.labels[18:22, 26:30].all()


def test_a_picture_without_scribbles_or_box_fails_and_the_others_are_done(here: NDArray[np.uint8]) -> None:
    code, said, error = run("interact", "photos", "-s", "strokes", "--labels", 2, "--no-panel", "-o", "out")
    assert code == 1 and "1 of 2 completed" in said and names(Path("out")) == ["a.png"]
    assert "b.png: scribbles 'strokes': expected one file for 'b'" in error
    Path("boxes.json").write_text(json.dumps({"a": BOX}))
    code, _, error = run("interact", "photos", "--box", "boxes.json", "--no-panel", "-o", "boxed")
    assert code == 1 and names(Path("boxed")) == ["a.png"]
    assert "b.png: box 'boxes.json': expected a box named 'b.png', got none of 1" in error


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "--scribbles: expected a file or a folder, or --box, got neither"),
        (["-s", "strokes/a.png"], "--labels: expected the number of labels"),
        (["-s", "nothing.png", "--labels", 2], "--scribbles: expected a file or a folder, got 'nothing.png'"),
        (["--box", "6,4,50"], "--box: expected four whole numbers"),
        (["--box", "nothing.json"], "box 'nothing.json': expected a file"),
        (["--box", "6,4,50,36", "--labels", 3], "--labels: expected 2 with a box"),
        (["--box", "6,4,50,36", "--rounds", 0], "--rounds: expected at least 1, got 0"),
        (["--box", "6,4,50,36", "--components", 0], "--components: expected at least 1, got 0"),
        (["--box", "6,4,50,36", "--theta-beta", -1], "--theta-beta: expected positive"),
        (["--box", "6,4,50,36", "-T", -1], "--iterations: expected at least 0, got -1"),
    ],
)
def test_usage_is_refused_before_any_work(here: NDArray[np.uint8], words: list[object], said: str) -> None:
    code, _, error = run("interact", "photos/a.png", *words, "-o", "out")
    assert code == 2 and error.startswith(f"error: {said}") and not Path("out").exists()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{", "expected JSON"),
        ("[" * 99_999, "expected JSON"),
        ("7", "expected boxes by name, or one list"),
        ("{}", "expected boxes by name, or one list"),
        ("[1, 2, 3]", "expected four whole numbers"),
        ('{"a": [1, 2, 3, true]}', "expected four whole numbers"),
        ('{"a": [1, 2, 3, 4.5]}', "expected four whole numbers"),
        ('{"a": {"x": 1}}', "expected four whole numbers"),
        ("\0", "expected a text file"),
    ],
)
def test_a_file_of_boxes_of_another_form_is_refused(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "boxes.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=expected):
        read_boxes(path)


def test_one_list_is_the_box_of_every_picture(tmp_path: Path) -> None:
    path = tmp_path / "1,2,3.json"
    path.write_text("[1, 2, 30, 40]")
    assert boxes_from(str(path)).of("any.jpg") == read_boxes(path).of("x") == (1, 2, 30, 40)
