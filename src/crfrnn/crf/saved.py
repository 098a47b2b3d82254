# SPDX-License-Identifier: MIT
"""A CRF as settings and tensors: the content of every saved file, and how to rebuild the layer from it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from crfrnn.crf.binary import parameter_labels
from crfrnn.crf.layer import CRFRNN
from crfrnn.lattice.validate import MAX_DIMENSION

MATRIX = "compatibility"
WEIGHTS = ("spatial_weights", "bilateral_weights")
THETAS = ("theta_alpha", "theta_beta", "theta_gamma")
RETIRED = ("precision",)  # settings that files of earlier releases may hold


def settings_of(crf: CRFRNN) -> dict[str, Any]:
    """The non-tensor arguments of a `CRFRNN`, which it stores as attributes of the same names.

    >>> settings_of(CRFRNN(3, iterations=7))["iterations"]
    7
    """
    return {name: getattr(crf, name) for name in inspect.signature(CRFRNN).parameters if name in vars(crf)}


def layer_of(settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> CRFRNN:
    """The layer with these settings and this state_dict, in evaluation mode.

    Sizes are checked before allocation, so that a malicious file cannot exhaust memory.

    Args:
        settings: the result of `settings_of`. Earlier files lack ``num_labels``, which is then inferred from
            the tensors; they have ``one_logit`` if it is 1.
        tensors: the layer's state_dict.

    Raises: ValueError, TypeError for invalid settings, and for tensors that are missing, inconsistent in
        shape, or not finite.

    >>> crf = CRFRNN(3, theta_beta=5.0)
    >>> layer_of(settings_of(crf), crf.state_dict()).log_theta_beta.exp().round().item()
    5.0
    """
    if not isinstance(settings, Mapping):
        raise TypeError(f"settings: expected arguments of CRFRNN by name, got {settings!r}")
    needed = {MATRIX, *WEIGHTS, *(f"log_{name}" for name in THETAS)}
    if not needed <= set(tensors) <= needed | {"log_temperature"}:
        raise ValueError(f"tensors: expected {', '.join(sorted(needed))}, got {', '.join(sorted(tensors))}")
    for name, value in tensors.items():
        if not value.is_floating_point() or not bool(torch.isfinite(value).all()):
            got = f"NaN or infinity in {value.dtype}" if value.is_floating_point() else str(value.dtype)
            raise ValueError(f"{name}: expected finite floating-point numbers, got {got}")
        if name.startswith("log_") and (value.ndim > 1 or value.numel() > MAX_DIMENSION):
            raise ValueError(f"{name}: expected one number or one per axis, got {tuple(value.shape)}")
    arguments = inspect.signature(CRFRNN).parameters
    given = {name: value for name, value in settings.items() if name in arguments or name not in RETIRED}
    one_logit, said = given.pop("one_logit", False), len(tensors[MATRIX]) if tensors[MATRIX].ndim else 0
    given.setdefault("num_labels", 1 if one_logit else said)
    strange = set(given) - set(arguments)
    if strange:
        raise ValueError(f"settings: expected {', '.join(arguments)}, got {', '.join(sorted(strange))}")
    held = parameter_labels(given["num_labels"], given.get("activation", "softmax"))
    full = given.get("label_weights", "vector") == "matrix"
    for name in (MATRIX, *WEIGHTS):
        wanted = (held, held) if full or name == MATRIX else (held,)
        if tuple(tensors[name].shape) != wanted:
            raise ValueError(f"{name}: expected shape {wanted}, got {tuple(tensors[name].shape)}")
    logs = {name: tensors.get(f"log_{name}") for name in (*THETAS, "temperature")}
    numbers = {name: log.double().exp() for name, log in logs.items() if log is not None}
    crf = CRFRNN(**{**given, **numbers})
    crf.load_state_dict(dict(tensors))
    return crf.eval()
