# SPDX-License-Identifier: MIT
"""`CRFRNN` as one node of an ONNX graph, because standard ONNX operators cannot build a lattice.

The node `crfrnn::CRFRNN`, version 1. Inputs: unary Float[B, L, *spatial], image Float or UInt8
[B, C, *spatial], the parameters of the layer in the order of `PARAMETERS`, mask Bool[B, *spatial] and clamp
Int[B, *spatial]; log_temperature, mask and clamp are optional. Output: logits shaped like the unary.
Attributes: the arguments of `CRFRNN` named in `SETTINGS`, num_labels, iterations, and in_play if not 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from crfrnn.crf.layer import CRFRNN

DOMAIN, NAME, VERSION = "crfrnn", "CRFRNN", 1
PARAMETERS = (
    "spatial_weights", "bilateral_weights", "compatibility", "log_theta_alpha", "log_theta_beta",
    "log_theta_gamma", "log_temperature",
)  # fmt: skip
SETTINGS = (
    "spatial_method", "bilateral_method", "quality", "normalization", "activation", "damping", "exclude_self",
)  # fmt: skip


def exporting_to_onnx() -> bool:
    """True inside torch.onnx.export(…, dynamo=True), which runs torch.export."""
    return torch.compiler.is_compiling() and torch.onnx.is_in_onnx_export()


def as_node(
    crf: CRFRNN, unary: Tensor, image: Tensor, mask: Tensor | None, clamp: Tensor | None, iterations: int
) -> Tensor:
    """Emit the node instead of running inference, for `torch.onnx.export`.

    Raises: NotImplementedError before torch 2.8, which does not support custom nodes.
    """
    make = getattr(getattr(torch.onnx, "ops", None), "symbolic", None)
    if make is None:
        raise NotImplementedError(
            f"torch: expected 2.8 or later for ONNX, got {torch.__version__}; update torch, or use "
            "torch.export.export(module, inputs), which this version supports"
        )
    attributes: dict[str, Any] = {name: getattr(crf, name) for name in SETTINGS}
    attributes |= {"num_labels": crf.num_labels, "iterations": iterations}
    attributes["exclude_self"] = int(crf.exclude_self)
    if crf.in_play:
        attributes["in_play"] = crf.in_play
    parameters = [getattr(crf, name) for name in PARAMETERS]
    return make(
        f"{DOMAIN}::{NAME}",
        (unary, image, *parameters, mask, clamp),
        attributes,
        dtype=unary.dtype,
        shape=unary.shape,
        version=VERSION,
    )
