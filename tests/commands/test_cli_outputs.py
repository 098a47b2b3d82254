# SPDX-License-Identifier: MIT
"""Outputs of all commands: foreign files are kept, own files are rewritten."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import rasterio
import torch
from PIL import Image

import devkits
import foreign
from colour_network import save_colours
from command_line import names, run
from crfrnn.io import write_label_png
from toy import LABELS, make_pictures


def tif(path: Path, values: np.ndarray) -> None:
    profile = {"count": len(values), "height": values.shape[1], "width": values.shape[2]}
    transform = rasterio.Affine(1, 0, 5, 0, -1, 9)
    with rasterio.open(path, "w", "GTiff", dtype=values.dtype.name, transform=transform, **profile) as file:
        file.write(values)


def nifti(path: Path, values: np.ndarray) -> None:
    nibabel.save(nibabel.Nifti1Image(values.astype(np.float32), np.eye(4)), path)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = make_pictures(tmp_path_factory.mktemp("toy"), pictures=4)
    rng = np.random.default_rng(0)
    save_colours(root / "colours")
    tif(root / "scene.tif", rng.integers(0, 256, (3, 40, 50)).astype(np.uint8))
    tif(root / "scores.tif", rng.normal(size=(3, 40, 50)).astype(np.float32))
    nifti(root / "t1.nii.gz", 99 * rng.random((6, 5, 4)))
    nifti(root / "p.nii.gz", rng.dirichlet(np.ones(3), (6, 5, 4)))
    torch.save(foreign.vgg_state(), root / "vgg16.pth")
    devkits.voc(root, {"test": ["2008_000001"]})
    (root / "labels").mkdir()
    write_label_png(root / "labels" / "2008_000001.png", np.zeros(devkits.SIZE, np.uint8))
    return root


def learning(root: Path) -> list[object]:
    return [root, "--labels", LABELS, "--unaries", root / "unaries", "--layout", "lhw"]


REFINE = ["-u", "{root}/unaries", "--kind", "logits", "--layout", "lhw", "-T", 1]
# A command, its words except -o, the argument of -o, and the files that it writes.
CASES: dict[str, tuple[list[object], str, list[str]]] = {
    "refine": (["refine", "{root}/images/p0.png", *REFINE], "o", ["o/p0.png", "o/p0_panel.png"]),
    "refine file": (["refine", "{root}/images/p0.png", *REFINE], "x.png", ["x.png", "x_panel.png"]),
    "refine probabilities": (
        ["refine", "{root}/images/p0.png", *REFINE, "--save-probabilities", "--no-panel"],
        "x.png",
        ["x.png", "x_probabilities.npz"],
    ),
    "segment": (
        ["segment", "{root}/images/p0.png", "-c", "{root}/colours", "--save-probabilities", "--compare"],
        "o",
        ["o/p0.json", "o/p0.png", "o/p0_overlay.png", "o/p0_panel.png", "o/p0_probabilities.npz"],
    ),
    "pseudo-labels": (
        ["pseudo-labels", "{root}/images", "-m", "{root}/unaries", *REFINE[2:], "-j", 1],
        "o",
        [f"o/p{k}.png" for k in range(4)],
    ),
    "volume": (
        ["volume", "{root}/t1.nii.gz", "-u", "{root}/p.nii.gz", "-T", 1, "--save-probabilities"],
        "l.nii.gz",
        ["l.nii.gz", "l_probabilities.nii.gz"],
    ),
    "tiles": (
        ["tiles", "{root}/scene.tif", "-u", "{root}/scores.tif", "--kind", "logits", "-T", 1,
         "--save-probabilities"],
        "l.tif",
        ["l.tif", "l_probabilities.tif"],
    ),
    "convert": (
        ["convert", "{root}/vgg16.pth", "--from", "torchvision", "--labels", 2], "o",
        ["o/config.json", "o/model.safetensors"],
    ),
    "convert file": (
        ["convert", "{root}/vgg16.pth", "--from", "torchvision", "--labels", 2], "s.safetensors",
        ["s.safetensors"],
    ),
    "evaluate": (
        ["evaluate", "{root}", "--labels", 3, "--samples", 5, "-m", "a={root}/masks", "-m", "b={root}/masks"],
        "o",
        [f"o/{name}" for name in ("differences.csv", "scores.csv", "scores.md", "trimap.csv")],
    ),
    "submit": (["submit", "{root}/labels", "{root}"], "r.tar.gz", ["r.tar.gz"]),
    "fit": (
        ["fit", "LEARN", "--epochs", 1, "--folds", 2, "-T", 1], "l.safetensors", ["l.csv", "l.safetensors"],
    ),
    "fit all folds": (
        ["fit", "LEARN", "--epochs", 1, "--folds", 2, "-T", 1, "--all-folds"], "l.safetensors",
        ["l-0.csv", "l-1.csv", "l.safetensors"],
    ),
    "tune": (
        ["tune", "LEARN", "--trials", 1, "--folds", 2, "-T", 1], "t.safetensors", ["t.safetensors"],
    ),
}  # fmt: skip


@pytest.fixture(params=CASES)
def case(
    request: pytest.FixtureRequest, inputs: Path, tmp_path: Path
) -> tuple[Callable[..., tuple[int, str, str]], Path, list[str]]:
    words, output, files = CASES[request.param]
    said: list[object] = []
    for word in words:
        said += learning(inputs) if word == "LEARN" else [str(word).format(root=inputs)]
    return lambda *more: run(*said, "-o", tmp_path / output, *more), tmp_path, files


def everything(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.slow
def test_foreign_files_are_kept_and_own_files_rewritten(case, inputs: Path) -> None:
    command, folder, files = case
    before = everything(inputs)
    for name in files:  # each alone causes the error, and nothing else is written
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"mine")
        code, _, errors = command()
        assert code == 2 and "--overwrite" in errors and name in errors and errors.count("\n") == 1
        assert everything(folder) == {name: b"mine"}
        (folder / name).unlink()
    (folder / files[-1]).write_bytes(b"mine")
    for more in (["--overwrite"], [], []):  # with --overwrite, and then its own file without
        code, _, errors = command(*more)
        assert code == 0, errors
        found = everything(folder)
        assert sorted(name for name in found if not name.endswith(".crfrnn.json")) == sorted(files)
        assert found[files[-1]] != b"mine"
    # Edited by hand since: pseudo-labels resumes and keeps it, the others would rewrite it.
    (folder / files[-1]).write_bytes(b"corrected")
    code, said, errors = command()
    if "already existed" in said:
        assert code == 0
    else:
        assert code == 2 and "changed since" in errors and "--overwrite" in errors
    assert (folder / files[-1]).read_bytes() == b"corrected"
    assert everything(inputs) == before


@pytest.mark.slow
def test_an_unwritable_place_is_reported_before_the_work(inputs: Path) -> None:
    for words, output, _ in CASES.values():
        said: list[object] = []
        for word in words:
            said += learning(inputs) if word == "LEARN" else [str(word).format(root=inputs)]
        for place in ("/proc", "/dev/null"):
            code, _, errors = run(*said, "-o", Path(place) / output)
            assert code == 2 and errors.count("\n") == 1 and place in errors, (words[0], errors)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "output"),
    [
        (
            ["refine", "a.png", "-u", "a_scribbles.png", "--kind", "scribbles", "--labels", 2],
            "a_scribbles.png",
        ),
        (["refine", "a.png", "-u", "a_scribbles.png", "--kind", "scribbles", "--labels", 2], "a.png"),
        (["refine", "a.png", "-u", "a_panel.png", "--kind", "labels", "--labels", 2], "a.png"),
        (["refine", ".", "-u", "masks", "--kind", "labels", "--labels", 2, "--no-panel"], "masks"),
        (["segment", ".", "-c", "colours"], "."),
        (["pseudo-labels", ".", "-m", "masks", "--kind", "labels", "--labels", 2, "-j", 1], "masks"),
        (["volume", "t1.nii.gz", "-u", "l_probabilities.nii.gz", "--save-probabilities"], "l.nii.gz"),
        (["tiles", "scene.tif", "-u", "scene.tif", "--kind", "logits"], "scene.tif"),
        (["convert", "w.safetensors", "--from", "torchvision"], "w.safetensors"),
        (["fit", "LEARN", "--start", "s.safetensors"], "s.safetensors"),
        (["tune", "LEARN", "--study", "s.safetensors"], "s.safetensors"),
    ],
)
def test_an_input_is_never_overwritten_even_with_overwrite(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[object], output: str
) -> None:
    monkeypatch.chdir(tmp_path)
    save_colours(tmp_path / "colours")
    (tmp_path / "masks").mkdir()
    for name in ("a.png", "a_panel.png", "masks/a.png", "masks/a_panel.png"):
        Image.open(inputs / "images" / "p0.png").save(tmp_path / name)
    for name in ("a_scribbles.png", "scene.tif", "w.safetensors"):
        (tmp_path / name).write_bytes((inputs / "scene.tif").read_bytes())
    for name in ("t1.nii.gz", "l_probabilities.nii.gz"):
        (tmp_path / name).write_bytes((inputs / "p.nii.gz").read_bytes())
    if "--start" in words:
        assert (
            run("tune", *learning(inputs), "--trials", 1, "--folds", 2, "-T", 0, "-o", "s.safetensors")[0]
            == 0
        )
    before = everything(tmp_path)
    said: list[object] = []
    for word in words:
        said += learning(inputs) if word == "LEARN" else [word]
    for more in ([], ["--overwrite"]):
        code, _, errors = run(*said, "-o", output, *more)
        assert code == 2 and errors.count("\n") == 1 and ("the input" in errors or "an input" in errors), (
            errors
        )
        assert everything(tmp_path) == before


@pytest.mark.slow
def test_undecodable_names_are_read_written_and_reported(inputs: Path, tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9 \xce\xb8")
    try:
        (tmp_path / "in").mkdir()
        (tmp_path / "in" / f"{name}.png").write_bytes((inputs / "images" / "p0.png").read_bytes())
    except OSError:
        pytest.skip("no such names here")
    np.save(tmp_path / f"{name}.npy", np.load(inputs / "unaries" / "p0.npy"))
    words = ["refine", "in", "-u", ".", *REFINE[2:], "-o", f"out{name}"]
    for encoding in ("ascii", "utf-8"):
        environment = {**os.environ, "PYTHONIOENCODING": encoding, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-m", "crfrnn.cli", *map(str, words)], cwd=tmp_path, env=environment,
            capture_output=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0 and not done.stderr, done.stderr
        assert b"caf\\udce9" in done.stdout
    assert names(tmp_path / f"out{name}") == [f"{name}.png", f"{name}_panel.png"]


@pytest.mark.slow
def test_names_that_become_too_long_are_reported_before_the_work(inputs: Path, tmp_path: Path) -> None:
    long = "x" * 240
    for folder, ending in (("images", "png"), ("unaries", "npy")):
        (tmp_path / folder).mkdir()
        content = (inputs / folder / f"p0.{ending}").read_bytes()
        (tmp_path / folder / f"{long}.{ending}").write_bytes(content)
    words = ["refine", tmp_path / "images", "-u", tmp_path / "unaries", *REFINE[2:], "-o", tmp_path / "o"]
    code, _, errors = run(*words, "--save-probabilities")
    assert code == 2 and "at most 255 bytes, got 258" in errors and not (tmp_path / "o").exists()
    assert run(*words)[0] == 0 and names(tmp_path / "o") == [f"{long}.png", f"{long}_panel.png"]
