# SPDX-License-Identifier: MIT
"""Tiled results against the untiled picture."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn import datasets as samples

from crfrnn import CRFRNN
from crfrnn.inference import refine_tiles
from crfrnn.inference.guide import Guide, shared_directions
from crfrnn.inference.memory import crf_pixel, smallest, tile_within
from crfrnn.io import AsLogits, InMemory

LABELS = 4


def photograph() -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """UInt8[3, 427, 640] of a real photograph, and noisy logits of its brightness."""
    image = samples.load_sample_image("china.jpg")
    bright = image.astype(int).sum(2) * LABELS // 766
    noise = np.random.default_rng(0).standard_normal((LABELS, *bright.shape))
    return np.ascontiguousarray(image.transpose(2, 0, 1)), (
        2 * np.eye(LABELS)[bright].transpose(2, 0, 1) + noise
    ).astype(np.float32)


class Sheet:
    """Collect the output; every pixel may be written only once."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.labels = np.full(shape[1:], -1)
        self.p = np.full(shape, np.nan, np.float32)

    def write(self, top: int, left: int, labels: Any, p: Any, valid: Any) -> None:
        part = slice(top, top + labels.shape[0]), slice(left, left + labels.shape[1])
        assert (self.labels[part] == -1).all()
        self.labels[part], self.p[:, part[0], part[1]] = labels, p


def crf_of(**more: Any) -> CRFRNN:
    numbers = {"theta_alpha": 15.0, "theta_beta": 6.0, "theta_gamma": 2.0, "iterations": 5, **more}
    return CRFRNN(LABELS, **numbers).eval()


def whole(
    crf: CRFRNN,
    image: NDArray[Any],
    unary: NDArray[np.float32],
    origin: tuple[int, int] | None = None,
) -> NDArray[np.float32]:
    with torch.no_grad():
        logits = crf(torch.from_numpy(unary)[None], torch.from_numpy(image)[None], origin=origin)
    return softmax(logits[0].numpy(), 0)


@pytest.mark.slow
def test_tiles_equal_the_whole_picture_within_the_stated_tolerance() -> None:
    image, unary = photograph()
    crf, sheet = crf_of(), Sheet(unary.shape)
    done = refine_tiles(InMemory(image), InMemory(unary), crf, sheet.write, tile=256)
    truth = whole(crf, image, unary)
    assert done.tiles == 9 and done.overlap == 45 and done.side == 256
    assert np.abs(sheet.p - truth).mean() < 1e-4  # docs/big-pictures.md
    assert (sheet.labels == truth.argmax(0)).mean() > 0.9998
    assert np.allclose(sheet.p.sum(0), 1, atol=1e-5)
    assert done.changed == pytest.approx((sheet.labels != unary.argmax(0)).mean())


def test_fading_and_common_positions_are_what_makes_them_equal() -> None:
    image, unary = photograph()
    crf = crf_of()
    truth = whole(crf, image, unary)
    narrow = Sheet(unary.shape)
    refine_tiles(InMemory(image), InMemory(unary), crf, narrow.write, tile=216, overlap=2)
    assert np.abs(narrow.p - truth).mean() > 2e-4
    # Far from its edges a tile equals the whole picture only if it uses the picture's coordinates.
    part = slice(96, 352), slice(64, 320)
    inner = slice(100, 156), slice(100, 156)
    wanted = truth[:, part[0], part[1]][:, inner[0], inner[1]]
    there, anywhere = (
        whole(crf, image[:, part[0], part[1]], unary[:, part[0], part[1]], origin)[:, inner[0], inner[1]]
        for origin in ((96, 64), None)
    )
    assert np.abs(there - wanted).mean() < 0.1 * np.abs(anywhere - wanted).mean()


@pytest.mark.slow
def test_one_tile_is_the_picture_itself() -> None:
    image, unary = photograph()
    image, unary = image[:, 150:190, 200:250], unary[:, 150:190, 200:250]
    for crf in (crf_of(temperature=1.3), crf_of(bilateral_method="exact", exclude_self=True)):
        sheet = Sheet(unary.shape)
        assert refine_tiles(InMemory(image), InMemory(unary), crf, sheet.write).tiles == 1
        assert np.abs(sheet.p - whole(crf, image, unary)).max() < 1e-5


def test_pixels_without_data_send_nothing() -> None:
    class Holed(InMemory):
        def valid(self, rows: slice, columns: slice) -> NDArray[np.bool_]:
            return hole[rows, columns]

    image, unary = photograph()
    image, unary = image[:, :200, :300], unary[:, :200, :300]
    hole = np.ones((200, 300), bool)
    hole[:, 100:180] = False
    other = unary.copy()
    other[:, ~hole] = np.nan
    sheets = Sheet(unary.shape), Sheet(unary.shape)
    for sheet, scores in zip(sheets, (unary, other), strict=True):
        refine_tiles(Holed(image), InMemory(scores), crf_of(theta_alpha=5.0), sheet.write, tile=128)
    assert np.array_equal(sheets[0].p[:, hole], sheets[1].p[:, hole])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tile": 128}, "tile: expected at least 256 pixels for an overlap of 45"),
        ({"memory": 100}, "memory: expected at least"),
        ({"memory": -1}, "memory: expected MiB"),
        ({"overlap": -1}, "overlap: expected"),
        ({"unary": InMemory(np.zeros((4, 9, 9), np.float32))}, "unary: expected 427 rows"),
        ({"unary": InMemory(np.zeros((3, 427, 640), np.float32)), "tile": 256}, "unary: expected 4 labels"),
        ({"logits": AsLogits("probabilities"), "tile": 256}, "pass kind='logits'"),
    ],
)
def test_refusals_name_the_argument(change: dict[str, Any], words: str) -> None:
    image, unary = photograph()
    arguments = {"image": InMemory(image), "unary": InMemory(unary), "crf": crf_of(), **change}
    with pytest.raises(ValueError, match=words):
        refine_tiles(write=lambda *_: None, **arguments)


def test_a_larger_budget_gives_larger_tiles_and_is_never_exceeded() -> None:
    def side(memory: float, vertices: float, overlap: int) -> int:
        needs = {"held": 128, "least": smallest(overlap), "most": 4096}
        return tile_within(memory, (30_000, 30_000), crf_pixel(21, vertices), 21, overlap, **needs)

    sides = [side(memory, 2.0, 174) for memory in (2048, 4096, 8192)]
    assert sides == sorted(set(sides)) and sides[0] >= 4 * 174
    with pytest.raises(ValueError, match="allow more, or a smaller overlap"):
        side(512, 2.0, 174)
    assert (side(2048, 1.5, 102), side(4096, 1.5, 102)) == (1184, 1760)  # docs/big-pictures.md
    with pytest.raises(ValueError, match="expected at least 649 MiB"):
        side(512, 1.5, 102)


def test_scores_are_read_as_the_given_kind() -> None:
    p = np.array([[[0.25]], [[0.75]]], np.float32)
    assert torch.allclose(AsLogits("probabilities")(p).exp(), torch.from_numpy(p))
    hard = AsLogits("labels", 3, 0.8)(np.array([[[2, 255]]], np.uint8)).exp()
    assert torch.allclose(hard[:, 0], torch.tensor([[0.1, 1 / 3], [0.1, 1 / 3], [0.8, 1 / 3]]))
    with pytest.raises(ValueError, match="num_labels"):
        AsLogits("labels")
    with pytest.raises(ValueError, match="one whole number per pixel"):
        AsLogits("labels", 3)(p)


def test_black_and_white_is_reported_over_the_whole_picture() -> None:
    """A single tile of only 0 and 255 is accepted, since another tile may contain labels."""
    image = np.zeros((3, 70, 300), np.uint8)
    white = np.zeros((1, 70, 300), np.uint8)
    white[:, :, 100:] = 255
    crf, sheet = CRFRNN(2, theta_alpha=5.0).eval(), Sheet((2, 70, 300))
    with pytest.raises(ValueError, match="nothing but 0 and 255"):
        refine_tiles(
            InMemory(image), InMemory(white), crf, sheet.write, logits=AsLogits("labels", 2), tile=128
        )
    assert (sheet.labels == -1).all()
    refine_tiles(
        InMemory(image),
        InMemory(white),
        crf,
        sheet.write,
        logits=AsLogits("labels", 2, unknown=255),
        tile=128,
    )
    white[:, 60, 290] = 1
    sheet = Sheet((2, 70, 300))
    refine_tiles(InMemory(image), InMemory(white), crf, sheet.write, logits=AsLogits("labels", 2), tile=128)
    assert (sheet.labels >= 0).all()


def test_one_band_is_a_binary_problem_and_may_have_holes() -> None:
    p = np.array([[[0.2, np.nan], [0.9, 0.5]]], np.float32)
    with pytest.raises(ValueError, match=r"1 NaN.*row 0, column 1"):
        AsLogits("probabilities")(p)
    inside = np.isfinite(p[0])
    found = AsLogits("probabilities")(p, inside).softmax(0).numpy()
    assert np.allclose(found[1][inside], p[0][inside]) and np.isfinite(found).all()
    image, z = photograph()
    image, z = image[:, :80, :90], z[:1, :80, :90]
    crf = CRFRNN(1, theta_alpha=5.0).eval()
    sheet = Sheet((2, 80, 90))
    refine_tiles(InMemory(image), InMemory(z), crf, sheet.write)
    with torch.no_grad():
        wanted = crf(torch.from_numpy(z)[None], torch.from_numpy(image)[None])[0, 0].sigmoid()
    assert np.allclose(sheet.p[1], wanted.numpy(), atol=1e-5)
    z = AsLogits("logits")(np.array([[[-1.5]]], np.float32))
    assert np.allclose(z.softmax(0).numpy().ravel(), [1 / (1 + np.exp(-1.5)), 1 / (1 + np.exp(1.5))])


@pytest.mark.slow
def test_all_tiles_share_the_guide_s_principal_components() -> None:
    """Thirteen bands, three components: equal to the untiled picture with the tiles' principal directions."""
    image, unary = photograph()
    mix = np.random.default_rng(1).uniform(-1, 1, (13, 3))
    bands = np.einsum("cf,fhw->chw", mix, image.astype(np.float32)).astype(np.float32)
    crf = crf_of(guide_components=3)
    directions = shared_directions(crf, Guide(InMemory(bands), lambda piece: piece))
    assert directions is not None and directions.shape == (13, 3)
    sheet = Sheet(unary.shape)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        refine_tiles(InMemory(bands), InMemory(unary), crf, sheet.write, tile=288)
    with torch.no_grad():
        scores, guide = torch.from_numpy(unary)[None], torch.from_numpy(bands)[None]
        expected = crf(scores, guide, guide_components=directions)[0].softmax(0).numpy()
    assert np.abs(sheet.p - expected).mean() < 1e-3
    assert (sheet.labels == expected.argmax(0)).mean() > 0.999
