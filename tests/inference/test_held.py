# SPDX-License-Identifier: MIT
"""A held picture gives the results of a full inference; only a change of bandwidths rebuilds the lattice."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from crfrnn import CRFRNN, Predictor, Segmenter
from crfrnn.inference import Held, refine
from crfrnn.lattice import Lattice


@pytest.fixture
def image() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (24, 30, 3), dtype=np.uint8)


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Record one entry per lattice built."""
    counted: list[int] = []
    build = Lattice.of_checked

    def counting(*arguments: object) -> Lattice:
        counted.append(1)
        return build(*arguments)

    monkeypatch.setattr(Lattice, "of_checked", staticmethod(counting))
    return counted


def test_only_other_bandwidths_build_another_lattice(image: NDArray[np.uint8], builds: list[int]) -> None:
    held, unary = Held(image), torch.randn(3, 24, 30)
    wanted = {"theta_alpha": 20.0, "theta_beta": 30.0, "theta_gamma": 2.0}
    for changed, lattices in (
        ({}, 1), ({"spatial_weight": 9.0}, 1), ({"bilateral_weight": 2.0}, 1), ({"iterations": 9}, 1),
        ({"theta_alpha": 9.0}, 2), ({"theta_alpha": 9.0, "iterations": 2}, 2), ({"theta_beta": 7.0}, 3),
        ({"quality": "high"}, 4), ({"iterations": 0}, 4),
    ):  # fmt: skip
        crf = CRFRNN(3, **{**wanted, **changed})
        found = refine(held, unary, crf)
        kept = len(builds)
        fresh = refine(image, unary, crf)
        assert kept == lattices, changed
        del builds[kept:]
        assert np.array_equal(found.labels, fresh.labels)
        assert np.array_equal(found.probabilities, fresh.probabilities)


def test_steps_are_the_labels_of_so_many_iterations(image: NDArray[np.uint8]) -> None:
    unary, crf = torch.randn(1, 24, 30), CRFRNN(1, theta_beta=40.0, iterations=4, temperature=2.0)
    clamp = torch.full((24, 30), -1)
    clamp[3:5] = 1
    for known in (None, clamp):
        found = list(Held(image).steps(unary, crf, clamp=known))
        for iterations, labels in enumerate(found):
            fresh = refine(image, unary, crf, iterations=iterations, clamp=known)
            assert np.array_equal(labels, fresh.labels)
        assert iterations == 4 and not np.array_equal(found[0], found[4])
    assert np.array_equal(next(Held(image).steps(unary, crf)), (unary[0] > 0).numpy())


def test_one_logit_continues_from_earlier_iterations(image: NDArray[np.uint8]) -> None:
    unary, crf = torch.randn(1, 24, 30), CRFRNN(1, theta_beta=40.0, iterations=3)
    held = Held(image)
    half = held.logits(unary, crf, iterations=2)
    found = held.logits(unary, crf, iterations=1, initial=half)
    assert torch.allclose(found, held.logits(unary, crf), atol=1e-5)


@pytest.mark.parametrize("long_side", [None, 17])
def test_a_held_picture_equals_its_predictor_for_any_crf(
    image: NDArray[np.uint8], long_side: int | None
) -> None:
    network = torch.nn.Conv2d(3, 4, 3, padding=1)
    seen = Predictor(Segmenter(network), long_side=long_side).see(image)
    for crf in (CRFRNN(4, theta_beta=40.0), CRFRNN(4, theta_beta=90.0, bilateral_weight=8.0)):
        expected = Predictor(Segmenter(network, crf), long_side=long_side)(image, probabilities=True)
        found = seen(crf, probabilities=True)
        assert np.array_equal(found.labels, expected.labels) and found.labels.dtype == expected.labels.dtype
        assert np.array_equal(found.before, expected.before)
        assert np.array_equal(found.probabilities, expected.probabilities)
        assert np.array_equal(seen.at(crf, 30).labels, expected.labels)
        assert seen.at(crf, 17).probabilities.shape == (4, 14, 17)


def test_a_held_picture_refuses_invalid_pictures() -> None:
    with pytest.raises(ValueError, match="image: expected a tensor"):
        Held(torch.zeros(1, 3, 4, 4))
    with pytest.raises(ValueError, match="image: expected uint8"):
        Held(np.zeros((4, 4, 3)))
    with pytest.raises(ValueError, match=r"image: expected"):
        refine(Held(np.zeros((4, 4, 3), np.uint8)), torch.zeros(2, 5, 5), CRFRNN(2))
