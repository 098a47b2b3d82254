# SPDX-License-Identifier: MIT
"""The page's sliders and the layer built from them."""

from __future__ import annotations

import math

import pytest
import torch

from crfrnn import CRFRNN
from crfrnn.app.knobs import KNOBS, PAGE_PRESETS, checked, numbers_of, preset_numbers, tuned


def test_unchanged_sliders_keep_their_values_bit_for_bit() -> None:
    base = CRFRNN(4, theta_alpha=(61.03, 40.2), theta_beta=5.678, label_weights="matrix", temperature=1.3)
    with torch.no_grad():
        base.bilateral_weights.add_(torch.randn(4, 4))
    crf = tuned(base, numbers_of(base))
    assert crf is not base
    assert all(torch.equal(crf.state_dict()[name], value) for name, value in base.state_dict().items())
    crf = tuned(base, {**numbers_of(base), "theta_beta": 9.0})
    changed = [name for name, v in base.state_dict().items() if not torch.equal(crf.state_dict()[name], v)]
    assert changed == ["log_theta_beta"]


def test_a_changed_slider_sets_the_value_of_the_layer() -> None:
    base = CRFRNN(3, preset="crfasrnn")
    numbers = {
        "theta_alpha": 50.0, "theta_beta": 7.5, "theta_gamma": 2.5, "bilateral_weight": 1.5,
        "spatial_weight": -1.0, "iterations": 3,
    }  # fmt: skip
    crf, direct = tuned(base, numbers), CRFRNN(3, **numbers)
    assert numbers_of(crf) == numbers and crf.steps == 3
    for name, value in direct.state_dict().items():
        assert torch.allclose(crf.state_dict()[name], value), name


def test_several_axes_keep_their_ratio_and_labels_their_differences() -> None:
    base = CRFRNN(2, theta_alpha=(20.0, 80.0))
    with torch.no_grad():
        base.spatial_weights.copy_(torch.tensor([-3.0, 1.0]))
    assert numbers_of(base)["theta_alpha"] == 40 and numbers_of(base)["spatial_weight"] == -1
    crf = tuned(base, {**numbers_of(base), "theta_alpha": 80.0, "spatial_weight": 2.0})
    assert torch.allclose(crf.log_theta_alpha.exp(), torch.tensor([40.0, 160.0]))
    assert torch.allclose(crf.spatial_weights, torch.tensor([0.0, 4.0]))


def test_the_slider_shows_and_sets_the_evaluation_iterations() -> None:
    base = CRFRNN(2, iterations=1, eval_iterations=10).eval()
    assert numbers_of(base)["iterations"] == 10
    assert tuned(base, {**numbers_of(base), "iterations": 4}).steps == 4


@pytest.mark.parametrize("name", PAGE_PRESETS)
def test_presets_are_within_the_ranges_of_the_sliders(name: str) -> None:
    numbers = preset_numbers(name)
    assert checked(tuple(numbers.values())) == numbers == numbers_of(CRFRNN(2, preset=name))


def test_the_presets_are_those_of_the_layers_normalisation() -> None:
    assert {"default", "deeplab", "crfasrnn"} <= set(PAGE_PRESETS) and "irn" not in PAGE_PRESETS


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -1e9, 1e9, True, "5", None])
def test_values_outside_the_sliders_are_refused(wrong: object) -> None:
    for place, knob in enumerate(KNOBS):
        values = list(preset_numbers("default").values())
        values[place] = wrong
        with pytest.raises(ValueError, match=rf"^{knob.name}: expected "):
            checked(tuple(values))
    with pytest.raises(ValueError, match="numbers: expected 6, got 1"):
        checked((1.0,))
