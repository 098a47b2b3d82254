# SPDX-License-Identifier: MIT
"""One logit or one probability per pixel, as a network with a sigmoid gives it: background and foreground.

The rule, the same everywhere: a single channel z stands for the labels {0: background, 1: foreground} with
logits [0, z], a single channel p for the same labels with probabilities [1 - p, p]. Since
softmax([0, z]) = [1 - sigmoid(z), sigmoid(z)], z > 0 is foreground before the CRF as after it.
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
    """How many labels the parameters of a `CRFRNN` are for; overlapping labels are problems of one logit."""
    return NUM_LABELS if num_labels == 1 and activation != "sigmoid" else num_labels


def check_class_names(names: Sequence[str], num_labels: int) -> tuple[str, ...]:
    """None, or one name per label; one logit has one name, the foreground's, or two."""
    if len(names) not in ((0, num_labels, NUM_LABELS) if num_labels == 1 else (0, num_labels)):
        raise ValueError(f"class_names: expected {num_labels}, one per label, got {len(names)}")
    return tuple(map(str, names))


def label_names(names: Sequence[str]) -> tuple[str, ...]:
    """The names of a label map: of one logit, whose map has the labels 0 and 1, the background's too."""
    return (BACKGROUND, *names) if len(names) == 1 else tuple(names)


def two_labels(logits: Tensor, axis: int = 0) -> Tensor:
    """z → [0, z] where there is one label on `axis`; several labels stay as they are.

    >>> two_labels(torch.tensor([[3.0, -1.0]]))
    tensor([[ 0.,  0.],
            [ 3., -1.]])
    """
    if logits.shape[axis] != 1:
        return logits
    return torch.cat([torch.zeros_like(logits), logits], axis)


def two_probabilities(p: Tensor, axis: int = 0) -> Tensor:
    """p → [1 - p, p] where there is one label on `axis`; several labels stay as they are."""
    return p if p.shape[axis] != 1 else torch.cat([1 - p, p], axis)


def one_logit(logits: Tensor, axis: int = 0) -> Tensor:
    """[x_0, x_1] → x_1 - x_0, the logit of the foreground.

    >>> one_logit(torch.tensor([[1.0], [3.0]]))
    tensor([[2.]])
    """
    background, foreground = logits.split(1, axis)
    return foreground - background


def for_two_labels(crf: CRFRNN) -> CRFRNN:
    """A `CRFRNN` of one logit as the layer over two labels with the same parameters; others as they are.

    For callers that need a label map: the labels of ``[0, z]`` are the argmax as of any other unary.

    Raises: TypeError for what is no `CRFRNN`; ValueError for ``activation="sigmoid"``, whose labels overlap,
        so that no label map exists.
    """
    if not hasattr(crf, "compatibility"):
        raise TypeError(f"crf: expected a CRFRNN, got {type(crf).__name__}; that of a Segmenter is its .crf")
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
