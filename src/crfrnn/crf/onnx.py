# SPDX-License-Identifier: MIT
"""Runs the ONNX node `crfrnn::CRFRNN` with this package, as a custom operator of an ONNX runtime."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from crfrnn.crf.layer import CRFRNN
from crfrnn.crf.onnx_node import DOMAIN, NAME, PARAMETERS
from crfrnn.crf.saved import RETIRED


@torch.no_grad()
def run_node(inputs: Sequence[NDArray[Any] | None], attributes: Mapping[str, Any]) -> NDArray[Any]:
    """The output of one node, numpy in and out.

    Args:
        inputs: as listed in `crfrnn.crf.onnx_node`; a missing input is None, an empty array, or omitted at
            the end.
        attributes: the node's attributes; strings may be bytes.

    >>> crf = CRFRNN(2, iterations=0)
    >>> numbers = [p.detach().numpy() for p in crf.parameters()]
    >>> run_node([np.ones((1, 2, 3, 4), np.float32), np.zeros((1, 3, 3, 4), np.float32)] + numbers,
    ...          {"num_labels": 2, "iterations": 0}).shape
    (1, 2, 3, 4)
    """
    given = [torch.from_numpy(np.array(x)) if x is not None and np.size(x) else None for x in inputs]
    given += [None] * (4 + len(PARAMETERS) - len(given))
    unary, image, *parameters, mask, clamp = given
    if unary is None or image is None:
        raise ValueError("inputs: expected unary and image, got none; pass all inputs of the node")
    settings: dict[str, Any] = {
        name: value.decode() if isinstance(value, bytes) else value
        for name, value in attributes.items()
        if name not in RETIRED
    }
    settings.setdefault("in_play", 0.0)
    settings["exclude_self"] = bool(settings.get("exclude_self", 0))
    held = {name: value for name, value in zip(PARAMETERS, parameters, strict=True) if value is not None}
    temperature = 1.0 if "log_temperature" in held else None
    crf = CRFRNN(**settings, temperature=temperature).eval()
    options = {"mask": mask, "clamp": clamp}
    return torch.func.functional_call(crf, held, (unary, image), options).numpy()


def reference_operator() -> type:
    """The node as a class for ``onnx.reference.ReferenceEvaluator(model, new_ops=[…])`` (package onnx)."""
    try:
        base = importlib.import_module("onnx.reference.op_run").OpRun
        value_of = importlib.import_module("onnx.helper").get_attribute_value
    except ImportError as error:
        raise ImportError(f"onnx: expected the package onnx, got {error}; pip install onnx") from error

    def run(self: Any, *inputs: Any, **_: Any) -> tuple[NDArray[Any]]:
        node = self.onnx_node
        return (run_node(inputs, {a.name: value_of(a) for a in node.attribute}),)

    return type(NAME, (base,), {"op_domain": DOMAIN, "_run": run, "__module__": __name__})
