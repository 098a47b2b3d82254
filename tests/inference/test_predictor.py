# SPDX-License-Identifier: MIT
"""Predictor: equivalent input types, restored sizes, respected clamps, informative errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import crfrnn.inference
import crfrnn.models.pretrained
from colour_network import NAMES, colour_segmenter, flag, nearest, save_colours
from crfrnn import CRFRNN, Predictor, Segmenter
from crfrnn.inference import default_checkpoint, packaged_checkpoints
from crfrnn.inference.pictures import Picture
from crfrnn.models import FCN8s, LiteFPN, Preprocessing

FLAG = flag()


ALPHA = np.dstack([FLAG, np.full(FLAG.shape[:2], 255, np.uint8)])
KINDS: dict[str, Picture] = {
    "array": FLAG,
    "pillow": Image.fromarray(FLAG),
    "cmyk": Image.fromarray(FLAG).convert("CMYK"),
    "palette": Image.fromarray(FLAG).quantize(4),
    "sixteen bits": FLAG.astype(np.uint16) * 257,
    "alpha": ALPHA,
    "tensor": torch.from_numpy(FLAG).permute(2, 0, 1),
    "float tensor": torch.from_numpy(FLAG).permute(2, 0, 1).double(),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("crf", [False, True])
def test_one_picture_in_any_form_has_one_result(kind: str, crf: bool) -> None:
    found = Predictor(colour_segmenter(4.0), use_crf=crf)(KINDS[kind])
    assert found.crf is crf and found.labels.dtype == np.uint8
    np.testing.assert_array_equal(found.labels, nearest(FLAG))
    counts = np.bincount(nearest(FLAG).ravel(), minlength=4)
    assert [(a.name, a.pixels) for a in found.areas] == list(zip(NAMES, counts, strict=True))


def test_transparency_becomes_white_and_grey_stays_grey() -> None:
    predictor = Predictor(colour_segmenter(4.0), use_crf=False)
    hidden = ALPHA.copy()
    hidden[:, :7, 3] = 0
    assert (predictor(hidden).labels[:, :7] == 1).all()
    grey = np.where(np.arange(30) < 11, 20, 230).astype(np.uint8)[None].repeat(5, 0)
    for form in (grey, grey[..., None], grey.astype(np.uint16) * 257, torch.from_numpy(grey)[None]):
        assert predictor(form).labels[0].tolist() == [0] * 11 + [1] * 19


def test_the_crf_is_the_segmenters_own_and_can_be_turned_off() -> None:
    rng = np.random.default_rng(0)
    noisy = (FLAG + rng.normal(0, 60, FLAG.shape)).clip(0, 255).astype(np.uint8)
    segmenter = colour_segmenter(0.3)
    batch = torch.from_numpy(noisy).permute(2, 0, 1)[None]
    with torch.no_grad():
        refined, plain = segmenter(batch, iterations=3)[0], segmenter.unary(batch)[0]
    predictor = Predictor(segmenter, iterations=3)
    found = predictor(noisy, probabilities=True)
    assert found.probabilities is not None
    np.testing.assert_array_equal(found.labels, refined.argmax(0).numpy())
    np.testing.assert_allclose(found.probabilities, refined.softmax(0).numpy(), atol=1e-6)
    off = predictor(noisy, use_crf=False)
    np.testing.assert_array_equal(off.labels, plain.argmax(0).numpy())
    assert (off.labels != found.labels).any() and not off.crf and off.as_dict()["crf"] is False


def test_ties_go_to_the_lower_label() -> None:
    network = nn.Conv2d(3, 5, 1)
    nn.init.zeros_(network.weight)
    with torch.no_grad():
        network.bias.copy_(torch.tensor([0.0, 2.0, 1.0, 2.0, 2.0]))  # pyright: ignore[reportOptionalMemberAccess]
    assert (Predictor(Segmenter(network))(FLAG.repeat(9, 0)).labels == 1).all()


class BrightRed(nn.Module):
    """One channel for a sigmoid: positive where the picture is red."""

    preprocessing = Preprocessing((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return (values[:, :1] - 128) / 32


@pytest.mark.parametrize("tile", [None, 16])
def test_one_channel_is_background_and_foreground(tile: int | None) -> None:
    picture = np.zeros((20, 40, 3), np.uint8)
    picture[:, 17:, 0] = 255
    picture[5, 30], picture[8, 3] = (120, 0, 0), (140, 0, 0)  # two pixels that the network misclassifies
    segmenter = Segmenter(BrightRed(), CRFRNN(1, theta_beta=80.0), class_names=["red"])
    assert segmenter(torch.from_numpy(picture).permute(2, 0, 1)[None]).shape == (1, 1, 20, 40)
    found = Predictor(segmenter, tile=tile)(picture, probabilities=True)
    want = np.zeros((20, 40), np.uint8)
    want[:, 17:] = 1
    assert np.array_equal(found.labels, want)
    assert [area.name for area in found.areas] == ["background", "red"]
    assert found.probabilities is not None
    np.testing.assert_allclose(found.probabilities.sum(0), 1, atol=1e-5)
    plain = Predictor(segmenter, use_crf=False)(picture)
    assert (plain.labels[5, 30], plain.labels[8, 3]) == (0, 1)
    held = np.full((20, 40), -1)
    held[:, :9] = 1
    assert (Predictor(segmenter)(picture, clamp=held).labels[:, :9] == 1).all()
    with pytest.raises(ValueError, match="overlap"):
        Predictor(Segmenter(BrightRed(), CRFRNN(1, activation="sigmoid")))


def test_large_pictures_are_segmented_downscaled_and_enlarged_again() -> None:
    large = FLAG.repeat(5, 0).repeat(5, 1)
    found = Predictor(colour_segmenter(4.0), long_side=60, use_crf=False)(large, probabilities=True)
    assert found.labels.shape == large.shape[:2] and found.probabilities is not None
    truth = nearest(large)
    inside = np.ones(truth.shape, bool)
    for axis in (0, 1):  # one small pixel corresponds to three large ones
        for step in range(-5, 6):
            inside &= np.roll(truth, step, axis) == truth
    np.testing.assert_array_equal(found.labels[inside], truth[inside])
    np.testing.assert_allclose(found.probabilities.sum(0), 1, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"long_side": 12}, {"tile": 16, "overlap": 8}])
def test_clamped_pixels_keep_and_propagate_their_label(options: dict[str, int]) -> None:
    clamp = np.full(FLAG.shape[:2], -1)
    clamp[2::4, 3:30] = 3
    held = clamp == 3
    predictor = Predictor(colour_segmenter(0.02), **options)
    found = predictor(FLAG, clamp=clamp, probabilities=True)
    assert (found.labels[held] == 3).all() and found.probabilities is not None
    assert (found.probabilities[3][held] == 1).all()
    others = ~held
    assert (found.labels[others] == 3).sum() > (predictor(FLAG).labels[others] == 3).sum() + 20


@pytest.mark.parametrize("network", [LiteFPN(21, channels=8), FCN8s(21, widths=(2,) * 5, hidden=3)])
@pytest.mark.parametrize("size", [(1, 1), (1, 50), (33, 2)])
def test_pictures_of_any_size_pass_the_real_networks(network: nn.Module, size: tuple[int, int]) -> None:
    found = Predictor(Segmenter(network))(np.zeros((*size, 3), np.uint8))
    assert found.labels.shape == size and found.areas[0].share == 1


def test_a_checkpoint_is_found_by_path_by_name_and_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "checkpoints"
    monkeypatch.setattr(crfrnn.models.pretrained, "CHECKPOINTS", home)
    assert packaged_checkpoints() == ()
    with pytest.raises(ValueError, match=r"^checkpoint: .*contains no checkpoint; name a folder"):
        default_checkpoint()
    save_colours(home / "colours")
    (home / "__pycache__").mkdir()
    for given in (None, "colours", home / "colours", home / "colours" / "model.safetensors"):
        found = Predictor.from_pretrained(given, iterations=1)(FLAG)
        np.testing.assert_array_equal(found.labels, nearest(FLAG))
    save_colours(home / "other")
    with pytest.raises(ValueError, match=r"^checkpoint: expected one of colours, other, got none"):
        Predictor.from_pretrained()


def test_checkpoints_of_the_package_load_and_segment() -> None:
    for name in packaged_checkpoints():
        found = Predictor.from_pretrained(name)(FLAG)
        assert found.labels.shape == FLAG.shape[:2] and found.class_names


BAD = FLAG.astype(np.float32)


@pytest.mark.parametrize(
    ("picture", "error", "says"),
    [
        (BAD, TypeError, "picture: expected an array of uint8"),
        (FLAG.transpose(2, 0, 1), ValueError, "channels come last"),
        (FLAG[:0], ValueError, "at least one pixel"),
        (torch.from_numpy(FLAG), ValueError, "channels come first"),
        (torch.from_numpy(BAD).permute(2, 0, 1) / 255, ValueError, "multiply by 255"),
        (torch.full((3, 4, 4), float("nan")), ValueError, r"0\.\.255"),
        (torch.zeros(1, 3, 4, 4), ValueError, r"picture\[0\]"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), TypeError, "use .float"),
        ([1, 2], TypeError, "got list"),
        ("nowhere.png", ValueError, "nowhere.png"),
    ],
)
def test_invalid_pictures_are_refused(picture: Picture, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        Predictor(colour_segmenter())(picture)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"iterations": -1}, ValueError), ({"iterations": 1.5}, TypeError), ({"long_side": 0}, ValueError),
        ({"tile": 4}, ValueError), ({"overlap": -1}, ValueError), ({"memory": 0}, ValueError),
        ({"overlap": 1.5}, TypeError),
    ],
)  # fmt: skip
def test_numbers_out_of_range_are_named(options: dict[str, object], error: type[Exception]) -> None:
    with pytest.raises(error, match=f"^{next(iter(options))}: expected"):
        Predictor(colour_segmenter(), **options)  # pyright: ignore[reportArgumentType]


def test_damaged_weights_and_wrong_clamps_are_refused() -> None:
    segmenter = colour_segmenter()
    for clamp, error in (
        (np.full((3, 3), -1), ValueError), (np.full(FLAG.shape[:2], 255, np.uint8), TypeError),
        (np.full(FLAG.shape[:2], 4), ValueError), (np.full(FLAG.shape[:2], -2), ValueError),
    ):  # fmt: skip
        with pytest.raises(error, match=r"^clamp: expected"):
            Predictor(segmenter)(FLAG, clamp=clamp)
    with pytest.raises(TypeError, match=r"^segmenter: expected a Segmenter, got Conv2d"):
        Predictor(nn.Conv2d(3, 2, 1))  # pyright: ignore[reportArgumentType]
    next(segmenter.network.parameters()).data.fill_(float("nan"))
    with pytest.raises(ValueError, match="its weights are damaged"):
        Predictor(segmenter, use_crf=False)(FLAG)


def test_a_checkpoint_is_used_at_the_size_of_its_training(tmp_path: Path) -> None:
    from crfrnn.models import build_network

    network = build_network("test-colours", sharpness=1.0)
    Segmenter(network, class_names=NAMES, long_side=18).save_pretrained(tmp_path / "small")
    small = Predictor.from_pretrained(tmp_path / "small")
    assert small.long_side == 18 and small(FLAG).labels.shape == FLAG.shape[:2]
    assert Predictor.from_pretrained(tmp_path / "small", long_side=None).long_side == 18
    assert Predictor.from_pretrained(tmp_path / "small", long_side=30).long_side == 30
