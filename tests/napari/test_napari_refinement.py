# SPDX-License-Identifier: MIT
"""What the napari plugin computes, without napari, against the functions for pictures and volumes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from crfrnn import CRFRNN
from crfrnn.inference import refine, refine_volume
from crfrnn.inference.interact import segment_scribbles
from crfrnn.io.scores import unary_from_labels
from crfrnn.lattice import Lattice
from crfrnn.napari import Request, Session, default_preset, refine_arrays

RNG = np.random.default_rng(0)
PHOTO = RNG.integers(0, 256, (24, 30, 3), dtype=np.uint8)
GREY = RNG.uniform(-3, 7, (24, 30))
VOLUME = RNG.uniform(-3, 7, (6, 9, 8))
SETTINGS: dict[str, Any] = {
    "theta_alpha": 20.0, "theta_beta": 40.0, "theta_gamma": 2.0, "spatial_weight": 2.0,
    "bilateral_weight": 4.0, "iterations": 3,
}  # fmt: skip


def probabilities(*shape: int) -> NDArray[np.float32]:
    return torch.from_numpy(RNG.normal(size=shape)).softmax(0).float().numpy()


def test_a_photograph_is_refined_as_by_refine() -> None:
    p = probabilities(3, 24, 30)
    expected = refine(PHOTO, torch.from_numpy(p.clip(1e-5)).log(), CRFRNN(3, **SETTINGS))
    for scores in (p, np.moveaxis(p, 0, -1), list(p)):
        found = refine_arrays(PHOTO, scores, rgb=True, kind="probabilities", **SETTINGS)
        assert np.array_equal(found.labels, expected.labels)
        assert np.array_equal(found.before, expected.before)
        np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-6)
    with_alpha = np.concatenate([PHOTO, PHOTO[..., :1]], -1)
    again = refine_arrays(with_alpha, p, rgb=True, kind="probabilities", **SETTINGS)
    assert np.array_equal(again.labels, expected.labels)
    assert not np.array_equal(expected.labels, expected.before)


def test_contrast_limits_become_0_and_255() -> None:
    p = probabilities(2, 24, 30)
    guide = ((GREY + 1) * 255 / 6).clip(0, 255)
    expected = refine(torch.from_numpy(guide)[None].float(), torch.from_numpy(p).log(), CRFRNN(2, **SETTINGS))
    found = refine_arrays(GREY, p, kind="probabilities", limits=(-1, 5), **SETTINGS)
    assert np.array_equal(found.labels, expected.labels) and found.changed > 0


@pytest.mark.parametrize(("dtype", "top"), [("uint8", 255), ("uint16", 65535), ("float32", 1), ("bool", 1)])
def test_without_limits_the_range_of_the_dtype_counts(dtype: str, top: int) -> None:
    p, values = probabilities(2, 24, 30), PHOTO[..., 0] > 99 if dtype == "bool" else PHOTO[..., 0] / 255
    given = (values * top).astype(dtype)
    guide = torch.from_numpy(given.astype(np.float64) * 255 / top).float()[None]
    expected = refine(guide, torch.from_numpy(p).log(), CRFRNN(2, **SETTINGS))
    found = refine_arrays(given, p, kind="probabilities", **SETTINGS)
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-4)


@pytest.mark.parametrize("kind", ["probabilities", "logits", "labels"])
def test_a_volume_is_refined_as_by_refine_volume(kind: str) -> None:
    p = probabilities(3, 6, 9, 8)
    scores = {"probabilities": p, "logits": np.log(p), "labels": 10 * p.argmax(0) + 4}[kind]
    spacing = (3.0, 0.5, 0.7)
    expected = refine_volume(VOLUME, scores, spacing, kind=kind, scale=(-1, 5), **SETTINGS)
    found = refine_arrays(VOLUME, scores, spacing=spacing, kind=kind, limits=(-1, 5), **SETTINGS)
    assert np.array_equal(found.labels, expected.labels)
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-6)
    assert set(np.unique(found.labels)) <= ({4, 14, 24} if kind == "labels" else {0, 1, 2})


def test_the_spacing_of_an_image_divides_lengths_per_axis() -> None:
    p = probabilities(2, 24, 30)
    layer = CRFRNN(2, **{**SETTINGS, "theta_alpha": (40.0, 10.0), "theta_gamma": (4.0, 1.0)})  # x, y
    expected = refine(PHOTO, torch.from_numpy(p).log(), layer)
    found = refine_arrays(PHOTO, p, spacing=(2.0, 0.5), rgb=True, kind="probabilities", **SETTINGS)
    assert np.array_equal(found.labels, expected.labels)


def test_strokes_keep_their_labels_and_may_bring_new_ones() -> None:
    labels = np.where(PHOTO[..., 0] > 127, 7, 0)
    strokes = np.zeros((24, 30), np.int32)
    strokes[2, 3:9], strokes[5, 3:9], strokes[9, 3:9] = 7, 12, 100
    found = refine_arrays(PHOTO, labels, strokes, rgb=True, gt_prob=0.8, background=100, **SETTINGS)
    places = np.searchsorted([0, 7, 12], labels)
    clamp = np.full((24, 30), -1)
    clamp[2, 3:9], clamp[5, 3:9], clamp[9, 3:9] = 1, 2, 0
    unary = unary_from_labels(torch.from_numpy(places), 3, gt_prob=0.8)
    expected = refine(PHOTO, unary, CRFRNN(3, **SETTINGS), clamp=torch.from_numpy(clamp))
    assert np.array_equal(found.labels, np.array([0, 7, 12])[expected.labels])
    assert set(found.labels[strokes > 0]) == {0, 7, 12}
    nothing = refine_arrays(PHOTO, labels, 0 * strokes, rgb=True, **SETTINGS)
    assert np.array_equal(nothing.labels, refine_arrays(PHOTO, labels, rgb=True, **SETTINGS).labels)


def test_strokes_alone_are_completed_by_their_colours() -> None:
    picture = np.zeros((24, 30, 3), np.uint8)
    picture[:, 12:] = 200
    strokes = np.zeros((24, 30), np.uint8)
    strokes[3, 2:6], strokes[20, 20:24] = 3, 5
    found = refine_arrays(picture, scribbles=strokes, rgb=True, **SETTINGS)
    expected = segment_scribbles(
        picture, np.select([strokes == 3, strokes == 5], [0, 1], -1), crf=CRFRNN(2, **SETTINGS)
    )
    assert np.array_equal(found.labels, np.array([3, 5])[expected.labels])
    assert (found.labels == np.where(picture[..., 0] > 0, 5, 3)).all()
    grey = refine_arrays(
        np.repeat(picture[None, ..., 0], 3, 0), scribbles=np.stack([strokes] * 3), **SETTINGS
    )
    assert (grey.labels == found.labels).all() and grey.labels.shape == (3, 24, 30)


def test_the_rest_of_one_array_per_label_is_the_background() -> None:
    p = probabilities(3, 24, 30)
    whole = refine_arrays(PHOTO, p, rgb=True, kind="probabilities", **SETTINGS)
    found = refine_arrays(PHOTO, [p[1], p[2]], rgb=True, kind="probabilities", **SETTINGS)
    np.testing.assert_allclose(found.probabilities, whole.probabilities, atol=1e-5)
    single = refine_arrays(PHOTO, p[0], rgb=True, kind="probabilities", **SETTINGS)
    assert single.probabilities.shape == (2, 24, 30)


def test_a_session_builds_a_lattice_only_for_another_guide_or_other_bandwidths(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    built: list[int] = []
    build = Lattice.of_checked

    def counting(*arguments: object) -> Lattice:
        built.append(1)
        return build(*arguments)

    monkeypatch.setattr(Lattice, "of_checked", staticmethod(counting))
    session, labels = Session(), np.where(VOLUME > 2, 1, 0)
    for changed, lattices in (
        ({}, 1), ({"gt_prob": 0.9}, 1), ({"spatial_weight": 7.0}, 1), ({"iterations": 6}, 1),
        ({"limits": (0.0, 5.0)}, 2), ({"theta_alpha": 3.0}, 3), ({"theta_alpha": 3.0, "iterations": 0}, 3),
    ):  # fmt: skip
        wanted = {"limits": (-1.0, 5.0), **SETTINGS, **changed}
        own = {name: wanted.pop(name) for name in ("limits", "gt_prob") if name in wanted}
        preset = default_preset((1, 1, 1)).but(**wanted)
        found = session(Request(VOLUME, (1, 1, 1), preset, (labels,), **own))
        assert len(built) == lattices, changed
        fresh = refine_arrays(VOLUME, labels, **wanted, **own)
        del built[lattices:]
        assert np.array_equal(found.labels, fresh.labels), changed


def test_a_session_can_be_cancelled_between_two_steps() -> None:
    request = Request(PHOTO, (1, 1), default_preset((1, 1)), (PHOTO[..., 0] // 128,), rgb=True)
    steps = Session().steps(request)
    assert [next(steps), next(steps)] == ["reading the layers", "building the lattice"]
    steps.close()


def test_the_defaults_are_counted_in_pixels() -> None:
    assert default_preset((1, 1))[:3] == (34.0, 5.6, 1.0)
    assert default_preset((0.5, 0.25))[:3] == (8.5, 5.6, 0.25)
    assert default_preset((2.0, 2.0, 2.0))[:3] == (8.0, 12.0, 2.0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"image": np.zeros(5)}, r"image: expected \[H, W\] or \[Z, Y, X\], got \(5,\)"),
        ({"image": np.zeros((5, 4, 2)), "rgb": True}, r"image: expected \[H, W, 3\]"),
        ({"image": GREY.astype(complex)}, "image: expected real numbers, got complex128"),
        ({"scores": np.zeros((5, 4), int)}, r"expected labels \[24, 30\]"),
        ({"scores": [np.zeros((24, 30), int)] * 2}, "scores: expected one map of labels, got 2"),
        ({"scores": np.zeros((3, 3, 24)), "kind": "logits"}, r"scores: expected \(24, 30\) as the image has"),
        ({"scores": [np.zeros((24, 30)), np.zeros(3)], "kind": "logits"}, "got (3,); resample"),
        ({"scores": np.full((24, 30), 7.0), "kind": "probabilities"}, "probabilities, numbers in 0..1"),
        ({}, "strokes of at least two labels in scribbles, got 0 painted labels"),
        ({"scribbles": np.full((24, 30), 0.5)}, "scribbles: expected whole numbers"),
        ({"scribbles": np.full((24, 30), -2)}, "scribbles: expected 0 = free or a label, got -2"),
        (
            {"scores": np.full((2, 24, 30), 0.5), "kind": "probabilities", "scribbles": np.full((24, 30), 2)},
            "scribbles: expected labels 0..1 as in the scores, got 2",
        ),
        (
            {"scores": np.full((24, 30), 9), "scribbles": np.ones((24, 30), int), "background": 9},
            "background: expected a number other than the labels, got 9",
        ),
        ({"scores": np.zeros((24, 30), int), "spacing": (1.0,)}, "spacing: expected 2 numbers"),
        ({"scores": np.zeros((24, 30), int), "spacing": (1.0, -1.0)}, "spacing: expected a positive number"),
        ({"scores": np.zeros((24, 30), int), "limits": (3.0, 3.0)}, "scale: expected two finite numbers"),
    ],
)  # fmt: skip
def test_errors_say_what_was_expected(given: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError)) as error:
        refine_arrays(**{"image": GREY, **given})
    assert message.replace("\\", "") in str(error.value)
