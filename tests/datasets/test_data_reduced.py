# SPDX-License-Identifier: MIT
"""Pictures and truths at a smaller size, against formulas."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from crfrnn.datasets import ReducedUnaries, Source, folder_pictures, prepare, reduced
from crfrnn.io import write_label_png
from crfrnn.training import read_sets
from crfrnn.training.recipe import Data, Recipe, SourceChoice, Stage


def picture(root: Path, name: str, image: np.ndarray, mask: np.ndarray) -> None:
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(root / "images" / f"{name}.png")
    write_label_png(root / "masks" / f"{name}.png", mask)


def ramp(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([2 * x, 3 * y, x + y], -1).astype(np.uint8)


def test_labels_by_the_nearest_centre_and_a_ramp_stays_a_ramp(tmp_path: Path) -> None:
    mask = np.random.default_rng(0).integers(0, 5, (60, 90)).astype(np.uint8)
    mask[4, 7] = 255
    picture(tmp_path, "a", ramp(60, 90), mask)
    item = reduced(folder_pictures(tmp_path, num_labels=5), 30)[0]
    # A third of the side: each new pixel's centre is the middle one of 3 × 3 old ones.
    assert np.array_equal(item.mask, mask[1::3, 1::3])
    assert item.mask[1, 2] == 255
    wanted = ramp(60, 90)[1::3, 1::3].astype(int)
    inner = (slice(2, -2), slice(2, -2))  # the filter is cut off at the border
    assert np.abs(item.image[inner].astype(int) - wanted[inner]).max() <= 1
    image, labels = item.tensors()
    assert image.shape == (3, 20, 30) and labels.shape == (20, 30)
    assert np.array_equal(pickle.loads(pickle.dumps(item)).mask, item.mask)  # it is sent to workers


def test_it_is_antialiased(tmp_path: Path) -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    picture(tmp_path, "a", stripes, np.zeros((64, 64), np.uint8))
    small = reduced(folder_pictures(tmp_path, num_labels=1), 16)[0].image
    assert small.shape == (16, 16, 3) and np.abs(small[:, 2:-2].astype(int) - 127).max() <= 8


def test_unaries_are_reduced_as_the_picture_is(tmp_path: Path) -> None:
    picture(tmp_path, "a", ramp(60, 90), np.zeros((60, 90), np.uint8))
    found = folder_pictures(tmp_path, num_labels=3)
    asked: list[tuple[int, int]] = []

    def logits(name: str, size: tuple[int, int]) -> torch.Tensor:
        asked.append(size)
        return torch.from_numpy(found[0].image).permute(2, 0, 1).float()  # the picture itself

    unary = ReducedUnaries(logits, found)("a", (20, 30))
    assert asked == [(60, 90)] and unary.shape == (3, 20, 30)
    small = reduced(found, 30)[0].image.astype(float).transpose(2, 0, 1)
    assert np.abs(unary.numpy() - small).max() <= 0.51  # Pillow rounds
    assert torch.equal(ReducedUnaries(logits, found)("a", (60, 90)), logits("a", (60, 90)))


def test_small_pictures_and_the_order_are_unchanged(tmp_path: Path) -> None:
    for name, size in (("b", (9, 30)), ("a", (40, 20))):
        picture(tmp_path, name, ramp(*size), np.zeros(size, np.uint8))
    before = folder_pictures(tmp_path, num_labels=1)
    after = reduced(before, 30)
    assert after.ids == before.ids and after.class_names == before.class_names
    shapes = {item.id: item.image.shape[:2] for item in after}
    assert shapes == {"a": (30, 15), "b": (9, 30)}
    assert np.array_equal(after.select(["b"])[0].image, before.select(["b"])[0].image)
    with pytest.raises(ValueError, match="at least 8"):
        reduced(before, 7)


def test_a_recipe_can_request_it(tmp_path: Path) -> None:
    for part, seed in (("train", 1), ("val", 2)):
        mask = np.random.default_rng(seed).integers(0, 3, (32, 48)).astype(np.uint8)
        picture(tmp_path / part, f"{part}-1", ramp(32, 48) + seed, mask)
    options = {"num_labels": 3}
    sources = {p: SourceChoice("folder", str(tmp_path / p), None, options) for p in ("train", "val")}
    data = Data(train={"train": (sources["train"],)}, val=(sources["val"],), leaks="ignore", long_side=24)
    sets = read_sets(Recipe("r", data=data, stages=(Stage("s"),)))
    assert sets.val is not None
    whole = prepare(*([Source("folder", tmp_path / p, None, options)] for p in ("train", "val")),
                    leaks="ignore")  # fmt: skip
    for small, large in ((sets.train["train"], whole.train), (sets.val, whole.val)):
        assert small[0].mask.shape == small[0].image.shape[:2] == (16, 24)
        assert np.array_equal(small[0].mask, reduced(large, 24)[0].mask)
