# SPDX-License-Identifier: MIT
"""`crfrnn volume` as a user runs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from scipy.special import softmax

from command_line import names, run
from crfrnn.inference import refine_volume

AFFINE = np.array([[-1.5, 0, 0, 40], [0, 1.0, 0, -9], [0, 0, 3.0, 2], [0, 0, 0, 1]])
SHAPE = (12, 10, 6)

load: Any = nibabel.load  # its type stubs lack the voxel data


def save(path: Path, values: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    image = nibabel.Nifti1Image(values, affine)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    truth = np.zeros(SHAPE, int)
    truth[4:9, 3:8, 1:5] = 1
    save(tmp_path / "t1.nii.gz", (100 + 300 * truth + rng.normal(0, 8, SHAPE)).astype(np.int16))
    save(tmp_path / "t2.nii.gz", (800 - 500 * truth + rng.normal(0, 8, SHAPE)).astype(np.float32))
    save(tmp_path / "brain.nii.gz", np.pad(np.ones((10, 8, 4), np.uint8), 1))
    scores = 1.2 * np.stack([1 - truth, truth], -1) + rng.normal(0, 1, (*SHAPE, 2))
    save(tmp_path / "p.nii.gz", softmax(scores, -1).astype(np.float32))
    return tmp_path


def voxels(path: Path) -> np.ndarray:
    return np.asarray(load(path).dataobj)


def test_it_equals_the_function_and_keeps_the_affine(root: Path) -> None:
    out = root / "new" / "out.nii.gz"
    code, said, _ = run(
        "volume", root / "t1.nii.gz", "-u", root / "p.nii.gz", "-o", out, "--theta-alpha", 5,
        "--theta-gamma", 1.8, "-T", 3, "--save-probabilities",
    )  # fmt: skip
    assert code == 0 and "% of the voxels changed" in said
    p = np.moveaxis(voxels(root / "p.nii.gz"), -1, 0)
    ours = refine_volume(
        voxels(root / "t1.nii.gz"), p, (1.5, 1, 3), theta_alpha=5, theta_gamma=1.8, iterations=3
    )
    assert names(out.parent) == ["out.nii.gz", "out_probabilities.nii.gz"]
    assert (voxels(out) == ours.labels).all() and (ours.labels != ours.before).any()
    assert np.allclose(load(out).affine, AFFINE) and load(out).get_data_dtype() == np.uint8
    saved = voxels(out.parent / "out_probabilities.nii.gz")
    assert np.allclose(np.moveaxis(saved, -1, 0), ours.probabilities, atol=1e-6)


def test_channels_and_mask(root: Path) -> None:
    out = root / "out.nii"
    code, _, _ = run(
        "volume", root / "t1.nii.gz", "--also", root / "t2.nii.gz", "-u", root / "p.nii.gz",
        "--mask", root / "brain.nii.gz", "-o", out,
    )  # fmt: skip
    guide = np.stack([voxels(root / "t1.nii.gz"), voxels(root / "t2.nii.gz")])
    p = np.moveaxis(voxels(root / "p.nii.gz"), -1, 0)
    ours = refine_volume(guide, p, (1.5, 1, 3), mask=voxels(root / "brain.nii.gz") > 0)
    assert code == 0 and (voxels(out) == ours.labels).all()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--unary", "t1.nii.gz"], "each of several files holds one label"),
        (["--unary", "moved.nii.gz"], "--unary 'moved.nii.gz': expected the guide's grid"),
        (["--unary", "absent.nii.gz"], "absent.nii.gz"),
        (["--kind", "odds"], "kind: expected one of"),
        (["-o", "out.png"], "-o: expected a name in .nii.gz"),
        (["-T", "-1"], "--iterations: expected at least 0"),
        (["--theta-alpha", "0"], "--theta-alpha: expected a positive"),
        (["--mask", "p.nii.gz"], "--mask 'p.nii.gz': expected three axes"),
    ],
)
def test_refusals_are_one_line_and_leave_nothing(
    root: Path, words: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(root / "moved.nii.gz", voxels(root / "p.nii.gz"), AFFINE + 0.5)
    monkeypatch.chdir(root)
    before = names(root)
    code, _, error = run("volume", "t1.nii.gz", "-u", "p.nii.gz", "-o", "out.nii.gz", *words)
    assert code == 2 and said in error and len(error.strip().splitlines()) == 1
    assert names(root) == before
