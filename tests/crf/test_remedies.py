# SPDX-License-Identifier: MIT
"""Remedies of errors, followed literally: expressions are extracted from the message and run."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch import Tensor

from crfrnn import CRFRNN
from crfrnn.io import read_image, read_unary

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
LABELS, SIZE = 4, (9, 7)
UNARY = torch.randn(2, LABELS, *SIZE, generator=torch.Generator().manual_seed(1))
IMAGE = torch.rand(2, 3, *SIZE, generator=torch.Generator().manual_seed(2)) * 255
EXPRESSION = re.compile(r"\b(?:unary|image)\.\w+\([^()]*\)(?:\.\w+\([^()]*\))*")


def refine(unary: Tensor, image: Tensor) -> Tensor:
    return CRFRNN(LABELS).eval()(unary, image).detach()


def message(call: Callable[[], Any]) -> str:
    with pytest.raises((ValueError, TypeError)) as caught:
        call()
    assert "; " in str(caught.value)
    return str(caught.value).split("; ", 1)[1]


GREY = IMAGE[:, 0]
AXES: dict[str, tuple[Tensor, Tensor, Tensor]] = {
    "no batch axis": (UNARY[0], IMAGE[:1], refine(UNARY[:1], IMAGE[:1])),
    "no batch axis of the image": (UNARY[:1], IMAGE[0], refine(UNARY[:1], IMAGE[:1])),
    "no batch axis of both": (UNARY[0], IMAGE[0], refine(UNARY[:1], IMAGE[:1])),
    "channels last": (UNARY, IMAGE.movedim(1, -1), refine(UNARY, IMAGE)),
    "labels last": (UNARY.movedim(1, -1), IMAGE, refine(UNARY, IMAGE)),
    "as numpy has both": (UNARY[0].movedim(0, -1), IMAGE[0].movedim(0, -1), refine(UNARY[:1], IMAGE[:1])),
    "width before height": (UNARY.transpose(-2, -1), IMAGE, refine(UNARY, IMAGE)),
    "grey without channels": (UNARY, GREY, refine(UNARY, GREY[:, None])),
    "one grey picture": (UNARY[:1], GREY[0], refine(UNARY[:1], GREY[:1, None])),
    "one picture without an axis for the batch": (
        UNARY,
        IMAGE[0],
        refine(UNARY, IMAGE[:1].expand(2, -1, -1, -1)),
    ),
    "one picture for the batch": (UNARY, IMAGE[:1], refine(UNARY, IMAGE[:1].expand(2, -1, -1, -1))),
}


@pytest.mark.parametrize("case", AXES)
def test_axes_that_do_not_fit(case: str) -> None:
    unary, image, expected = AXES[case]
    names: dict[str, Tensor] = {"unary": unary, "image": image}
    found = EXPRESSION.findall(message(lambda: refine(unary, image)))
    assert found
    for expression in found:
        names[expression.split(".")[0]] = eval(expression, dict(names))
    assert torch.equal(refine(names["unary"], names["image"]), expected)


def test_another_size_is_resized() -> None:
    small = UNARY[..., :5, :4]
    told = message(lambda: refine(small, IMAGE))
    expression = re.search(r"torch\.nn\.functional\.interpolate\(unary, size=\([\d, ]+\), mode='\w+'\)", told)
    assert expression
    grown = eval(expression[0], {"torch": torch, "unary": small})
    assert refine(grown, IMAGE).shape == UNARY.shape


def test_another_number_of_pictures() -> None:
    assert message(lambda: refine(UNARY[:1], IMAGE)) == "give one picture"
    assert (
        message(lambda: refine(UNARY, IMAGE.repeat(2, 1, 1, 1)))
        == "give one picture for each of the 2 unaries"
    )


def test_another_number_of_labels() -> None:
    wrong = torch.zeros(2, 5, *SIZE)
    expression = re.search(r"CRFRNN\(5", message(lambda: refine(wrong, IMAGE)))
    assert expression
    assert eval(f"{expression[0]})", {"CRFRNN": CRFRNN})(wrong, IMAGE).shape == wrong.shape


@pytest.mark.parametrize("value", [math.nan, 200.0, -30.0], ids=["NaN", "huge", "tiny"])
@pytest.mark.parametrize("name", ["alpha", "beta", "gamma"])
def test_bandwidths_that_diverged_in_training(name: str, value: float) -> None:
    """The parameter is named, and the line in the message sets it to the package's default."""
    crf = CRFRNN(LABELS, spatial_method="lattice").eval()
    with torch.no_grad():
        getattr(crf, f"log_theta_{name}").fill_(value)
    with pytest.raises(ValueError, match=f"^log_theta_{name}: expected") as caught:
        crf(UNARY, IMAGE)
    line = re.search(r"crf\.log_theta_\w+\.data\.fill_\([-\d.]+\)", str(caught.value))
    assert line
    exec(line[0], {"crf": crf})
    usual = CRFRNN(LABELS, spatial_method="lattice").eval()
    assert torch.allclose(crf(UNARY, IMAGE), usual(UNARY, IMAGE), atol=0.02)


@pytest.mark.parametrize("name", ["spatial_weights", "bilateral_weights", "compatibility", "log_temperature"])
def test_parameters_that_became_nan_in_training(name: str) -> None:
    crf = CRFRNN(LABELS, temperature=1.0).eval()
    with torch.no_grad():
        getattr(crf, name).fill_(math.nan)
    with pytest.raises(ValueError, match=f"^{name}: expected .* got .*nan.* earlier epoch"):
        crf(UNARY, IMAGE)


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
@pytest.mark.parametrize("axes", ["lhw", "whl"])
def test_a_unary_of_pixels_rotated_by_exif(tmp_path: Path, orientation: int, axes: str) -> None:
    """The scores are the picture itself, so that after the remedy they must equal the upright picture."""
    stored = np.random.default_rng(0).integers(0, 255, (6, 9, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / "a.png", exif=exif)
    image = read_image(tmp_path / "a.png")
    assert (image == np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "a.png")))).all()
    unary = stored.astype(np.float32).transpose(["hwl".index(a) for a in axes])
    name, size = tmp_path / "a.npy", (image.shape[0], image.shape[1])

    def read(values: np.ndarray) -> np.ndarray:
        np.save(name, values)
        found = read_unary(name, kind="logits", axes=axes, size=size, picture=tmp_path / "a.png")
        return found.logits.numpy()

    told = message(lambda: read(unary))
    assert f"EXIF orientation {orientation}" in told and "axes='" not in told
    expression = re.search(r"rotate it, (numpy\..*?), or save", told)
    assert expression
    turned = eval(expression[1], {"numpy": np, "unary": unary})
    assert (read(turned) == image.transpose(2, 0, 1)).all()


@pytest.mark.parametrize("wrong", ["lwh", "hwl"])
def test_another_order_of_axes_in_a_file(tmp_path: Path, wrong: str) -> None:
    values = UNARY[0].numpy()
    np.save(tmp_path / "a.npy", values)
    options: dict[str, Any] = {"kind": "logits", "size": SIZE, "num_labels": LABELS}
    told = message(lambda: read_unary(tmp_path / "a.npy", axes=wrong, **options))
    found = re.findall(r"axes='(\w+)'", told)
    assert found == ["lhw"]
    assert (read_unary(tmp_path / "a.npy", axes=found[0], **options).logits.numpy() == values).all()


PHOTO = np.random.default_rng(3).integers(0, 256, (6, 5, 3), dtype=np.uint8)
GREY_PHOTO = np.repeat(PHOTO[..., :1], 3, axis=2)
PICTURES: dict[str, tuple[np.ndarray, np.ndarray]] = {
    "0..1": (PHOTO / 255, PHOTO),
    "0..1 in float32": ((PHOTO / 255).astype(np.float32), PHOTO),
    "float64": (PHOTO.astype(float), PHOTO),
    "int64": (PHOTO.astype(np.int64), PHOTO),
    "16 bits": (PHOTO.astype(np.uint16) * 257, PHOTO),
    "12 bits": (np.maximum(PHOTO.astype(np.uint16), 17) * 16, np.maximum(PHOTO, 17)),
    "channels first": (np.ascontiguousarray(PHOTO.transpose(2, 0, 1)), PHOTO),
    "channels first in 0..1": (PHOTO.transpose(2, 0, 1) / 255, PHOTO),
    "a batch of one": (PHOTO[None], PHOTO),
    "BGR turned round": (PHOTO[..., ::-1], PHOTO[..., ::-1]),
    "grey": (PHOTO[..., 0].copy(), GREY_PHOTO),
    "grey with an axis": (PHOTO[..., :1].copy(), GREY_PHOTO),
    "with alpha": (np.concatenate([PHOTO, PHOTO[..., :1]], -1), PHOTO),
}


@pytest.mark.parametrize("case", PICTURES)
def test_pictures_given_to_the_pydensecrf_interface(case: str) -> None:
    """The expression in the message restores the photograph."""
    from crfrnn.compat.pydensecrf import densecrf

    rgbim, expected = PICTURES[case]
    crf = densecrf.DenseCRF2D(5, 6, 2)
    told = message(lambda: crf.addPairwiseBilateral(3, 3, rgbim, 1))
    expression = re.search(r"use (np\.ascontiguousarray\(.*\))(?=$|, or)", told)
    assert expression
    found = eval(expression[1], {"np": np, "rgbim": rgbim})
    assert found.dtype == np.uint8 and (found == expected).all()
    crf.addPairwiseBilateral(3, 3, found, 1)


def test_height_before_width_in_the_pydensecrf_interface() -> None:
    from crfrnn.compat.pydensecrf import densecrf

    told = message(lambda: densecrf.DenseCRF2D(6, 5, 2).addPairwiseBilateral(3, 3, PHOTO, 1))
    expression = re.search(r"DenseCRF2D\(\d+, \d+, nlabels\)", told)
    assert expression
    crf = eval(expression[0], {"DenseCRF2D": densecrf.DenseCRF2D, "nlabels": 2})
    crf.addPairwiseBilateral(3, 3, PHOTO, 1)
