# SPDX-License-Identifier: MIT
"""The adjustable numbers of the page, and the CRF built from them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from crfrnn.crf import CRFRNN
from crfrnn.crf.presets import PRESETS


@dataclass(frozen=True)
class Knob:
    """One number: the argument of `CRFRNN`, its title and meaning on the page, its range."""

    name: str
    title: str
    meaning: str
    low: float
    high: float
    step: float

    @property
    def option(self) -> str:
        """The command's option.

        >>> KNOBS[0].option
        '--theta-alpha'
        """
        return "--" + self.name.replace("_", "-")


KNOBS = (
    Knob(
        "theta_alpha", "How far colour reaches · θα",
        "Pixels. Pixels of one colour influence each other over about this distance.", 1, 300, 0.1,
    ),
    Knob(
        "theta_beta", "Which colours count as equal · θβ",
        "Steps of 0..255. Smaller: weaker edges stop the labels.", 0.5, 100, 0.1,
    ),
    Knob(
        "theta_gamma", "How far smoothing reaches · θγ",
        "Pixels. Neighbours influence each other over this distance, whatever their colour.", 0.1, 20, 0.1,
    ),
    Knob(
        "bilateral_weight", "Weight of colour",
        "Larger: pixels of one colour count more, relative to the first labels.", -5, 30, 0.1,
    ),
    Knob(
        "spatial_weight", "Weight of smoothing", "Larger: smoother borders, fewer small spots.", -5, 30, 0.1,
    ),
    Knob("iterations", "Iterations · T", "Number of updates of all labels. 0: the first labels.", 0, 15, 1),
)  # fmt: skip
THETAS = ("theta_alpha", "theta_beta", "theta_gamma")
WEIGHTS = ("bilateral_weight", "spatial_weight")
Numbers = Mapping[str, float]  # a number for each knob, by its name


def checked(values: tuple[float, ...]) -> dict[str, float]:
    """Validate the numbers from the page, by name.

    Raises: ValueError for another count, or a number out of its range.
    """
    if len(values) != len(KNOBS):
        raise ValueError(f"numbers: expected {len(KNOBS)}, got {len(values)}; load the page again")
    out: dict[str, float] = {}
    for knob, value in zip(KNOBS, values, strict=True):
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not knob.low <= value <= knob.high
        ):
            raise ValueError(f"{knob.name}: expected {knob.low:g}..{knob.high:g}, got {value!r}")
        out[knob.name] = int(value) if knob.step == 1 else float(value)
    return out


def numbers_of(crf: CRFRNN) -> dict[str, float]:
    """The numbers of a layer for the page: means over axes, channels and labels, rounded to a step.

    >>> numbers_of(CRFRNN(3, theta_beta=5.61))["theta_beta"]
    5.6
    """
    exact = {name: float(_log(crf, name).mean().exp()) for name in THETAS}
    exact |= {name: float(_diagonal(crf, name).mean()) for name in WEIGHTS}
    exact["iterations"] = crf.steps
    return {k.name: _on_grid(k, min(max(exact[k.name], k.low), k.high)) for k in KNOBS}


def preset_numbers(name: str) -> dict[str, float]:
    """The numbers of a preset of `crfrnn.crf.presets`."""
    return {knob.name: getattr(PRESETS[name], knob.name) for knob in KNOBS}


# Only presets with the normalisation of the layer's defaults, so that their weights have the same meaning.
PAGE_PRESETS = tuple(
    name for name, preset in PRESETS.items() if preset.normalization == PRESETS["default"].normalization
)


def tuned(base: CRFRNN, numbers: Numbers) -> CRFRNN:
    """A copy of the layer `base` with the changed numbers.

    Bandwidths of several axes or channels keep their ratios; weights of several labels keep their
    differences: the number is their mean. Unchanged numbers keep the layer's values, to the last bit.
    """
    crf, own = copy.deepcopy(base).eval(), numbers_of(base)
    changed = {name: value for name, value in numbers.items() if value != own[name]}
    with torch.no_grad():
        for name in changed.keys() & set(THETAS):
            log = _log(crf, name)
            wanted = torch.tensor(changed[name], dtype=log.dtype).log()
            log.copy_(wanted if log.numel() == 1 else log - log.mean() + wanted)
        for name in changed.keys() & set(WEIGHTS):
            weights = _diagonal(crf, name)
            weights += changed[name] - weights.mean()
    if "iterations" in changed:
        crf.iterations, crf.eval_iterations = int(changed["iterations"]), None
    return crf


def _log(crf: CRFRNN, name: str) -> Tensor:
    return getattr(crf, f"log_{name}").detach()


def _diagonal(crf: CRFRNN, name: str) -> Tensor:
    """The diagonal as a view: writing to it changes the layer."""
    weights = getattr(crf, f"{name}s").detach()
    return weights.diagonal() if weights.ndim == 2 else weights


def _on_grid(knob: Knob, value: float) -> float:
    return round(value) if knob.step == 1 else round(value, 1)
