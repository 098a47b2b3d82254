# SPDX-License-Identifier: MIT
"""Segmenter: what networks return, preprocessing and guide, padding, files, the Hub without a network."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crfrnn import CRFRNN, Segmenter
from crfrnn.models import (
    CAFFE,
    CAFFE_GUIDE,
    IMAGENET,
    FCN8s,
    LiteFPN,
    Preprocessing,
)

SMALL = {"widths": (2, 2, 2, 2, 2), "hidden": 3}


class Answers(nn.Module):
    """Logits at a quarter of the size, in the form that `wrap` gives them."""

    def __init__(self, wrap: Callable[[Tensor], Any], labels: int = 3) -> None:
        super().__init__()
        self.score, self.wrap = nn.Conv2d(3, labels, 4, stride=4), wrap
        self.seen: list[Tensor] = []

    def forward(self, picture: Tensor) -> Any:
        self.seen.append(picture)
        return self.wrap(self.score(picture))


class Output(dict):  # like transformers' ModelOutput: a mapping with attributes
    @property
    def logits(self) -> Tensor:
        return self["logits"]


FORMS: dict[str, Callable[[Tensor], Any]] = {
    "tensor": lambda x: x,
    "torchvision": lambda x: {"out": x, "aux": x + 1},
    "mapping": lambda x: {"loss": x.sum(), "logits": x},
    "transformers": lambda x: Output(logits=x),
    "object": lambda x: SimpleNamespace(logits=x),
}


def picture(batch: int = 1, height: int = 20, width: int = 28) -> Tensor:
    return torch.randint(256, (batch, 3, height, width), dtype=torch.uint8)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_logits_meets_the_crf(form: str) -> None:
    network, crf, image = Answers(FORMS[form]), CRFRNN(3), picture(2)
    got = Segmenter(network, crf)(image)
    normalised = (image.float() / 255 - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor(
        [0.229, 0.224, 0.225]
    )[:, None, None]
    torch.testing.assert_close(network.seen[0], normalised, atol=1e-5, rtol=1e-5)
    unary = F.interpolate(network.score(normalised), (20, 28), mode="bilinear", align_corners=False)
    torch.testing.assert_close(got, crf(unary, image), atol=1e-3, rtol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(Segmenter(network)(image), unary, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(Segmenter(network, crf)(image, iterations=0), unary, atol=1e-4, rtol=1e-4)


def test_real_toolkits_where_they_are() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.SegformerConfig(
        num_encoder_blocks=2, depths=[1, 1], sr_ratios=[2, 1], hidden_sizes=[4, 8],
        num_attention_heads=[1, 2],
        patch_sizes=[7, 3], strides=[4, 2], mlp_ratios=[2, 2], decoder_hidden_size=8, num_labels=3,
    )  # fmt: skip
    model = transformers.SegformerForSemanticSegmentation(config)
    assert Segmenter(model, CRFRNN(3))(picture(1, 64, 48)).shape == (1, 3, 64, 48)


def test_preprocessing_follows_the_network_unless_given() -> None:
    network = FCN8s(3, **SMALL)
    segmenter = Segmenter(network)
    assert segmenter.preprocessing == CAFFE
    network.preprocessing = IMAGENET
    assert segmenter.preprocessing == IMAGENET
    assert Segmenter(network, preprocessing=CAFFE).preprocessing == CAFFE
    assert Segmenter(nn.Conv2d(3, 2, 1)).preprocessing == IMAGENET
    red = torch.tensor([255.0, 0, 0]).reshape(1, 3, 1, 1)
    assert CAFFE_GUIDE(red).flatten().tolist() == pytest.approx([-103.939, -116.779, 255 - 123.68], abs=1e-4)


def test_multiple_pads_with_the_mean_colour_and_crops() -> None:
    network, image = Answers(FORMS["tensor"]), picture(1, 21, 30)
    wanted = Preprocessing((10.0, 20.0, 30.0), multiple=8)
    with torch.no_grad():
        got = Segmenter(network, preprocessing=wanted).unary(image)
    seen = network.seen[0]
    assert seen.shape == (1, 3, 24, 32) and bool((seen[:, :, 21:] == 0).all() and (seen[..., 30:] == 0).all())
    full = F.interpolate(network.score(seen), (24, 32), mode="bilinear", align_corners=False)
    torch.testing.assert_close(got, full[:, :, :21, :30])


def test_padding_does_not_change_the_result() -> None:
    """With a 1×1 receptive field, the mask must remove any influence of the padding, for any values in it."""
    segmenter = Segmenter(nn.Conv2d(3, 3, 1), CRFRNN(3))
    alone, filled = picture(1, 12, 15).float(), torch.full((1, 3, 20, 22), float("nan"))
    filled[:, :, :12, :15] = alone
    mask = torch.zeros(1, 20, 22, dtype=torch.bool)
    mask[:, :12, :15] = True
    got = segmenter(filled, mask=mask)
    torch.testing.assert_close(got[:, :, :12, :15], segmenter(alone), atol=1e-4, rtol=1e-4)
    assert bool(torch.isfinite(got).all())


def test_gradients_reach_network_and_crf() -> None:
    segmenter = Segmenter(LiteFPN(3), CRFRNN(3))
    logits = segmenter(picture(2, 24, 32))
    F.cross_entropy(logits, torch.randint(3, (2, 24, 32))).backward()
    for name in (
        "network.encoder.stem.weight",
        "network.score.weight",
        "crf.compatibility",
        "crf.bilateral_weights",
    ):
        gradient = segmenter.get_parameter(name).grad
        assert (
            gradient is not None and bool(torch.isfinite(gradient).all()) and float(gradient.abs().sum()) > 0
        )


def test_under_autocast_the_crf_stays_in_single_precision() -> None:
    segmenter, image = Segmenter(nn.Conv2d(3, 3, 1), CRFRNN(3)), picture(1, 24, 32)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert segmenter.network(segmenter.preprocessing(image)).dtype == torch.bfloat16
        got = segmenter(image)
    assert got.dtype == torch.float32
    with torch.no_grad():
        torch.testing.assert_close(got, segmenter(image), atol=0.1, rtol=0.1)


def test_refusals_name_the_argument() -> None:
    network = nn.Conv2d(3, 3, 1)
    with pytest.raises(TypeError, match=r"network: .*Module.* got str"):
        Segmenter("fcn")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="crf: expected a CRFRNN or None"):
        Segmenter(network, network)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="class_names: expected 3"):
        Segmenter(network, CRFRNN(3), class_names=["a"])
    with pytest.raises(ValueError, match=r"picture\[None\]"):
        Segmenter(network)(picture()[0])
    with pytest.raises(TypeError, match="picture: expected float or uint8"):
        Segmenter(network)(picture().long())
    with pytest.raises(TypeError, match="mask: expected a bool"):
        Segmenter(network)(picture(), mask=torch.ones(1, 20, 28))
    with pytest.raises(ValueError, match="crf=None"):
        Segmenter(network)(picture(), iterations=3)
    with pytest.raises(TypeError, match="got dict with 'aux'"):
        Segmenter(Answers(lambda x: {"aux": x}))(picture())
    with pytest.raises(ValueError, match=r"expected logits \[B, L, h, w\]"):
        Segmenter(Answers(lambda x: x[0]))(picture())
    with pytest.raises(ValueError, match="5 labels"):
        Segmenter(network, CRFRNN(5))(picture())
    with pytest.raises(ValueError, match="std: expected three numbers above 0"):
        Preprocessing(std=(1, 0, 1))
    with pytest.raises(ValueError, match="order: expected 'rgb' or 'bgr'"):
        Preprocessing(order="rbg")
