# SPDX-License-Identifier: MIT
"""The guard names the component that produced a non-finite value."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from crfrnn.models import Segmenter
from crfrnn.training.guard import Guard, NotFinite, finite
from crfrnn.training.train import build_segmenter, read_sets, train
from toy_training import make, one_stage


def nan_in(name: str) -> Callable[[Segmenter], None]:
    def spoil(segmenter: Segmenter) -> None:
        with torch.no_grad():
            dict(segmenter.named_parameters())[name].view(-1)[0] = float("nan")

    return spoil


def hooked(part: str, change: Callable[[Tensor], Tensor]) -> Callable[[Segmenter], None]:
    def spoil(segmenter: Segmenter) -> None:
        module = segmenter.network if part == "network" else segmenter.crf
        assert isinstance(module, nn.Module)
        module.register_forward_hook(lambda _module, _inputs, output: change(output))

    return spoil


class _BadGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, values: Tensor) -> Tensor:
        return values.clone()

    @staticmethod
    def backward(ctx: object, *grads: Tensor) -> Tensor:
        return grads[0] * float("inf")


CASES = [
    ("parameter", r"network\.4\.bias", nan_in("network.4.bias")),
    ("parameter", r"crf\.bilateral_weights", nan_in("crf.bilateral_weights")),
    ("unary", r"the unary of p\d", hooked("network", lambda x: x / 0)),
    ("CRF", r"the CRF of p\d", hooked("crf", lambda x: x * float("nan"))),
    ("loss", "the loss of", hooked("crf", lambda x: x * 1e37)),
    ("gradient", r"the gradient of network\.0\.weight", hooked("network", _BadGradient.apply)),
]


@pytest.mark.parametrize(("culprit", "named", "spoil"), CASES, ids=[case[0] for case in CASES])
def test_the_origin_of_a_nan_is_named(
    tmp_path: Path, culprit: str, named: str, spoil: Callable[[Segmenter], None]
) -> None:
    loss = "sum" if culprit == "loss" else "mean"
    recipe = make(tmp_path, stages=one_stage(epochs=1, loss=loss, batch=2))
    segmenter = build_segmenter(recipe, 3)
    spoil(segmenter)
    with pytest.raises(NotFinite, match=named) as caught:
        train(recipe, tmp_path / "out", start=segmenter, trainer={"accelerator": "cpu"})
    assert caught.value.culprit == culprit
    assert "batch 0 of epoch 0" in str(caught.value)


def test_broken_data_are_named(tmp_path: Path) -> None:
    recipe = make(tmp_path, stages=one_stage(epochs=1))
    sets = read_sets(recipe)
    guard = Guard([], sets.num_labels)
    image = torch.zeros(2, 3, 4, 4)
    image[1, 0, 0, 0] = float("inf")
    with pytest.raises(NotFinite, match=r"picture b, here"):
        guard.data(("a", "b"), image, torch.zeros(2, 4, 4, dtype=torch.long), "here")
    with pytest.raises(ValueError, match=r"expected 0\.\.2 or 255, got 7"):
        guard.data(("a",), image[:1], torch.full((1, 4, 4), 7), "here")


def test_large_but_finite_values_pass() -> None:
    assert finite(torch.full((9,), 3e38)) and finite(torch.tensor([], dtype=torch.float32))
    assert not finite(torch.tensor([float("inf"), -float("inf")]))
