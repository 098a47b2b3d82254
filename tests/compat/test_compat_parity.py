# SPDX-License-Identifier: MIT
"""crfrnn.compat.pydensecrf reproduces pydensecrf2's numbers for every combination of options."""

from __future__ import annotations

import warnings

import numpy as np
import pydensecrf.densecrf as theirs
import pytest
from pydensecrf import utils as their_utils

from classic_lattice import ClassicLattice
from compat_pictures import PHOTOGRAPHS, assert_agree, build, compatibilities, energies, photograph
from crfrnn.compat.pydensecrf import densecrf as ours
from crfrnn.compat.pydensecrf import eigen, utils

KERNELS = ("CONST_KERNEL", "DIAG_KERNEL", "FULL_KERNEL")
NORMALIZATIONS = ("NO_NORMALIZATION", "NORMALIZE_BEFORE", "NORMALIZE_AFTER", "NORMALIZE_SYMMETRIC")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["scalar", "vector", "matrix", "asymmetric"])
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_every_combination_on_photographs(kernel, normalization, kind):
    scale = 0.05 if normalization == "NO_NORMALIZATION" else 1.0  # unnormalised rows sum to dozens
    compat = compatibilities(kind, scale=scale)
    changed = []
    for index, name in enumerate(PHOTOGRAPHS):
        image, energy = photograph(name), energies(name)
        widths = [(3, 80, 13), (1, 67, 3), ((2, 4), (50, 60), (5, 9, 12))][index % 3]
        case = (image, energy, compat, kernel, normalization, widths)
        with warnings.catch_warnings():
            if kind == "asymmetric":
                warnings.simplefilter("ignore", UserWarning)
            mine, other = build(ours, *case), build(theirs, *case)
        q = mine.inference(5)
        assert_agree(q, other.inference(5))
        changed.append((np.argmax(q, 0) != energy.argmin(0)).mean())
    assert np.mean(changed) > 0.05  # the pairwise terms have an effect


@pytest.mark.parametrize("kind", ["scalar", "vector", "matrix"])
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_steps_and_divergence(normalization, kind):
    scale = 0.05 if normalization == "NO_NORMALIZATION" else 1.0
    case = (
        photograph("coffee"),
        energies("coffee"),
        compatibilities(kind, scale=scale),
        KERNELS[1],
        normalization,
    )
    mine, other = build(ours, *case), build(theirs, *case)
    mine_state, other_state = mine.startInference(), other.startInference()
    for _ in range(4):
        want = other.klDivergence(other_state[0])
        assert mine.klDivergence(mine_state[0]) == pytest.approx(want, rel=1e-4)
        assert mine.stepInference(*mine_state) is None
        other.stepInference(*other_state)
        assert_agree(mine_state[0], other_state[0])
    np.testing.assert_allclose(np.array(mine_state[0]), np.array(mine.inference(4)), atol=1e-4)
    assert [m.shape for m in mine_state[1:]] == [(0, 0), (0, 0)]  # as the original prints them


def test_divergence_lacks_the_half():
    """Σ Q log Q + Σ U Q + <Q, C K Q> of three points, with an independent lattice."""
    model = ours.DenseCRF(3, 2)
    energy = np.array([[0.1, 1, 0.4], [0.7, 0.2, 0.3]], np.float32)
    model.setUnaryEnergy(energy)
    compat = np.array([[0, 1.5], [1.5, 0.5]], np.float32)
    model.addPairwiseEnergy(
        np.array([[0, 0.3, 0.5]], np.float32), compat, normalization=ours.NO_NORMALIZATION
    )
    kernel = ClassicLattice(np.array([[0], [0.3], [0.5]])) @ np.eye(3)
    q = np.array([[0.2, 0.5, 0.9], [0.8, 0.5, 0.1]])
    want = (q * np.log(q)).sum() + (q * energy).sum() + (q * (compat @ q @ kernel.T)).sum()
    assert model.klDivergence(eigen.matrixXf(q.astype(np.float32))) == pytest.approx(want, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("dimension", [1, 3, 6, 8, 15, 33])
def test_features_of_any_dimension(dimension, normalization):
    """addPairwiseEnergy over scattered points; beyond 32 numbers a point in plain torch."""
    rng = np.random.default_rng(dimension)
    count = 1500 if dimension <= 8 else 200
    features = (1.5 * rng.standard_normal((dimension, count))).astype(np.float32)
    energy = rng.standard_normal((3, count)).astype(np.float32)
    result = []
    for module in (ours, theirs):
        model = module.DenseCRF(count, 3)
        model.setUnaryEnergy(energy)
        model.addPairwiseEnergy(features, compat=0.4, normalization=getattr(module, normalization))
        result.append(model.inference(4))
    assert_agree(*result)


def test_grey_volume_through_the_helpers():
    """Three spatial axes and one channel, features from utils on both sides."""
    rng = np.random.default_rng(0)
    volume = np.cumsum(rng.standard_normal((9, 14, 16)), 2).astype(np.float32)
    energy = rng.standard_normal((2, volume.size)).astype(np.float32)
    result = []
    for module, helpers in ((ours, utils), (theirs, their_utils)):
        model = module.DenseCRF(volume.size, 2)
        model.setUnaryEnergy(energy)
        model.addPairwiseEnergy(helpers.create_pairwise_gaussian((1, 2, 3), volume.shape), compat=3)
        features = helpers.create_pairwise_bilateral((4, 4, 4), (0.7,), volume)
        model.addPairwiseEnergy(features, compat=5, normalization=module.NORMALIZE_AFTER)
        result.append(model.inference(5))
    assert_agree(*result)


def test_unaries_of_every_kind():
    """ConstUnary, LogisticUnary, none at all, and an energy of +inf."""
    rng = np.random.default_rng(1)
    weights, features = (rng.standard_normal(s).astype(np.float32) for s in ((3, 4), (4, 200)))
    grid = rng.random((2, 200)).astype(np.float32) * 9
    forbidden = rng.random((3, 200)).astype(np.float32)
    forbidden[0, :50] = np.inf
    for unary in ("none", "const", "logistic", "forbidden"):
        result = []
        for module in (ours, theirs):
            model = module.DenseCRF(200, 3)
            model.addPairwiseEnergy(grid, compat=np.array([-1, -2, -1.5], np.float32))
            if unary == "const":
                model.setUnary(module.ConstUnary(weights @ features))
            elif unary == "logistic":
                model.setUnary(module.LogisticUnary(weights, features))
            elif unary == "forbidden":
                model.setUnaryEnergy(forbidden)
            state = model.startInference()
            start = np.array(state[0])
            model.stepInference(*state)
            result.append((start, np.array(state[0]), np.array(model.inference(3))))
        for mine, other in zip(*result, strict=True):
            assert_agree(mine, other)
    assert (result[0][2][0, :50] == 0).all()


def test_zero_iterations_and_no_kernels():
    energy = energies("rocket")
    for module in (ours, theirs):
        model = module.DenseCRF(energy.shape[1], len(energy))
        model.setUnaryEnergy(energy)
        want = np.exp(-energy) / np.exp(-energy).sum(0)
        for count in (-1, 0, 1, 5):
            np.testing.assert_allclose(np.array(model.inference(count)), want, atol=1e-5)


@pytest.mark.parametrize("labels", [1, 2, 33, 1100])
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 1), (3, 5)], ids=str)
def test_odd_sizes(size, labels):
    rng = np.random.default_rng(labels)
    image = rng.integers(0, 256, (*size, 3)).astype(np.uint8)
    energy = rng.standard_normal((labels, size[0] * size[1])).astype(np.float32)
    case = (image, energy, (0.5, 2.0), "DIAG_KERNEL", "NORMALIZE_SYMMETRIC")
    mine, other = build(ours, *case), build(theirs, *case)
    assert_agree(mine.inference(3), other.inference(3))
    mine_state, other_state = mine.startInference(), other.startInference()
    mine.stepInference(*mine_state)
    other.stepInference(*other_state)
    assert_agree(mine_state[0], other_state[0])
    want = other.klDivergence(other_state[0])
    assert mine.klDivergence(mine_state[0]) == pytest.approx(want, rel=1e-4, abs=1e-5)


@pytest.mark.slow
@pytest.mark.real
@pytest.mark.parametrize("settings", [(3, 3, 4, 67, 3), (3, 3, 10, 80, 13)], ids=["deeplab", "readme"])
def test_real_voc_pictures(settings):
    """VOC 2012 photographs with the logits of a DeepLab, at full size with 21 labels."""
    from crfrnn.datasets import DeepLabUnaries, voc_person_folder, voc_pictures

    folder = voc_person_folder()
    assert folder is not None
    pictures = voc_pictures(folder / "VOCdevkit" / "VOC2012", "val")
    unaries = DeepLabUnaries.load(folder / "unaries" / "val.npz")
    w_gauss, s_gauss, w_bilateral, s_xy, s_rgb = settings
    for picture in (pictures[index] for index in range(5, 305, 100)):
        image = np.ascontiguousarray(picture.image)
        energy = -np.asarray(unaries.logits(picture.id, image.shape[:2]), np.float32)
        energy = np.ascontiguousarray(energy.reshape(len(energy), -1))
        case = (image, energy, (w_gauss, w_bilateral), "DIAG_KERNEL", "NORMALIZE_SYMMETRIC")
        widths = (s_gauss, s_xy, s_rgb)
        mine, other = (build(module, *case, widths) for module in (ours, theirs))
        assert_agree(mine.inference(10), other.inference(10))
