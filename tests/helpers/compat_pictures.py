# SPDX-License-Identifier: MIT
"""Shared by the tests of crfrnn.compat.pydensecrf: photographs, energies, models of both packages."""

from __future__ import annotations

import functools

import numpy as np
import pydensecrf.densecrf as theirs

PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")
LABELS = 5


@functools.cache
def photograph(name, step=3):
    """A crop of a photograph of scikit-image, UInt8[86, 120, 3] with step 3."""
    from skimage import data

    return np.ascontiguousarray(getattr(data, name)()[20:276:step, 60:420:step])


@functools.cache
def energies(name, labels=LABELS, step=3):
    """Noisy energies Float32[L, N] that roughly follow the colours of a photograph."""
    image = photograph(name, step)
    rng = np.random.default_rng(len(name))
    pixels = image.reshape(-1, 3).astype(float)
    centres = pixels[rng.integers(0, len(pixels), labels)]
    distance = np.linalg.norm(pixels - centres[:, None], axis=-1) / 40
    return (distance + rng.standard_normal(distance.shape)).astype(np.float32)


def compatibilities(kind, labels=LABELS, scale=1.0):
    """One compat for the Gaussian and one for the bilateral kernel."""
    rng = np.random.default_rng(3)
    if kind == "scalar":
        return 3.0 * scale, 5.0 * scale
    if kind == "vector":
        ramp = np.linspace(1, 3, labels)
        return tuple((-scale * v).astype(np.float32) for v in (ramp, 2 + ramp[::-1]))
    drawn = [-w * np.eye(labels) + 0.5 * rng.standard_normal((labels, labels)) for w in (3, 4)]
    if kind == "matrix":
        drawn = [(m + m.T) / 2 for m in drawn]
    return tuple((scale * m).astype(np.float32) for m in drawn)


def build(module, image, energy, compat, kernel, normalization, widths=(3, 80, 13)):
    """The same calls on either module, its constants named by strings."""
    height, width = image.shape[:2]
    model = module.DenseCRF2D(width, height, len(energy))
    model.setUnaryEnergy(energy)
    options = {"kernel": getattr(module, kernel), "normalization": getattr(module, normalization)}
    model.addPairwiseGaussian(sxy=widths[0], compat=compat[0], **options)
    model.addPairwiseBilateral(sxy=widths[1], srgb=widths[2], rgbim=image, compat=compat[1], **options)
    return model


def theirs_by(preset, image, energy):
    """Marginals Float32[L, N] of pydensecrf2 with a preset of the table, called as projects call it."""
    compat, widths = (preset.spatial_weight, preset.bilateral_weight), (preset.theta_gamma, *preset[:2])
    mode = {"symmetric": "NORMALIZE_SYMMETRIC", "none": "NO_NORMALIZATION"}[preset.normalization]
    model = build(theirs, image, energy, compat, "DIAG_KERNEL", mode, widths)
    return np.array(model.inference(preset.iterations))


def assert_agree(ours, theirs):
    """The bounds of a drop-in: mean |ΔQ| ≤ 1e-3, the same argmax at 99.9 % of the pixels."""
    ours, theirs = np.array(ours), np.array(theirs)
    assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
    assert np.abs(ours - theirs).mean() <= 1e-3
    assert (ours.argmax(0) == theirs.argmax(0)).mean() >= 0.999
