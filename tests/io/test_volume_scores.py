# SPDX-License-Identifier: MIT
"""Scores and label maps of volumes in common formats, against the same values in one NIfTI file."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import softmax

from command_line import run
from crfrnn.inference import refine_volume
from crfrnn.io import Volume, read_nifti, read_scores

AFFINE = np.array([[-0.8, 0, 0, 40], [0, 0.8, 0, -9], [0, 0, 3.0, 2], [0, 0, 0, 1]])
SHAPE = (9, 8, 5)
P = softmax(np.random.default_rng(0).normal(0, 2, (3, *SHAPE)), 0).astype(np.float32)
LABELS = P.argmax(0)

load: Any = nibabel.load  # its type stubs lack the voxel data


def save(path: Path, values: NDArray, affine: NDArray = AFFINE) -> Path:
    nibabel.save(nibabel.Nifti1Image(values, affine), path)
    return path


def guide_of(folder: Path, shape: tuple[int, ...] = SHAPE, affine: NDArray = AFFINE) -> Volume:
    rng = np.random.default_rng(1)
    return read_nifti(save(folder / "t1.nii.gz", rng.normal(100, 20, shape).astype(np.float32), affine))


@pytest.fixture
def guide(tmp_path: Path) -> Volume:
    return guide_of(tmp_path)


@pytest.mark.parametrize("key", ["probabilities", "softmax"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_nnunet_writes_the_axes_the_other_way_round(
    tmp_path: Path, guide: Volume, key: str, dtype: type
) -> None:
    """nnU-Net readers reorder nibabel's x, y, z to z, y, x (nnunetv2/imageio/nibabel_reader_writer.py)."""
    np.savez_compressed(tmp_path / "case.npz", **{key: P.transpose(0, 3, 2, 1).astype(dtype)})
    save(tmp_path / "case.nii.gz", LABELS.astype(np.uint8))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = read_scores(tmp_path / "case.npz", guide)
    assert found.dtype == np.float32 and np.allclose(found, P, atol=1e-3)
    moved = AFFINE.copy()
    moved[2, 3] += 5
    save(tmp_path / "case.nii.gz", LABELS.astype(np.uint8), moved)
    with pytest.raises(ValueError, match=r"case.npz', by the file next to it.*the guide's grid, affine"):
        read_scores(tmp_path / "case.npz", guide)


@pytest.mark.parametrize("axes", ["lxyz", "lzyx", "xyzl", "zyxl"])
@pytest.mark.parametrize("ending", ["npy", "npz", "pt"])
@pytest.mark.parametrize("batch", [False, True])
def test_the_shape_determines_the_order_of_the_axes(
    tmp_path: Path, guide: Volume, axes: str, ending: str, batch: bool
) -> None:
    array = np.ascontiguousarray(P.transpose(["lxyz".index(a) for a in axes]))
    array = array[None] if batch else array
    path = tmp_path / f"p.{ending}"
    if ending == "pt":
        torch.save(torch.from_numpy(array), path)
    else:
        (np.save if ending == "npy" else np.savez)(path, array)
    assert (read_scores(path, guide) == P).all()
    assert (read_scores(path, guide, axes=axes) == P).all()


def test_an_ambiguous_order_of_axes_is_refused_except_for_nnunet(tmp_path: Path) -> None:
    cube = P[:, :5, :5, :5]
    guide = guide_of(tmp_path, cube.shape[1:])
    turned = np.ascontiguousarray(cube.transpose(0, 3, 2, 1))
    np.save(tmp_path / "p.npy", turned)
    with pytest.raises(ValueError, match=r"pass axes='lxyz' or axes='lzyx'"):
        read_scores(tmp_path / "p.npy", guide)
    assert (read_scores(tmp_path / "p.npy", guide, axes="lzyx") == cube).all()
    assert (read_scores(tmp_path / "p.npy", guide, axes="lxyz") == turned).all()
    np.savez(tmp_path / "p.npz", probabilities=turned)
    with pytest.warns(UserWarning, match=r"read as \[L, Z, Y, X\], as nnU-Net.*axes='lxyz'"):
        assert (read_scores(tmp_path / "p.npz", guide) == cube).all()


def test_a_file_for_each_label(tmp_path: Path, guide: Volume) -> None:
    files = [save(tmp_path / f"{k}.nii.gz", p) for k, p in enumerate(P)]
    assert (read_scores(files, guide) == P).all()
    assert np.allclose(read_scores(files[1:], guide), P, atol=1e-6)  # background is the remainder
    assert np.allclose(read_scores(files[1:], guide, num_labels=3), P, atol=1e-6)
    logits = [save(tmp_path / f"z{k}.nii.gz", np.log(p)) for k, p in enumerate(P)]
    assert np.allclose(read_scores(logits, guide, kind="logits"), np.log(P), atol=1e-6)
    with pytest.raises(ValueError, match="unary: expected 4 labels, got 3"):
        read_scores(logits, guide, kind="logits", num_labels=4)
    double = save(tmp_path / "double.nii.gz", 2 * P[1])
    with pytest.raises(ValueError, match=r"sums of at most 1.*one by one"):
        read_scores([double, files[2]], guide)


def test_sums_are_checked_within_the_mask(tmp_path: Path, guide: Volume) -> None:
    """Tissue maps are 0 outside the brain: with a mask all labels are given, without it one is missing."""
    brain = np.ones(SHAPE, bool)
    brain[:3] = False
    files = [save(tmp_path / f"{k}.nii.gz", p * brain) for k, p in enumerate(P)]
    assert (read_scores(files, guide, mask=brain) == P * brain).all()
    whole = read_scores(files, guide)
    assert whole.shape[0] == 4 and np.allclose(whole[0], ~brain, atol=1e-6) and (whole[1:] == P * brain).all()


def test_one_number_per_voxel_is_a_binary_problem(tmp_path: Path, guide: Volume) -> None:
    p = P[:1] / 2 + 0.2
    both = np.concatenate([1 - p, p])
    truth = refine_volume(guide.values, both, guide.spacing).probabilities
    for kind, one in (("probabilities", p), ("logits", np.log(p / (1 - p)))):
        found = read_scores(save(tmp_path / "fg.nii.gz", one[0]), guide, kind=kind, num_labels=2)
        ours = refine_volume(guide.values, found, guide.spacing, kind=kind).probabilities
        assert np.allclose(ours, truth, atol=1e-5)
        assert np.allclose(refine_volume(guide.values, one[0], guide.spacing, kind=kind).probabilities, ours)


def test_vectors_as_itk_writes_them(tmp_path: Path, guide: Volume) -> None:
    """ANTs and SimpleITK store the components on the fifth axis, because the fourth is time."""
    path = save(tmp_path / "p.nii.gz", np.moveaxis(P, 0, -1)[..., None, :])
    assert (read_scores(path, guide) == P).all()


def test_a_label_map_keeps_its_numbers(guide: Volume) -> None:
    """FreeSurfer's labels are 0, 2, 41, …; the layer's are 0, 1, 2, …"""
    numbers = np.array([0, 41, 255])
    plain = refine_volume(guide.values, LABELS, guide.spacing, kind="labels", num_labels=3, gt_prob=0.6)
    sparse = refine_volume(guide.values, numbers[LABELS], guide.spacing, kind="labels", gt_prob=0.6)
    assert (sparse.labels == numbers[plain.labels]).all() and (plain.labels != LABELS).any()
    assert (sparse.before == numbers[LABELS]).all()
    hard = np.where(np.eye(3)[LABELS].astype(bool), 0.6, 0.2).transpose(3, 0, 1, 2)
    scores = refine_volume(guide.values, hard.astype(np.float32), guide.spacing)
    assert (scores.labels == plain.labels).all()
    half = np.where(np.arange(9)[:, None, None] < 4, numbers[LABELS], 255)
    free = refine_volume(guide.values, half, guide.spacing, kind="labels", unknown=255)
    assert set(np.unique(free.labels)) <= {0, 41}
    one = refine_volume(guide.values, np.zeros(SHAPE, int), guide.spacing, kind="labels")
    assert (one.labels == 0).all()


@pytest.mark.parametrize("ending", ["nii.gz", "npy", "npz"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float64])
def test_label_maps_of_every_kind_of_file(tmp_path: Path, guide: Volume, ending: str, dtype: type) -> None:
    path = tmp_path / f"seg.{ending}"
    if ending == "nii.gz":
        save(path, LABELS.astype(dtype))
    else:
        (np.save if ending == "npy" else np.savez)(path, LABELS.transpose(2, 1, 0).astype(dtype))
    assert (read_scores(path, guide, kind="labels") == LABELS).all()


def test_a_mask_for_each_label(tmp_path: Path, guide: Volume) -> None:
    files = [save(tmp_path / f"{k}.nii.gz", (255 * (k == LABELS)).astype(np.uint8)) for k in (1, 2)]
    assert (read_scores(files, guide, kind="labels") == LABELS).all()
    wide = save(tmp_path / "wide.nii.gz", (LABELS > 0).astype(np.uint8))
    with pytest.raises(ValueError, match=r"masks that do not overlap.*1\.nii\.gz"):
        read_scores([files[0], wide], guide, kind="labels")
    with pytest.raises(ValueError, match="a mask, 0 and one other number"):
        read_scores([files[0], save(tmp_path / "map.nii.gz", LABELS.astype(np.uint8))], guide, kind="labels")


def test_other_grids_are_refused_with_a_remedy_that_works(tmp_path: Path) -> None:
    """The same voxels stored right to left: nibabel.as_closest_canonical makes both agree."""
    guide = guide_of(tmp_path)
    flipped = AFFINE @ np.array([[-1, 0, 0, SHAPE[0] - 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    path = save(tmp_path / "p.nii.gz", np.moveaxis(P[:, ::-1], 0, -1), flipped)
    with pytest.raises(ValueError, match=r"affine.*rotated.*nibabel\.as_closest_canonical"):
        read_scores(path, guide)
    for name in ("t1.nii.gz", "p.nii.gz"):
        image = nibabel.as_closest_canonical(load(tmp_path / name))
        save(tmp_path / name, np.asarray(image.dataobj), image.affine)
    canonical = read_nifti(tmp_path / "t1.nii.gz")
    assert np.allclose(read_scores(path, canonical), P[:, ::-1], atol=1e-6)  # the guide was flipped in x
    with pytest.raises(ValueError, match=r"expected the guide's grid, \(9, 8, 5\) voxels.*rotated"):
        read_scores(save(tmp_path / "q.nii.gz", P[0].transpose(2, 1, 0)), canonical)


@pytest.mark.parametrize(
    ("values", "options", "said"),
    [
        (
            P,
            {"axes": "xyzl"},
            r"x 9, y 8, z 5, got shape \(3, 9, 8, 5\) read as \[X, Y, Z, L\]; axes='lxyz' would fit",
        ),
        (P, {"axes": "chw"}, "axes: expected the order of the file's axes, one of 'lxyz'"),
        (P, {"kind": "odds"}, "kind: expected one of"),
        (P, {"num_labels": 5}, "expected 5 labels, got 3; correct num_labels"),
        (P[:, :4], {}, "an axis of labels.*resample it onto the guide"),
        (LABELS, {}, "floating-point probabilities.*kind='labels'"),
        (P, {"kind": "labels"}, r"axes \[X, Y, Z\].*for scores pass kind='logits'"),
    ],
)
def test_refusals(tmp_path: Path, guide: Volume, values: NDArray, options: dict, said: str) -> None:
    np.save(tmp_path / "p.npy", values)
    with pytest.raises(ValueError, match=said):
        read_scores(tmp_path / "p.npy", guide, **options)


@pytest.mark.parametrize(
    ("values", "options", "said"),
    [
        (LABELS, {"num_labels": 2}, "labels 0..1 or -1, got 2 .*unknown=2"),
        (LABELS - 1, {}, "labels 0 and above, got -1.*unknown=-1"),
        (P[0], {}, "whole numbers.*kind='probabilities'"),
        (np.arange(360).reshape(SHAPE) * 4, {"num_labels": 2000}, "at most 1024 labels"),
        (LABELS.transpose(2, 1, 0), {}, r"probabilities\.transpose\(2, 1, 0\)"),
    ],
)
def test_refused_label_maps(guide: Volume, values: NDArray, options: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        refine_volume(guide.values, values, kind="labels", **options)


def test_the_command_reads_them_all(tmp_path: Path, guide: Volume) -> None:
    p = P[1]
    np.savez(tmp_path / "case.npz", probabilities=P.transpose(0, 3, 2, 1))
    save(tmp_path / "seg.nii.gz", (LABELS * 20).astype(np.uint8))
    save(tmp_path / "fg.nii.gz", p)
    for name, words, ours in (
        ("npz", ["-u", "case.npz"], refine_volume(guide.values, P, guide.spacing)),
        (
            "labels",
            ["-u", "seg.nii.gz", "--kind", "labels", "--gt-prob", "0.6", "--void", "20"],
            refine_volume(
                guide.values, LABELS * 20, guide.spacing, kind="labels", gt_prob=0.6, unknown=20
            ),
        ),
        ("one", ["-u", "fg.nii.gz"], refine_volume(guide.values, p, guide.spacing)),
    ):  # fmt: skip
        out = tmp_path / name / "o.nii.gz"
        words = [str(tmp_path / word) if word.endswith((".npz", ".nii.gz")) else word for word in words]
        code, _, error = run("volume", tmp_path / "t1.nii.gz", *words, "-o", out)
        assert code == 0, error
        assert (np.asarray(load(out).dataobj) == ours.labels).all()
