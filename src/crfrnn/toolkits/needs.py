# SPDX-License-Identifier: MIT
"""Lazy imports of third-party libraries, when a wrapper is called."""

from __future__ import annotations

import importlib
from typing import Any

from torch import nn

from crfrnn.crf import CRFRNN


def needs(module: str, package: str) -> Any:
    """Import the library; ImportError with the install command if it is missing.

    >>> needs("nowhere", "no-where")
    Traceback (most recent call last):
    ImportError: nowhere: expected the package no-where, got No module named 'nowhere'; pip install no-where
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{module}: expected the package {package}, got {error}; pip install {package}"
        ) from error


def fitting(crf: CRFRNN | None, num_labels: int) -> CRFRNN:
    """The given CRF, or one with the package's defaults; ValueError for another number of labels."""
    if crf is not None and crf.num_labels != num_labels:
        raise ValueError(
            f"crf: expected {num_labels} labels as in the network, got {crf.num_labels}; CRFRNN({num_labels})"
        )
    return CRFRNN(num_labels) if crf is None else crf


def plain_name(name: str) -> str:
    """Check that a name is in a library's own table: one with ':' or '/' would be downloaded."""
    if not isinstance(name, str) or not name or ":" in name or "/" in name or "\\" in name:
        raise ValueError(f"network: expected the name of an architecture, got {name!r}")
    return name


def outputs_of(part: nn.Module) -> int:
    """Output channels of the last convolution in `part`."""
    last = [m for m in part.modules() if isinstance(m, nn.Conv2d)]
    if not last:
        raise ValueError("network: expected a convolution that outputs the labels, got none; use Segmenter")
    return last[-1].out_channels
