# SPDX-License-Identifier: MIT
"""MONAI's networks for colour pictures, by name. For volumes see `crfrnn.toolkits.monai`."""

from __future__ import annotations

from typing import Any

from torch import nn

from crfrnn.crf import CRFRNN
from crfrnn.lattice.validate import check_choice
from crfrnn.models.preprocessing import IMAGENET, Preprocessing
from crfrnn.models.registry import build_network, register_network
from crfrnn.models.segmenter import Segmenter
from crfrnn.toolkits.needs import fitting, needs

NETWORKS = ("BasicUNet", "SegResNet", "UNet")  # their constructors download nothing


def build_monai(network: str, **arguments: Any) -> nn.Module:
    """A network of MONAI with random weights: one of `NETWORKS` with its arguments."""
    check_choice("network", network, NETWORKS)
    return getattr(needs("monai.networks.nets", "monai"), network)(**arguments)


def from_monai(
    network: str,
    num_labels: int,
    *,
    preprocessing: Preprocessing = IMAGENET,
    multiple: int = 16,
    crf: CRFRNN | None = None,
    **arguments: Any,
) -> Segmenter:
    """A `Segmenter` around a network of MONAI in two dimensions, for colour pictures.

    Args:
        network: "UNet", "BasicUNet" or "SegResNet".
        num_labels: L, its ``out_channels``.
        preprocessing: preprocessing of the picture in 0..255.
        multiple: sides are padded to a multiple of it, the product of the network's strides.
        crf: for the same number of labels; None: `CRFRNN` with its defaults.
        arguments: further arguments of the network, such as ``channels=[16, 32], strides=[2]``, which must be
            JSON-compatible.
    """
    fixed = {"spatial_dims": 2, "in_channels": 3, "out_channels": num_labels}
    built = build_network("monai", network=network, **arguments, **fixed)
    wanted = Preprocessing(**{**preprocessing.as_dict(), "multiple": multiple})
    return Segmenter(built, fitting(crf, num_labels), preprocessing=wanted)


register_network("monai", build_monai)
