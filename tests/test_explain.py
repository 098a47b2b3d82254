# SPDX-License-Identifier: MIT
"""The explanation of one picture, as a function and as `crfrnn explain`."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from command_line import names, run
from crfrnn import CRFRNN, GaussianKernel, free_energy_trace
from crfrnn.explain import Explanation, explain, file_names
from crfrnn.inference.refine import refine
from crfrnn.io import read_image, read_label_png
from toy import LABELS, make_pictures

pytest.importorskip("matplotlib")
T = 3


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pictures(tmp_path_factory.mktemp("toy"), pictures=1)


@pytest.fixture(scope="module")
def inputs(root: Path) -> tuple[np.ndarray, torch.Tensor]:
    return read_image(root / "images/p0.png"), torch.from_numpy(np.load(root / "unaries/p0.npy"))


@pytest.fixture(scope="module")
def found(root: Path, inputs: tuple[np.ndarray, torch.Tensor]) -> Explanation:
    truth = read_label_png(root / "masks/p0.png", LABELS)
    return explain(*inputs, CRFRNN(LABELS, iterations=T), truth=truth, names=("a<b", "c", "d"))


def test_the_steps_are_those_of_refine(found: Explanation, inputs: tuple[np.ndarray, torch.Tensor]) -> None:
    crf = CRFRNN(LABELS, iterations=T)
    assert len(found.steps) == len(found.film) == T + 1
    for step, labels in enumerate(found.steps):
        assert np.array_equal(labels, refine(*inputs, crf, iterations=step).labels)
    assert np.array_equal(found.prediction.labels, found.steps[-1])
    x, y = found.pixel
    assert found.prediction.labels[y, x] != found.prediction.before[y, x]


def test_everything_is_drawn_and_written(found: Explanation, tmp_path: Path) -> None:
    assert not found.missing
    page = found.write(tmp_path, "png").read_text(encoding="utf-8")
    assert names(tmp_path) == sorted(file_names("png", truth=True))
    shown = re.findall(r'src="([^"]+)"', page)
    assert sorted([*shown, "index.html"]) == names(tmp_path)
    assert not re.search(r"https?:|<script|<link", page) and "a&lt;b" in page and "a<b" not in page
    with Image.open(tmp_path / "iterations.png") as film:
        assert getattr(film, "n_frames", 1) == T + 1


def test_the_energies_drawn_are_those_of_the_symmetric_model(
    inputs: tuple[np.ndarray, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: dict[str, list[float]] = {}

    def keep(traces: dict[str, list[float]]) -> Image.Image:
        drawn.update(traces)
        return Image.new("RGB", (1, 1))

    monkeypatch.setattr("crfrnn.explain.energy_curve", keep)
    image, unary = inputs
    crf = CRFRNN(LABELS, iterations=T, temperature=2.0, bilateral_method="exact")
    explain(image, unary, crf)
    guide = torch.from_numpy(image.transpose(2, 0, 1).copy())[None].float()
    kernels = [
        GaussianKernel.spatial(image.shape[:2], crf.log_theta_gamma.exp().item(), normalization="symmetric"),
        GaussianKernel.bilateral(
            guide, crf.log_theta_alpha.exp().item(), crf.log_theta_beta.exp().item(), "exact", "symmetric"
        ),
    ]
    weights = [crf.spatial_weights.detach(), crf.bilateral_weights.detach()]
    expected = free_energy_trace(unary[None] / 2, kernels, weights, -torch.eye(LABELS), T)[:, 0]
    assert np.allclose(drawn["undamped"], expected.numpy(), rtol=1e-4)
    assert all(np.diff(drawn["damping 1"]) <= 1e-3)  # exact kernels that attract need no damping


def test_omitted_figures_are_reported(inputs: tuple[np.ndarray, torch.Tensor]) -> None:
    crf = CRFRNN(LABELS, iterations=1)
    with torch.no_grad():
        crf.compatibility[0, 1] = 0.5
    found = explain(*inputs, crf, truth=np.zeros(inputs[0].shape[:2], int), pixel=(2, 1))
    assert [figure.name for figure in found.figures if figure.name in ("energy.png", "trimap.png")] == []
    assert "symmetric" in found.missing[0] and "void" in found.missing[1]
    assert found.pixel == (2, 1)
    with pytest.raises(ValueError, match="pixel: expected x in"):
        explain(*inputs, crf, pixel=(500, 1))


@pytest.mark.slow
def test_the_command_writes_whole_files_and_keeps_others(root: Path, tmp_path: Path) -> None:
    words = ["explain", root / "images/p0.png", "-u", root / "unaries/p0.npy", "--kind", "logits"]
    words += ["--layout", "lhw", "-T", 2, "--truth", root / "masks/p0.png", "-o", tmp_path / "out"]
    code, said, errors = run(*words)
    assert code == 0 and not errors and f"Open {tmp_path / 'out' / 'index.html'}" in said
    assert names(tmp_path / "out") == sorted(file_names("gif", truth=True))
    (tmp_path / "out" / "panel.png").write_bytes(b"mine")
    code, _, errors = run(*words)
    assert code == 2 and "panel.png" in errors and "--overwrite" in errors
    assert (tmp_path / "out" / "panel.png").read_bytes() == b"mine"
    assert run(*words, "--overwrite")[0] == 0
    for wrong, named in ((["--film", "mp4"], "--film"), (["--pixel", 99, 99], "--pixel")):
        code, _, errors = run(*words, *wrong, "--overwrite")
        assert code == 2 and named in errors
