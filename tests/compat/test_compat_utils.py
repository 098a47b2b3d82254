# SPDX-License-Identifier: MIT
"""crfrnn.compat.pydensecrf.utils: the original's arrays, entry by entry, and the formulas by hand."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from pydensecrf import utils as theirs

from crfrnn.compat.pydensecrf import utils

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 5, (6, 7))
IMAGE = RNG.integers(0, 256, (6, 7, 3)).astype(np.uint8)
VOLUME = RNG.standard_normal((2, 4, 5, 6))
SOFT = np.exp(RNG.standard_normal((4, 6, 7)))
SOFT = (SOFT / SOFT.sum(0)).astype(np.float32)
SOFT[0, 0, 0] = 0

CALLS = {
    "labels": ("unary_from_labels", (LABELS, 4, 0.7), {}),
    "labels int32": ("unary_from_labels", (LABELS.astype(np.int32).T, 9, 0.51), {"zero_unsure": True}),
    "labels sure": ("unary_from_labels", (LABELS, 5, 0.9), {"zero_unsure": False}),
    "labels uint8 sure": ("unary_from_labels", (LABELS.astype(np.uint8), 5, 0.9, False), {}),
    "compute_unary": ("compute_unary", (LABELS, 4), {}),
    "compute_unary GT_PROB": ("compute_unary", (LABELS.ravel(), 4), {"GT_PROB": 0.8}),
    "softmax": ("unary_from_softmax", (SOFT,), {}),
    "softmax float64": ("unary_from_softmax", (SOFT.astype(float),), {"clip": 0.01}),
    "softmax scaled": ("unary_from_softmax", (SOFT, 0.6), {}),
    "softmax unclipped": ("unary_from_softmax", (SOFT[:, 1:],), {"scale": None, "clip": None}),
    "softmax turned": ("unary_from_softmax", (SOFT.transpose(1, 2, 0).copy().transpose(2, 0, 1),), {}),
    "softmax_to_unary": ("softmax_to_unary", (SOFT[:, 1:],), {}),
    "softmax_to_unary GT_PROB": ("softmax_to_unary", (SOFT, 0.8), {}),
    "gaussian": ("create_pairwise_gaussian", ((3, 2.5), (6, 7)), {}),
    "gaussian 3-D": ("create_pairwise_gaussian", (), {"sdims": [1, 2, 3], "shape": [3, 4, 5]}),
    "bilateral": ("create_pairwise_bilateral", ((80, 40), (13, 12, 11), IMAGE), {"chdim": 2}),
    "bilateral number": ("create_pairwise_bilateral", ([80, 40], 13, IMAGE, 2), {}),
    "bilateral grey": ("create_pairwise_bilateral", ((8, 4), (0.1,), IMAGE[..., 0]), {}),
    "bilateral volume": ("create_pairwise_bilateral", ((3, 3, 2), (0.5, 2), VOLUME), {"chdim": 0}),
    "bilateral no channels": ("create_pairwise_bilateral", ((3,) * 4, 0.5, VOLUME), {}),
}


@pytest.mark.parametrize("case", CALLS)
def test_the_originals_arrays(case):
    name, arguments, options = CALLS[case]
    kept = [np.array(a) for a in arguments]
    ours, want = getattr(utils, name)(*arguments, **options), getattr(theirs, name)(*arguments, **options)
    assert type(ours) is np.ndarray and ours.dtype == want.dtype == np.float32
    assert ours.flags.c_contiguous  # the original's is not always contiguous: then setUnaryEnergy refuses it
    np.testing.assert_allclose(ours, want, rtol=2e-6, atol=1e-6)
    for argument, before in zip(arguments, kept, strict=True):
        np.testing.assert_array_equal(argument, before)


def test_formulas_by_hand():
    energy = utils.unary_from_labels(np.array([2, 0, 3]), 3, gt_prob=0.8)
    np.testing.assert_allclose(
        np.exp(-energy), np.array([[0.1, 1 / 3, 0.1], [0.8, 1 / 3, 0.1], [0.1, 1 / 3, 0.8]]), rtol=1e-6
    )
    energy = utils.unary_from_softmax(np.array([[1.0, 0.25], [0.0, 0.75]]), scale=0.5, clip=0.3)
    np.testing.assert_allclose(np.exp(-energy), [[0.75, 0.375], [0.3, 0.625]], rtol=1e-6)
    np.testing.assert_allclose(
        utils.create_pairwise_bilateral((2, 4), (10, 5), np.full((2, 1, 2), 20, np.uint8), chdim=2),
        [[0, 0.5], [0, 0], [2, 2], [4, 4]],
    )


def test_uint8_labels_with_unsure_ones():
    """0 - 1 in 8 bits is 255: the original raises an error."""
    ours = utils.unary_from_labels(LABELS.astype(np.uint8), 4, 0.7)
    np.testing.assert_allclose(ours, theirs.unary_from_labels(LABELS, 4, 0.7), rtol=1e-6)


def test_lists_are_arrays():
    np.testing.assert_array_equal(
        utils.unary_from_labels(LABELS.tolist(), 4, 0.7), utils.unary_from_labels(LABELS, 4, 0.7)
    )
    assert utils.unary_from_softmax([[0.5, 0.5], [0.5, 0.5]]).shape == (2, 2)


def test_old_names_are_deprecated(caplog):
    with caplog.at_level(logging.WARNING):
        utils.compute_unary(LABELS, 4)
        utils.softmax_to_unary(SOFT[:, 1:])
    assert "unary_from_labels" in caplog.messages[0] and "unary_from_softmax" in caplog.messages[1]


def test_missing_bandwidths_count_as_one():
    with pytest.warns(UserWarning, match="schan: expected 3 bandwidths, got 1") as caught:
        ours = utils.create_pairwise_bilateral((3, 4), (10,), IMAGE, 2)
    assert caught[0].filename == __file__
    np.testing.assert_allclose(ours, theirs.create_pairwise_bilateral((3, 4), (10,), IMAGE, 2), rtol=1e-6)
