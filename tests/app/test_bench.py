# SPDX-License-Identifier: MIT
"""The computations of the page without a browser: its labels equal those of its command and Python lines."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from colour_network import COLOURS, save_colours
from command_line import run
from crfrnn.app import Options
from crfrnn.app.bench import Bench
from crfrnn.app.knobs import numbers_of
from crfrnn.app.options import WORK_SIDE
from crfrnn.app.photograph import Network, Photograph
from crfrnn.app.scores import Reading, Scores
from crfrnn.app.scribbles import Scribbles, drawn
from crfrnn.io import read_label_png
from crfrnn.lattice import Lattice
from crfrnn.plots import entropy, uncertainty

TURNED = {"theta_alpha": 12.0, "theta_beta": 25.0, "bilateral_weight": 6.0, "iterations": 4}


@pytest.fixture(scope="module")
def picture() -> NDArray[np.uint8]:
    """Three coloured areas with ragged borders and noise."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:60, :90]
    labels = (x + 6 * np.sin(y / 5) > 45).astype(int) + (y > 40)
    return (COLOURS[labels] + rng.normal(0, 30, (60, 90, 3))).clip(0, 255).astype(np.uint8)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, picture: NDArray[np.uint8]) -> Path:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(picture).save("photo.png")
    return tmp_path


def same_as_said(bench: Bench, numbers: dict[str, float], folder: Path) -> NDArray[np.uint8]:
    """The labels written by the page, after checking that its command and Python lines write the same."""
    files = {path.name: path for path in bench.files(numbers)}
    for path in files.values():
        if path.name not in ("photo.png", "photo_overlay.png", "photo.json"):
            path.replace(folder / path.name)
    labels = read_label_png(files["photo.png"])
    code, _, error = run(*shlex.split(bench.command(numbers))[1:])
    assert code == 0, error
    (written,) = folder.glob("*/photo.png")
    assert written.read_bytes() == files["photo.png"].read_bytes()
    lines = bench.python(numbers)
    kept = (folder / "photo.png").read_bytes()
    exec(compile(lines, "page", "exec"), {})
    assert np.array_equal(read_label_png(folder / "photo.png"), labels), lines
    (folder / "photo.png").write_bytes(kept)
    return labels


@pytest.fixture
def network(here: Path) -> Network:
    return Network.of(Options(checkpoint=str(save_colours(Path("network")))))


def photograph(network: Network) -> Photograph:
    return Photograph(Path("photo.png"), "photo.png", network, Options())


@pytest.mark.parametrize("turned", [{}, TURNED])
def test_a_photograph_gives_the_labels_of_its_command(
    here: Path, network: Network, turned: dict[str, float]
) -> None:
    bench = photograph(network)
    numbers = {**numbers_of(bench.base), **turned}
    assert ("--params" in bench.command(numbers)) == bool(turned)
    labels = same_as_said(bench, numbers, here)
    assert np.array_equal(bench.show(numbers).prediction.labels, labels)
    assert len(np.unique(labels)) > 1


def test_a_large_photograph_is_shown_small_and_written_at_its_own_size(here: Path, network: Network) -> None:
    Image.open("photo.png").resize((900, 600)).save("photo.png")
    bench = photograph(network)
    numbers = {**numbers_of(bench.base), "iterations": 2}
    assert f"--long-side {WORK_SIDE}" in bench.command(numbers)
    assert bench.show(numbers).after.shape == (480, 720, 3)
    assert same_as_said(bench, numbers, here).shape == (600, 900)


@pytest.mark.parametrize(
    "reading",
    [Reading("logits", "lhw"), Reading("probabilities", "hwl"), Reading("labels", None, 3, 0.8, 9)],
    ids=lambda reading: reading.kind,
)
def test_scores_give_the_labels_of_their_command(
    here: Path, picture: NDArray[np.uint8], reading: Reading
) -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 1, (3, 60, 90)) + 2 * (picture.argmax(2) == np.arange(3)[:, None, None])
    p = np.exp(logits) / np.exp(logits).sum(0)
    labels = np.where(rng.random((60, 90)) < 0.1, 9, logits.argmax(0))
    held = {"logits": logits, "probabilities": p.transpose(1, 2, 0), "labels": labels}[reading.kind]
    np.save("scores.npy", held if reading.kind == "labels" else held.astype(np.float32))
    bench = Scores(Path("photo.png"), "photo.png", Path("scores.npy"), "scores.npy", reading, Options())
    for turned in ({}, TURNED):
        numbers = {**numbers_of(bench.base), **turned}
        found = same_as_said(bench, numbers, here)
        shown = bench.show(numbers)
        assert np.array_equal(shown.prediction.labels, found)
    assert shown.prediction.changed > 0.01


STROKES = [
    {"label": 0, "width": 5, "points": [[5, 5], [30, 8]]},
    {"label": 1, "width": 5, "points": [[70, 8], [80, 30]]},
    {"label": 2, "width": 5, "points": [[70, 55], [85, 55]]},
]


def test_scribbles_give_the_labels_of_their_command(here: Path) -> None:
    bench = Scribbles(Path("photo.png"), "photo.png", Options())
    bench.mark(json.dumps(STROKES[:2]), 3)
    assert bench.missing == "object 2"
    bench.mark(json.dumps(STROKES), 3)
    assert not bench.missing
    for turned in ({}, TURNED):
        numbers = {**numbers_of(bench.base), **turned}
        assert ("--params" in bench.command(numbers)) == bool(turned)
        labels = same_as_said(bench, numbers, here)
        assert np.array_equal(bench.show(numbers).prediction.labels, labels)
    assert labels[6, 10] == 0 and labels[10, 72] == 1 and labels[55, 75] == 2
    assert len(bench.film(numbers)) == 5


def test_a_box_gives_the_labels_of_its_command(here: Path) -> None:
    bench = Scribbles(Path("photo.png"), "photo.png", Options())
    bench.mark(json.dumps([{"box": [88, 2, 44, 38]}]), 3)
    assert "scribbles" not in bench.command(numbers_of(bench.base)) + bench.python(numbers_of(bench.base))
    same_as_said(bench, numbers_of(bench.base), here)
    bench.mark(json.dumps([{"box": [88, 2, 44, 38]}, {**STROKES[1], "label": 0}]), 3)
    labels = same_as_said(bench, numbers_of(bench.base), here)
    assert labels[10, 72] == 0 and set(np.unique(labels)) == {0, 1}
    bench.mark(json.dumps([{"box": [88, 2, 44, 38]}, STROKES[1]]), 3)
    labels = same_as_said(bench, numbers_of(bench.base), here)
    assert labels[10, 72] == 1 and labels[50, 20] == 0 and set(np.unique(labels)) == {0, 1}
    numbers = {**numbers_of(bench.base), **TURNED}
    *_, last = bench.steps(bench.crf(numbers))
    assert np.array_equal(last, bench.show(numbers).prediction.labels) and len(bench.film(numbers)) == 5
    bench.mark(json.dumps([{"box": [88, 2, 44, 38]}, STROKES[2]]), 3)
    with pytest.raises(ValueError, match="scribbles: expected 0, 1 or -1"):
        bench.show(numbers_of(bench.base))


def test_sliders_rerun_neither_network_nor_lattice(
    here: Path, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = photograph(network)
    numbers = numbers_of(bench.base)
    bench.show(numbers)

    def refused(*_: object) -> None:
        raise AssertionError("called again")

    monkeypatch.setattr(network.predictor.segmenter.network, "forward", refused)
    bench.show({**numbers, "theta_alpha": 33.0})  # another lattice, the same scores
    monkeypatch.setattr(Lattice, "of_checked", staticmethod(refused))
    for name, value in (("bilateral_weight", 1.0), ("spatial_weight", 4.0), ("iterations", 2)):
        bench.show({**numbers, "theta_alpha": 33.0, name: value})
    bench.film({**numbers, "theta_alpha": 33.0})


def test_the_film_ends_with_what_is_shown(here: Path, network: Network) -> None:
    bench = photograph(network)
    numbers = {**numbers_of(bench.base), **TURNED}
    *_, last = bench.steps(bench.crf(numbers))
    assert np.array_equal(last, bench.show(numbers).prediction.labels)
    assert len(bench.film(numbers)) == 5


def test_limits_are_those_of_the_options(here: Path, network: Network) -> None:
    small = Options(max_megapixels=0.005)
    for read in (
        lambda: Photograph(Path("photo.png"), "photo.png", network, small),
        lambda: Scribbles(Path("photo.png"), "photo.png", small),
        lambda: Scores(Path("photo.png"), "p", Path("x.npy"), "x", Reading("logits", "lhw"), small),
    ):
        with pytest.raises(ValueError, match="at most 5000 pixels"):
            read()
    many = Reading("labels", None, 20_000)
    with pytest.raises(ValueError, match=r"at most 67108864 scores .* got 20000 labels × 60 × 90"):
        Scores(Path("photo.png"), "photo.png", Path("x.npy"), "x.npy", many, Options())
    with pytest.raises(ValueError, match="max_megapixels: expected above 0"):
        Options(max_megapixels=0)
    with pytest.raises(ValueError, match="max_file_size"):
        Options(max_file_size=-1)
    with pytest.raises(ValueError, match="port"):
        Options(port=70_000)


def test_strokes_are_painted_in_order_and_inside_the_picture() -> None:
    marks = [
        {"label": 0, "width": 3, "points": [[-50, 2], [99, 2]]},
        {"label": 1, "width": 1, "points": [[4, 2]]},
        {"box": [1, 1, 2, 2]},
        {"box": [7, 4, 3, 0]},
    ]
    strokes, box = drawn(json.dumps(marks), (6, 9), 2)
    assert (strokes[1:4, :4] == 0).all() and strokes[2, 4] == 1 and (strokes[5] == -1).all()
    assert box == (3, 0, 8, 5)


@pytest.mark.parametrize(
    "marks",
    [
        "nonsense", "{}", "[1]", '[{"label": 7, "width": 3, "points": [[0, 0]]}]', "[" * 99_999,
        '[{"label": 0, "width": 1e9, "points": [[0, 0]]}]', '[{"label": 0, "width": 3, "points": []}]',
        '[{"label": 0, "width": 3, "points": [[NaN, 0]]}]', '[{"label": 0, "width": 3, "points": [[0]]}]',
        '[{"box": [1, 2]}]', '[{"box": [1, 2, 3, Infinity]}]', json.dumps([STROKES[0]] * 501),
    ],
)  # fmt: skip
def test_invalid_marks_are_refused(marks: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        drawn(marks, (6, 9), 2)


def test_uncertainty_is_grey_where_labels_are_certain_and_coloured_where_they_are_not() -> None:
    p = np.zeros((4, 2, 2), np.float32)
    p[0] = 1
    p[:, 1, 1] = 0.25
    assert entropy(p).tolist() == [[0, 0], [0, 1]]
    out = uncertainty(np.full((2, 2, 3), 200, np.uint8), p)
    assert len(set(out[0, 0].tolist())) == 1 and out[1, 1].tolist() == [213, 94, 0]
    with pytest.raises(ValueError, match="image: expected"):
        uncertainty(np.zeros((3, 3, 3), np.uint8), p)
    assert entropy(p[:1]).max() == 0
