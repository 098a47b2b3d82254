# SPDX-License-Identifier: MIT
"""Error messages for parameters that training has made unusable: the parameter and the remedy."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from crfrnn.crf.presets import Preset, preset_named
from crfrnn.lattice.validate import RESOLUTION, readable

if TYPE_CHECKING:
    from crfrnn.crf.layer import CRFRNN

Result = TypeVar("Result")


def named(run: Callable[[], Result], which: Callable[[], str | None], values: Tensor) -> Result:
    """Call `run()`; if an argument is rejected because of a parameter, name the parameter in the error."""
    if torch.compiler.is_compiling():
        return run()
    try:
        return run()
    except ValueError as error:
        told = which() if readable(values) and values.numel() else None
        if told is None:
            raise
        raise ValueError(told) from error


def bandwidth(crf: CRFRNN, image: Tensor) -> str | None:
    """The bandwidth for which no kernel can be built and how to reset it, or None for another cause."""
    limit = RESOLUTION / torch.finfo(image.dtype).eps
    spans = (max(image.shape[2:]), float(image.detach().abs().max()), max(image.shape[2:]))
    for name, usual, span in zip(Preset._fields[:3], preset_named(None)[:3], spans, strict=True):
        log = getattr(crf, f"log_{name}").detach()
        least = span / limit
        if bool(((log.exp() > least) & log.exp().isfinite()).all()):
            continue
        return (
            f"log_{name}: expected the logarithm of a finite bandwidth above {least:.2g} (the picture "
            f"spans {span:.4g}), got {log.tolist()}; load the parameters of an earlier epoch, or reset "
            f"it: crf.log_{name}.data.fill_({math.log(usual):.4g}), and train with a lower rate"
        )
    return None


def number(crf: CRFRNN) -> str | None:
    """The weight, compatibility or temperature that makes inference impossible, or None for another cause."""
    for name in ("spatial_weights", "bilateral_weights", "compatibility", "log_temperature"):
        parameter = getattr(crf, name)
        if parameter is None:
            continue
        numbers = parameter.detach()
        expected, usable = "finite numbers", numbers.isfinite()
        if name == "log_temperature":
            expected, usable = "the logarithm of a finite temperature above 0", (-numbers).exp().isfinite()
        if not bool(usable.all()):
            return (
                f"{name}: expected {expected}, got {numbers.tolist()}; load the parameters of an earlier "
                "epoch, and train with a lower rate"
            )
    return None
