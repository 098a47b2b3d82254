# SPDX-License-Identifier: MIT
"""The scores of one tile as logits; what the numbers mean is said by the caller."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crfrnn.data.palette import VOID
from crfrnn.data.scores import scores_to_logits
from crfrnn.data.unary_files import unary_from_labels

KINDS = ("logits", "probabilities", "labels")


class Convert(Protocol):
    def __call__(self, values: NDArray[Any], valid: NDArray[np.bool_] | None = None) -> Tensor:
        """Float32[L, h, w] of what the file of the scores holds; `valid`, Bool[h, w]: where it counts."""
        ...


def as_logits(
    kind: str = "logits", num_labels: int | None = None, gt_prob: float = 0.7, unknown: int = VOID
) -> Convert:
    """A function from what a tile's file holds to Float32[L, h, w].

    "logits" and "probabilities" are [L, h, w], one band a binary problem (see `scores_to_logits`); "labels"
    is [1, h, w], integers 0..num_labels-1 or `unknown`, each right with probability `gt_prob`, as
    `unary_from_labels` has it.

    >>> as_logits("labels", 2, 0.9)(np.array([[[1]]])).exp().flatten()
    tensor([0.1000, 0.9000])
    """
    if kind not in KINDS:
        raise ValueError(f"kind: expected one of {', '.join(KINDS)}, got {kind!r}")
    if kind == "labels" and num_labels is None:
        raise ValueError("num_labels: expected a number for kind='labels', got None; a tile shows only some")

    def convert(values: NDArray[Any], valid: NDArray[np.bool_] | None = None) -> Tensor:
        if kind == "labels":
            if values.dtype.kind not in "iu" or len(values) != 1:
                raise ValueError(
                    f"unary: expected one band of whole numbers for labels, got {values.dtype} "
                    f"{values.shape}; say kind='probabilities' or 'logits' for scores"
                )
            known = torch.from_numpy(values[0].astype(np.int64))
            if valid is not None:
                known[~torch.from_numpy(valid)] = unknown
            return unary_from_labels(known, num_labels or 1, gt_prob=gt_prob, unknown=unknown)
        if values.dtype.kind != "f":
            raise ValueError(f"unary: expected floating-point {kind}, got {values.dtype}; convert to float32")
        scores = torch.from_numpy(values.astype(np.float32))
        return scores_to_logits(scores, kind, valid=None if valid is None else torch.from_numpy(valid))

    return convert
