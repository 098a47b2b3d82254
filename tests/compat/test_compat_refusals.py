# SPDX-License-Identifier: MIT
"""Bad input to crfrnn.compat.pydensecrf: the original's error types, with helpful messages."""

from __future__ import annotations

import re

import numpy as np
import pytest

from crfrnn.compat.pydensecrf import densecrf as ours
from crfrnn.compat.pydensecrf import eigen, utils

F4 = np.float32
U = np.random.default_rng(0).random((2, 12)).astype(np.float32)
IMAGE = np.zeros((3, 4, 3), np.uint8)
POINTS = np.zeros((2, 12), np.float32)
LABELS = np.array([[0, 1], [2, 1]])
SOFT = np.full((3, 4), 1 / 3, np.float32)


def both():
    """(densecrf, eigen, utils) of the original and of this package."""
    import pydensecrf.densecrf
    import pydensecrf.eigen
    import pydensecrf.utils

    return (pydensecrf.densecrf, pydensecrf.eigen, pydensecrf.utils), (ours, eigen, utils)


def raised(call, *arguments):
    with pytest.raises(Exception) as caught:
        call(*arguments)
    return caught.value


# The call on a DenseCRF2D(4, 3, 2) and the required part of the message.
MODEL = {
    "float64 unary": (lambda d, m: d.setUnaryEnergy(U.astype(float)), "u: .*float64.*astype"),
    "integer unary": (lambda d, m: d.setUnaryEnergy(U.astype(int)), "u: expected float32"),
    "strided unary": (lambda d, m: d.setUnaryEnergy(np.asfortranarray(U)), "u: .*ascontiguousarray"),
    "turned unary": (lambda d, m: d.setUnaryEnergy(U.T.copy()), r"u: .*\(2, 12\).*\(12, 2\)"),
    "unary of 3 axes": (lambda d, m: d.setUnaryEnergy(U.reshape(2, 3, 4)), "u: expected an array with 2"),
    "no unary": (lambda d, m: d.setUnaryEnergy(None), "u: expected a NumPy array"),
    "list as unary": (lambda d, m: d.setUnaryEnergy(U.tolist()), "u: expected a NumPy array"),
    "number as Unary": (lambda d, m: d.setUnary(3), "u: expected a Unary.*setUnaryEnergy"),
    "float64 const": (lambda d, m: m.ConstUnary(U.astype(float)), "u: expected float32"),
    "no features": (lambda d, m: m.LogisticUnary(U, None), "f: expected a NumPy array"),
    "features of another N": (lambda d, m: d.addPairwiseEnergy(POINTS[:, :5].copy(), 1), "features: .*12"),
    "float64 features": (lambda d, m: d.addPairwiseEnergy(POINTS.astype(float), 1), "features: .*float64"),
    "None as features": (lambda d, m: d.addPairwiseEnergy(None, 1), "features: "),
    "features without compat": (lambda d, m: d.addPairwiseEnergy(POINTS), "compat"),
    "list as compat": (lambda d, m: d.addPairwiseGaussian(3, [1, 2]), "compat: .*ascontiguousarray"),
    "float64 compat": (lambda d, m: d.addPairwiseGaussian(3, np.ones(2)), "compat: expected float32"),
    "compat of no axes": (lambda d, m: d.addPairwiseGaussian(3, np.array(3, F4)), "compat: "),
    "compat of 3 axes": (lambda d, m: d.addPairwiseGaussian(3, np.ones((2, 2, 2), F4)), "compat: "),
    "strided compat": (
        lambda d, m: d.addPairwiseGaussian(3, np.ones(4, F4)[::2]),
        "compat: .*contig",
    ),
    "complex compat": (lambda d, m: d.addPairwiseGaussian(3, 1j), "compat: expected a real number"),
    "None as compat": (lambda d, m: d.addPairwiseGaussian(3, None), "compat: "),
    "short sxy": (lambda d, m: d.addPairwiseGaussian((3,), 1), "sxy: expected a number or 2 of them, got 1"),
    "word as sxy": (lambda d, m: d.addPairwiseGaussian("ab", 1), "sxy: "),
    "None as sxy": (lambda d, m: d.addPairwiseGaussian(None, 1), "sxy: "),
    "word as kernel": (lambda d, m: d.addPairwiseGaussian(3, 1, "x"), "kernel: expected an integer"),
    "None as kernel": (lambda d, m: d.addPairwiseGaussian(3, 1, None), "kernel: expected an integer"),
    "word as mode": (lambda d, m: d.addPairwiseGaussian(3, 1, 1, "after"), "normalization: expected"),
    "float image": (
        lambda d, m: d.addPairwiseBilateral(3, 3, IMAGE.astype(float), 1),
        "rgbim: expected uint8",
    ),
    "turned image": (lambda d, m: d.addPairwiseBilateral(3, 3, np.zeros((4, 3, 3), np.uint8), 1), "rgbim: "),
    "grey image": (
        lambda d, m: d.addPairwiseBilateral(3, 3, IMAGE[..., :1].copy(), 1),
        "create_pairwise_bil",
    ),
    "image of 2 axes": (
        lambda d, m: d.addPairwiseBilateral(3, 3, IMAGE[..., 0].copy(), 1),
        "rgbim: .*3 axes",
    ),
    "strided image": (lambda d, m: d.addPairwiseBilateral(3, 3, IMAGE[..., ::-1], 1), "rgbim: .*ascontig"),
    "None as image": (lambda d, m: d.addPairwiseBilateral(3, 3, None, 1), "rgbim: "),
    "short srgb": (lambda d, m: d.addPairwiseBilateral(3, (3, 3), IMAGE, 1), "srgb: .*3 of them, got 2"),
    "no count": (lambda d, m: d.inference(None), "niter: expected an integer"),
    "word as count": (lambda d, m: d.inference("5"), "niter: expected an integer"),
    "word as nvar": (lambda d, m: m.DenseCRF("3", 2), "nvar: expected an integer"),
    "no nlabels": (lambda d, m: m.DenseCRF(3), "nlabels"),
    "array as Q": (lambda d, m: d.klDivergence(U), "Q: expected a MatrixXf.*matrixXf"),
    "array to step": (lambda d, m: d.stepInference(U, U, U), "MatrixXf"),
}


@pytest.mark.parametrize("case", MODEL)
def test_model(case):
    call, words = MODEL[case]
    theirs, mine = (raised(call, m.DenseCRF2D(4, 3, 2), m) for m, *_ in both())
    assert isinstance(mine, type(theirs)), f"expected {theirs!r}, got {mine!r}"
    assert re.search(words, str(mine), re.S), mine


HELPERS = {
    "float matrix": (lambda e, u: e.matrixXf(U.astype(float)), "arr: expected float32"),
    "matrix of 3 axes": (lambda e, u: e.matrixXf(U.reshape(2, 3, 4)), "arr: expected an array with 2"),
    "None as matrix": (lambda e, u: e.matrixXf(None), "arr: "),
    "matrix as vector": (lambda e, u: e.vectorXf(U), "arr: expected an array with 1"),
    "certain": (lambda e, u: u.unary_from_labels(LABELS, 2, 1.0), "gt_prob: expected a probability"),
    "impossible": (lambda e, u: u.unary_from_labels(LABELS, 2, 0), "gt_prob: expected a probability"),
    "one label": (lambda e, u: u.unary_from_labels(LABELS * 0, 1, 0.5), "n_labels: expected at least 2"),
    "label too high": (lambda e, u: u.unary_from_labels(LABELS + 1, 2, 0.5), r"labels: .*1\.\.2 or 0.*got 3"),
    "without unsure": (lambda e, u: u.unary_from_labels(LABELS, 2, 0.5, False), r"labels: .*0\.\.1.*got 2"),
    "float labels": (lambda e, u: u.unary_from_labels(LABELS * 1.0, 2, 0.5), "labels: expected integers"),
    "scale 0": (lambda e, u: u.unary_from_softmax(SOFT, scale=0), "scale: expected a number in"),
    "scale 2": (lambda e, u: u.unary_from_softmax(SOFT, scale=2), "scale: expected a number in"),
    "number as sdims": (lambda e, u: u.create_pairwise_gaussian(3, (4, 5)), "sdims: expected one bandwidth"),
    "long sdims": (lambda e, u: u.create_pairwise_gaussian((3, 3, 3), (4, 5)), "sdims: expected 2"),
    "long sdims of image": (lambda e, u: u.create_pairwise_bilateral((3,) * 3, 1, IMAGE, 2), "sdims: "),
    "long schan": (lambda e, u: u.create_pairwise_bilateral((3, 3), (1,) * 4, IMAGE, 2), "schan: expected 3"),
    "no such axis": (lambda e, u: u.create_pairwise_bilateral((3, 3), 1, IMAGE, 3), "axis"),
}


@pytest.mark.parametrize("case", HELPERS)
def test_helpers(case):
    call, words = HELPERS[case]
    theirs, mine = (raised(call, matrices, helpers) for _, matrices, helpers in both())
    assert isinstance(mine, type(theirs)), f"expected {theirs!r}, got {mine!r}"
    assert re.search(words, str(mine), re.S), mine


NAN, INF = np.float32("nan"), np.float32("inf")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda d: d.setUnaryEnergy(U * NAN), "u: .*24 that are NaN or -inf"),
        (lambda d: d.setUnaryEnergy(U - INF), "u: .*NaN or -inf"),
        (lambda d: d.setUnaryEnergy(U + INF), "u: .*12 pixels with .inf for all.*np.clip"),
        (lambda d: d.addPairwiseGaussian(0, 1), "sxy: expected positive finite"),
        (lambda d: d.addPairwiseGaussian((3, NAN), 1), "sxy: expected positive finite"),
        (lambda d: d.addPairwiseBilateral(3, (1, 0, 1), IMAGE, 1), "srgb: expected positive finite"),
        (lambda d: d.addPairwiseEnergy(POINTS + NAN, 1), "features: expected finite"),
        (lambda d: d.addPairwiseEnergy(POINTS + 1e9, 1), "features: expected magnitudes"),
        (lambda d: d.addPairwiseEnergy(np.zeros((0, 12), np.float32), 1), "features: expected shape"),
        (lambda d: d.addPairwiseGaussian(3, NAN), "compat: expected finite"),
        (lambda d: d.addPairwiseGaussian(3, np.array([1, NAN])), "compat: "),
        (lambda d: d.addPairwiseGaussian(3, np.ones(3, np.float32)), r"compat: .*\(2,\) or \(2, 2\).*\(3,\)"),
        (lambda d: d.addPairwiseGaussian(3, np.ones((2, 3), np.float32)), "compat: "),
        (lambda d: d.addPairwiseGaussian(3, 1, 7), "kernel: expected one of CONST_KERNEL = 0"),
        (lambda d: d.addPairwiseGaussian(3, 1, 1, 9), "normalization: expected one of NO_NORM.*got 9"),
        (lambda d: d.setUnary(ours.ConstUnary(U[:1].copy())), r"u: .*\(2, 12\)"),
        (lambda d: ours.LogisticUnary(U, U), "f: expected as many rows as L has columns, 12"),
        (lambda d: ours.DenseCRF(0, 2), "nvar: expected at least 1"),
        (lambda d: ours.DenseCRF2D(4, 3, 0), "nlabels: expected at least 1"),
        (lambda d: d.klDivergence(eigen.MatrixXf()), r"Q: expected shape \(2, 12\), got \(0, 0\)"),
        (lambda d: utils.create_pairwise_gaussian((3,), (4, 5)), "sdims: expected 2 bandwidths"),
        (lambda d: utils.unary_from_labels(LABELS - 1, 2, 0.5), "labels: .*got -1"),
    ],
)
def test_input_that_crashes_the_original_or_gives_nonsense(call, words):
    crf = ours.DenseCRF2D(4, 3, 2)
    with pytest.raises((ValueError, IndexError)) as caught:
        call(crf)
    assert re.search(words, str(caught.value), re.S), caught.value
    crf.setUnaryEnergy(U)  # a rejected call leaves the model unchanged
    np.testing.assert_allclose(np.array(crf.inference(3)).sum(0), 1, atol=1e-6)
    np.testing.assert_array_equal(np.array(crf.inference(3)), np.array(crf.inference(0)))
