# SPDX-License-Identifier: MIT
"""Volumes against the formula summed over all pairs of voxels, and NIfTI against nibabel itself."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import softmax

from crfrnn import CRFRNN
from crfrnn.inference import refine_volume, to_display_range
from crfrnn.io import Volume, read_nifti, write_nifti

SHAPE = (4, 5, 3)
SPACING = (0.8, 1.0, 3.5)
NUMBERS = {
    "theta_alpha": 4.1,
    "theta_beta": 31.0,
    "theta_gamma": 1.9,
    "spatial_weight": 1.5,
    "bilateral_weight": 2.5,
}
load: Any = nibabel.load  # its type stubs lack the voxel data


def sample(channels: int = 2, labels: int = 3) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    rng = np.random.default_rng(3)
    guide = rng.uniform(0, 255, (channels, *SHAPE))
    return guide, softmax(2 * rng.normal(size=(labels, *SHAPE)), 0)


def by_hand(guide: NDArray, p: NDArray, alpha, beta, gamma, iterations: int) -> NDArray:
    """Reference mean field over all pairs of voxels, lengths in millimetres, in float64 numpy."""
    place = np.stack(np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij"), -1).reshape(-1, 3) * SPACING
    colour = guide.reshape(len(guide), -1).T

    def kernel(features: NDArray) -> NDArray:
        k = np.exp(-0.5 * ((features[:, None] - features[None]) ** 2).sum(-1))
        return k / k.sum(1, keepdims=True)

    smooth = kernel(place / gamma)
    edges = kernel(np.concatenate([place / alpha, colour / beta], 1))
    unary = np.log(np.maximum(p, 1e-5)).reshape(len(p), -1).T
    x = unary
    for _ in range(iterations):
        q = softmax(x, 1)
        x = unary + NUMBERS["spatial_weight"] * smooth @ q + NUMBERS["bilateral_weight"] * edges @ q
    return softmax(x, 1).T.reshape(p.shape)


@pytest.mark.parametrize("alpha", [4.1, (4.1, 6.3, 9.7)], ids=["one reach", "one per axis"])
def test_lengths_are_millimetres_along_the_axes_of_the_array(alpha: float | tuple[float, ...]) -> None:
    guide, p = sample()
    ours = refine_volume(
        guide, p, SPACING, **{**NUMBERS, "theta_alpha": alpha}, iterations=4, rescale=False,
        bilateral_method="exact", spatial_method="exact",
    )  # fmt: skip
    truth = by_hand(guide, p, np.array(alpha), 31.0, 1.9, 4)
    assert np.abs(ours.probabilities - truth).max() < 1e-6
    assert (ours.labels == truth.argmax(0)).all() and (ours.before == p.argmax(0)).all()
    swapped = by_hand(guide, p, np.array(alpha) * (3.5, 1.0, 0.8), 31.0, 1.9, 4)
    assert np.abs(ours.probabilities - swapped).max() > 1e-3  # a swapped axis order would be detected


def test_the_default_methods_are_the_same_within_the_lattice_error() -> None:
    guide, p = sample(channels=1)
    ours = refine_volume(guide[0], p, SPACING, **NUMBERS, iterations=4, rescale=False)
    truth = by_hand(guide, p, 4.1, 31.0, 1.9, 4)
    assert np.abs(ours.probabilities - truth).mean() < 0.03


def test_the_result_in_millimetres_does_not_depend_on_the_voxels() -> None:
    """A volume of constant slabs, with slices of 1 mm and of 3 mm."""
    rng = np.random.default_rng(0)
    thick = rng.uniform(0, 255, (6, 6, 4))
    p = softmax(rng.normal(size=(2, 6, 6, 4)), 0)
    thin, fine = thick.repeat(3, 2), p.repeat(3, 3)
    a = refine_volume(thick, p, (1, 1, 3), theta_alpha=9.0, theta_gamma=5.0)
    b = refine_volume(thin, fine, (1, 1, 1), theta_alpha=9.0, theta_gamma=5.0)
    wrong = refine_volume(thick, p, (3, 1, 1), theta_alpha=9.0, theta_gamma=5.0)
    near = np.abs(a.probabilities - b.probabilities[..., 1::3]).mean()
    assert near < 0.02 < np.abs(wrong.probabilities - b.probabilities[..., 1::3]).mean()


def test_a_video_gains_from_its_neighbouring_frames() -> None:
    """A square that moves one pixel per frame: [T, H, W] with colour and independent noise per frame."""
    rng = np.random.default_rng(1)
    frames, height, width = 8, 24, 24
    truth = np.zeros((frames, height, width), np.int64)
    for t in range(frames):
        truth[t, 6:16, 4 + t : 14 + t] = 1
    guide = np.stack([60 + 120 * truth, 90 + 0 * truth, 200 - 120 * truth]) + rng.normal(
        0, 4, (3, *truth.shape)
    )
    p = softmax(np.stack([1 - truth, truth]) + rng.normal(0, 1.5, (2, *truth.shape)), 0)
    numbers = {"theta_alpha": 6.0, "theta_beta": 20.0, "theta_gamma": 1.5, "rescale": False}
    joined = refine_volume(guide, p, (2, 1, 1), **numbers)
    apart = refine_volume(guide, p, (1e6, 1, 1), **numbers)  # frames too far apart to exchange messages
    right = [float((r.labels == truth).mean()) for r in (apart, joined)]
    assert float((joined.before == truth).mean()) < 0.8 < right[0] <= right[1] and right[1] > 0.99
    assert np.abs(apart.probabilities - joined.probabilities).max() > 0.01


def test_voxels_outside_the_mask_do_not_change_and_send_nothing() -> None:
    guide, p = sample()
    mask = np.ones(SHAPE, bool)
    mask[:, :2] = False
    other = guide.copy()
    other[:, ~mask] = 9e5
    a, b = (refine_volume(g, p, SPACING, mask=mask) for g in (guide, other))
    assert (a.probabilities == b.probabilities).all()
    assert (a.labels[~mask] == p.argmax(0)[~mask]).all()
    assert np.abs(a.probabilities - refine_volume(guide, p, SPACING).probabilities)[:, mask].max() > 1e-4


@pytest.mark.parametrize("hole", [np.nan, np.inf, 0.0])
def test_any_value_is_accepted_outside_the_mask(hole: float) -> None:
    """SPM writes NaN outside the brain, and tissue maps are 0 there."""
    guide, p = sample()
    mask = np.ones(SHAPE, bool)
    mask[:, :2] = False
    truth = refine_volume(guide, p, SPACING, mask=mask).probabilities[:, mask]
    guide[:, ~mask] = p[:, ~mask] = hole
    assert (refine_volume(guide, p, SPACING, mask=mask).probabilities[:, mask] == truth).all()
    with pytest.raises(ValueError, match=r"guide: expected finite.*mask=|probabilities: expected"):
        refine_volume(guide, p, SPACING)


def test_intensities_are_brought_to_one_scale() -> None:
    guide, p = sample()
    window = refine_volume(4 * guide - 200, p, SPACING, scale=(-200, 220)).probabilities
    assert np.allclose(
        window, refine_volume((guide / 105 * 255).clip(0, 255), p, SPACING, rescale=False).probabilities
    )
    with pytest.raises(ValueError, match="scale: expected two finite numbers, LOW below HIGH"):
        refine_volume(guide, p, SPACING, scale=(3, 3))
    scaled = guide * np.array([0.001, 4000])[:, None, None, None] + 12
    a, b = (refine_volume(g, p, SPACING, iterations=3) for g in (guide, scaled))
    assert np.abs(a.probabilities - b.probabilities).max() < 1e-3
    ramp = to_display_range(np.linspace(-7, 33, 1001)[None])
    assert np.allclose(np.percentile(ramp, (0.5, 99.5)), (0, 255))
    assert (to_display_range(np.full((1, 3, 3), 8.0)) == 0).all()
    sparse = np.zeros((1, 1000))
    sparse[0, 0] = 5.0
    assert to_display_range(sparse).max() == 255


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"guide": np.zeros(SHAPE[:2])}, "guide: expected"),
        ({"guide": np.full(SHAPE, np.nan)}, "guide: expected finite"),
        ({"guide": np.zeros((6, *SHAPE))}, "at most 5 channels"),
        ({"guide": np.zeros((5, 4, 3))}, "probabilities: expected"),
        ({"probabilities": np.full((3, *SHAPE), 0.5)}, "sum 1"),
        ({"probabilities": np.full((3, *SHAPE), -2.0)}, "pass kind='logits'"),
        ({"spacing": (1, 1)}, "spacing: expected"),
        ({"spacing": (1, 0, 1)}, "spacing: expected"),
        ({"theta_gamma": -1.0}, "theta_gamma: expected"),
        ({"kind": "odds"}, "kind: expected"),
        ({"mask": np.ones(SHAPE)}, "mask: expected bool"),
    ],
)
def test_refusals_name_the_argument(change: dict[str, object], words: str) -> None:
    guide, p = sample()
    with pytest.raises(ValueError, match=words):
        refine_volume(**{"guide": guide, "probabilities": p, "spacing": SPACING, **change})
    with pytest.raises(ValueError, match="probabilities: expected floating"):
        refine_volume(guide, np.ones((2, *SHAPE), int), SPACING)


def test_logits_are_used_unchanged() -> None:
    guide, p = sample()
    logits = np.log(p)
    ours = refine_volume(guide, logits + 3, SPACING, kind="logits", iterations=0)
    assert np.allclose(ours.probabilities, p, atol=1e-6)
    crf = CRFRNN(3, theta_alpha=(2.0, 4.0, 5.0))  # x, y, z: the layer's own order
    assert crf.log_theta_alpha.exp().tolist() == pytest.approx([2, 4, 5])


def oblique() -> NDArray[np.float64]:
    """Voxels of 0.8 × 1.2 × 3 mm, rotated and translated."""
    c, s = np.cos(0.3), np.sin(0.3)
    affine = np.eye(4)
    affine[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.diag([0.8, 1.2, 3.0])
    affine[:3, 3] = (-20, 7, 11)
    return affine


def test_nifti_keeps_affine_codes_units_and_spacing(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.arange(60, dtype=np.int16).reshape(4, 5, 3), oblique())
    image.header.set_xyzt_units("mm", "sec")
    image.set_sform(oblique(), 2)
    image.set_qform(oblique(), 1)
    image.header["descrip"] = b"made by hand"
    nibabel.save(image, tmp_path / "a.nii.gz")
    volume = read_nifti(tmp_path / "a.nii.gz")
    assert volume.spacing == pytest.approx((0.8, 1.2, 3.0))
    labels = (volume.values > 30).astype(np.uint8)
    write_nifti(tmp_path / "b.nii.gz", labels, volume, intent="label")
    write_nifti(tmp_path / "c.nii", np.stack([labels, 1 - labels]).astype(np.float32), volume)
    back = load(tmp_path / "b.nii.gz")
    assert (np.asarray(back.dataobj) == labels).all() and back.get_data_dtype() == np.uint8
    assert np.allclose(back.affine, oblique()) and int(back.header["sform_code"]) == 2
    assert int(back.header["qform_code"]) == 1 and back.header.get_xyzt_units() == ("mm", "sec")
    assert (
        bytes(back.header["descrip"]).startswith(b"made by hand") and back.header.get_intent()[0] == "label"
    )
    both = load(tmp_path / "c.nii")
    assert both.shape == (4, 5, 3, 2) and (np.asarray(both.dataobj)[..., 0] == labels).all()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.nii.gz", "b.nii.gz", "c.nii"]


def test_units_other_than_millimetres_are_converted(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.diag([500.0, 500, 250, 1]))
    image.header.set_xyzt_units("micron")
    nibabel.save(image, tmp_path / "m.nii")
    assert read_nifti(tmp_path / "m.nii").spacing == pytest.approx((0.5, 0.5, 0.25))


@pytest.mark.parametrize(("code", "millimetres"), [(0, 2), (1, 2000), (8 | 2, 2), (56 | 3, 0.002)])
def test_codes_of_units(tmp_path: Path, code: int, millimetres: float) -> None:
    assert coded(tmp_path, code).spacing == pytest.approx((millimetres,) * 3)


@pytest.mark.parametrize("code", [4, 7, 128 | 5])
def test_unknown_codes_of_units_cause_a_warning(tmp_path: Path, code: int) -> None:
    with pytest.warns(UserWarning, match=f"'.*a.nii': its unit of length has the code {code & 7}"):
        volume = coded(tmp_path, code)
    assert volume.spacing == (2, 2, 2)
    write_nifti(tmp_path / "b.nii", np.zeros(volume.values.shape, np.uint8), volume)


def coded(folder: Path, code: int) -> Volume:
    image = nibabel.Nifti1Image(np.zeros((3, 4, 5), np.uint8), np.diag([2.0, 2.0, 2.0, 1.0]))
    image.header["xyzt_units"] = code
    nibabel.save(image, folder / "a.nii")
    return read_nifti(folder / "a.nii")


def test_damaged_files_are_refused_by_name(tmp_path: Path) -> None:
    good = tmp_path / "good.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.zeros((9, 9, 9), np.float32), np.eye(4)), good)
    (tmp_path / "cut.nii.gz").write_bytes(good.read_bytes()[:60])
    (tmp_path / "short.nii").write_bytes(gzip.decompress(good.read_bytes())[:500])
    (tmp_path / "text.nii").write_text("no volume")
    nibabel.save(nibabel.Nifti1Image(np.zeros((3, 3)), np.eye(4)), tmp_path / "flat.nii")
    for name in ("cut.nii.gz", "short.nii", "text.nii", "flat.nii", "absent.nii"):
        with pytest.raises(ValueError, match=name):
            read_nifti(tmp_path / name)
    with pytest.raises(ValueError, match="at most 700 numbers"):
        read_nifti(good, max_voxels=700)
    with pytest.raises(ValueError, match=r"\.nii\.gz"):
        write_nifti(tmp_path / "x.png", np.zeros((9, 9, 9), np.uint8), read_nifti(good))
