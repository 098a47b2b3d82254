# SPDX-License-Identifier: MIT
"""crfrnn.compat.bilateralfilter against the lattice of the paper and the exact sum."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest
import torch

from classic_lattice import ClassicLattice
from crfrnn.compat import bilateralfilter as ours

N, K, H, W = 2, 3, 6, 7
RGB, XY = 20.0, 4.17  # no pixel on a border between simplices, where rounding would decide


@pytest.fixture
def drawn() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return (255 * rng.random((N, 3, H, W))).astype(np.float32), rng.random((N, K, H, W)).astype(np.float32)


def features(image: np.ndarray) -> np.ndarray:
    """[H·W, 5]: x, y, then red, green, blue, as the original stacks them."""
    y, x = np.mgrid[:H, :W]
    return np.stack([x / XY, y / XY, *(image / RGB)], -1).reshape(H * W, 5)


def batch(images: np.ndarray, values: np.ndarray) -> np.ndarray:
    out = np.full(values.size, np.nan, np.float32)
    ours.bilateralfilter_batch(images.flatten(), values.flatten(), out, N, K, H, W, RGB, XY)
    return out.reshape(values.shape)


def test_the_numbers_are_those_of_the_lattice(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    images, values = drawn
    found = batch(images, values)
    for image, planes, result in zip(images, values, found, strict=True):
        truth = ClassicLattice(features(image.astype(float))) @ planes.reshape(K, -1).T.astype(float)
        np.testing.assert_allclose(result.reshape(K, -1).T, truth, rtol=1e-4, atol=1e-5)


def test_one_picture_equals_its_part_of_the_batch(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    images, values = drawn
    out = np.zeros(K * H * W, np.float32)
    ours.bilateralfilter(images[1].flatten(), values[1].flatten(), out, H, W, RGB, XY)
    assert np.array_equal(out.reshape(K, H, W), batch(images, values)[1])


def test_the_loss_is_what_scripts_compute_from_the_filter(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    """The forward pass of the original, written out: regions, filter, product, mean over the pictures."""
    images, values = drawn
    regions = np.random.default_rng(1).integers(0, 2, (N, H, W)).astype(np.float32)
    s = values * regions[:, None]
    truth = -0.5 * float(np.dot(s.flatten(), batch(images, s).flatten())) / N
    loss = ours.DenseCRFLoss(weight=0.5, sigma_rgb=RGB, sigma_xy=XY, scale_factor=1.0)
    kept = torch.from_numpy(regions)
    found = loss(torch.from_numpy(images), torch.from_numpy(values), kept)
    assert found.shape == (1,) and found.item() == pytest.approx(truth, rel=1e-5)
    assert kept.shape == (N, H, W)  # the original changes it in place


def test_the_gradient_is_that_of_the_loss(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    images, values = (torch.from_numpy(a).double() for a in drawn)
    regions = torch.ones(N, H, W, dtype=torch.float64)
    regions[:, :2] = 0
    loss = ours.DenseCRFLoss(1.0, RGB, XY, 1.0)
    values.requires_grad_()
    torch.autograd.gradcheck(lambda v: loss(images, v, regions), values)
    (gradient,) = torch.autograd.grad(loss(images, values, regions), values)
    assert not gradient[:, :, :2].any()


def test_half_size_scales_pictures_and_the_width_in_pixels(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    images, values = (torch.from_numpy(a) for a in drawn)
    regions = torch.ones(N, H, W)
    half = [
        torch.nn.functional.interpolate(images, scale_factor=0.5),
        torch.nn.functional.interpolate(values, scale_factor=0.5, mode="bilinear", align_corners=False),
    ]
    small = torch.ones(N, *half[0].shape[2:])
    found = ours.DenseCRFLoss(1.0, RGB, XY, 0.5)(images, values, regions)
    torch.testing.assert_close(found, ours.DenseCRFLoss(1.0, RGB, XY / 2, 1.0)(*half, small))


def test_install_gives_the_old_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "bilateralfilter", raising=False)
    ours.install()
    from bilateralfilter import bilateralfilter, bilateralfilter_batch  # pyright: ignore

    assert bilateralfilter is ours.bilateralfilter and bilateralfilter_batch is ours.bilateralfilter_batch
    monkeypatch.setitem(sys.modules, "bilateralfilter", types.ModuleType("bilateralfilter"))
    with pytest.warns(RuntimeWarning, match="had been imported before"):
        ours.install()


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"out": np.zeros(N * K * H * W)}, TypeError, r"out: expected a contiguous float32 array .* float64"),
        ({"out": [0.0]}, TypeError, "out: expected .* got list"),
        ({"out": np.zeros(5, np.float32)}, ValueError, "out: expected 252 numbers, got 5"),
        ({"images": np.zeros(7)}, ValueError, "images: expected 252 numbers, got 7; check N, K, H and W"),
        ({"values": np.zeros(7)}, ValueError, "values: expected 252 numbers, got 7; check N, K, H and W"),
        ({"sigmaxy": 0.0}, ValueError, "sigma_xy: expected a finite number above 0, got 0.0"),
    ],
)
def test_refusals(change: dict[str, object], error: type[Exception], said: str) -> None:
    arguments: dict[str, object] = {
        "images": np.zeros(N * 3 * H * W), "values": np.zeros(N * K * H * W),
        "out": np.zeros(N * K * H * W, np.float32), "N": N, "K": K, "H": H, "W": W,
        "sigmargb": RGB, "sigmaxy": XY,
    }  # fmt: skip
    with pytest.raises(error, match=said):
        ours.bilateralfilter_batch(**{**arguments, **change})  # pyright: ignore
    with pytest.raises(ValueError, match="values: expected planes of 42 numbers, got 43"):
        ours.bilateralfilter(np.zeros(126), np.zeros(43), np.zeros(43, np.float32), H, W, RGB, XY)
