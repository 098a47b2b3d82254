# SPDX-License-Identifier: MIT
"""Binary segmentation with one logit or one probability per pixel, the output of a network with a sigmoid.

The same rule applies everywhere: a single channel z stands for the labels {0: background, 1: foreground} with
logits [0, z], a single channel p for the same labels with probabilities [1 - p, p]. Since
softmax([0, z]) = [1 - sigmoid(z), sigmoid(z)], z > 0 means foreground both before and after the CRF.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from crfrnn.crf.layer import CRFRNN

NUM_LABELS = 2
BACKGROUND = "background"


def parameter_labels(num_labels: int, activation: str) -> int:
    """Number of labels of a `CRFRNN`'s parameters; overlapping labels are independent one-logit problems."""
    return NUM_LABELS if num_labels == 1 and activation != "sigmoid" else num_labels


def check_class_names(names: Sequence[str], num_labels: int) -> tuple[str, ...]:
    """None, or one name per label; for one logit, either the foreground's name or both names."""
    if len(names) not in ((0, num_labels, NUM_LABELS) if num_labels == 1 else (0, num_labels)):
        raise ValueError(f"class_names: expected {num_labels}, one per label, got {len(names)}")
    return tuple(map(str, names))


def label_names(names: Sequence[str]) -> tuple[str, ...]:
    """The names of a label map; for one logit (labels 0 and 1) the background's name is included."""
    return (BACKGROUND, *names) if len(names) == 1 else tuple(names)


def two_labels(logits: Tensor, axis: int = 0) -> Tensor:
    """z → [0, z] if `axis` has one label; several labels are returned unchanged.

    >>> two_labels(torch.tensor([[3.0, -1.0]]))
    tensor([[ 0.,  0.],
            [ 3., -1.]])
    """
    if logits.shape[axis] != 1:
        return logits
    return torch.cat([torch.zeros_like(logits), logits], axis)


def two_probabilities(p: Tensor, axis: int = 0) -> Tensor:
    """p → [1 - p, p] if `axis` has one label; several labels are returned unchanged."""
    return p if p.shape[axis] != 1 else torch.cat([1 - p, p], axis)


def one_logit(logits: Tensor, axis: int = 0) -> Tensor:
    """[x_0, x_1] → x_1 - x_0, the logit of the foreground.

    >>> one_logit(torch.tensor([[1.0], [3.0]]))
    tensor([[2.]])
    """
    background, foreground = logits.split(1, axis)
    return foreground - background


def for_two_labels(crf: CRFRNN) -> CRFRNN:
    """Convert a one-logit `CRFRNN` to two labels with shared parameters; others are returned unchanged.

    For callers that need a label map: with the unary ``[0, z]`` it is the argmax, as for any other unary.

    Raises: TypeError if the argument is not a `CRFRNN`; ValueError for ``activation="sigmoid"``, whose labels
        overlap, so that no label map exists.
    """
    if not hasattr(crf, "compatibility"):
        raise TypeError(f"crf: expected a CRFRNN, got {type(crf).__name__}; from a Segmenter take its .crf")
    if crf.activation == "sigmoid":
        raise ValueError(
            "crf: expected labels of which each pixel has one, got activation='sigmoid', whose labels "
            "overlap; call the layer itself, its logits above 0 are the labels of a pixel"
        )
    if crf.num_labels != 1:
        return crf
    twin = copy.copy(crf)  # shares the parameters
    twin.num_labels = NUM_LABELS
    return twin
