# SPDX-License-Identifier: MIT
"""`refine`: the layer's result on one picture, for all input types."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from crfrnn import CRFRNN, Segmenter
from crfrnn.inference.refine import refine

IMAGE = np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8)


@pytest.fixture
def crf() -> CRFRNN:
    return CRFRNN(3, theta_alpha=5.0, theta_beta=60.0, bilateral_method="exact").eval()


def test_labels_and_probabilities_are_those_of_the_layer(crf: CRFRNN) -> None:
    unary = torch.randn(3, 7, 9)
    picture = torch.from_numpy(IMAGE).permute(2, 0, 1)
    found = refine(IMAGE, unary, crf)
    with torch.no_grad():
        logits = crf(unary[None], picture[None])[0]
    assert np.array_equal(found.labels, logits.argmax(0).numpy())
    assert np.allclose(found.probabilities, logits.softmax(0).numpy())
    assert np.array_equal(found.before, unary.argmax(0).numpy())
    assert found.changed == (found.before != found.labels).mean()
    for same in (picture, picture.float(), IMAGE[:, ::-1][:, ::-1]):
        assert np.array_equal(refine(same, unary, crf).labels, found.labels)


def test_no_iterations_change_nothing_and_ties_go_down(crf: CRFRNN) -> None:
    found = refine(IMAGE, torch.zeros(3, 7, 9), crf, iterations=0)
    assert not found.labels.any() and found.changed == 0.0
    assert np.allclose(found.probabilities, 1 / 3)


def test_clamped_pixels_keep_their_label(crf: CRFRNN) -> None:
    clamp = torch.full((7, 9), -1)
    clamp[2, 3], clamp[5, 5] = 2, 1
    unary = torch.zeros(3, 7, 9)
    unary[0] = 9.0
    labels = refine(IMAGE, unary, crf, clamp=clamp).labels
    assert (labels[2, 3], labels[5, 5]) == (2, 1)


@pytest.mark.parametrize("labels", [1, 2])
def test_one_logit_gives_the_labels_0_and_1(labels: int) -> None:
    z = 3 * torch.randn(1, 7, 9)
    both = torch.cat([torch.zeros_like(z), z])
    crf = CRFRNN(labels, theta_alpha=5.0, theta_beta=60.0).eval()
    found, wanted = refine(IMAGE, z, crf), refine(IMAGE, both, CRFRNN(2, 5.0, 60.0).eval())
    assert np.array_equal(found.before, (z[0] > 0).numpy())
    assert np.array_equal(found.labels, wanted.labels) and found.labels.max() == 1
    assert np.array_equal(found.probabilities, wanted.probabilities)
    assert np.array_equal(refine(IMAGE, both, crf).labels, wanted.labels)


@pytest.mark.parametrize(
    ("image", "unary", "named"),
    [
        (IMAGE.astype(np.float32), torch.zeros(3, 7, 9), "image: expected uint8"),
        (IMAGE[..., 0], torch.zeros(3, 7, 9), "image: expected uint8"),
        (torch.zeros(1, 3, 7, 9), torch.zeros(3, 7, 9), "image: expected a tensor"),
        (IMAGE, torch.zeros(1, 3, 7, 9), "unary: expected a tensor"),
        (IMAGE, np.zeros((3, 7, 9)), "unary: expected a tensor"),
        (IMAGE, torch.zeros(3, 9, 7), "image: expected"),
        (IMAGE, torch.zeros(4, 7, 9), "unary: expected 3 labels"),
        (IMAGE, torch.full((3, 7, 9), float("nan")), "unary: expected"),
    ],
)
def test_bad_input_is_named(crf: CRFRNN, image: Any, unary: Any, named: str) -> None:
    with pytest.raises(ValueError, match=f"^{named}"):
        refine(image, unary, crf)


@pytest.mark.parametrize("other", [None, CRFRNN, Segmenter(torch.nn.Conv2d(3, 3, 1), CRFRNN(3))])
def test_other_objects_than_layers_are_refused(other: Any) -> None:
    with pytest.raises(TypeError, match=r"^crf: expected a CRFRNN, got .*; from a Segmenter take its \.crf"):
        refine(np.zeros((4, 5, 3), np.uint8), torch.zeros(3, 4, 5), other)
