# SPDX-License-Identifier: MIT
"""The scores of one tile as logits; what the numbers mean is said by the caller."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crfrnn.io.palette import VOID, ask_about_white
from crfrnn.io.rectangles import Source
from crfrnn.io.scores import scores_to_logits
from crfrnn.io.unaries import unary_from_labels

KINDS = ("logits", "probabilities", "labels")
STRIP = 2**22  # pixels of a label map that are looked at at once


class Convert(Protocol):
    def __call__(self, values: NDArray[Any], valid: NDArray[np.bool_] | None = None) -> Tensor:
        """Float32[L, h, w] of what the file of the scores holds; `valid`, Bool[h, w]: where it counts."""
        ...


def as_logits(
    kind: str = "logits", num_labels: int | None = None, gt_prob: float = 0.7, unknown: int | None = None
) -> AsLogits:
    """A function from what a tile's file holds to Float32[L, h, w].

    "logits" and "probabilities" are [L, h, w], one band a binary problem (see `scores_to_logits`); "labels"
    is [1, h, w], integers 0..num_labels-1 or `unknown`, each right with probability `gt_prob`, as
    `unary_from_labels` has it. unknown=None is 255, but a map of nothing but 0 and 255 is refused, since it
    may be black and white.

    >>> as_logits("labels", 2, 0.9)(np.array([[[1]]])).exp().flatten()
    tensor([0.1000, 0.9000])
    """
    if kind not in KINDS:
        raise ValueError(f"kind: expected one of {', '.join(KINDS)}, got {kind!r}")
    if kind == "labels" and num_labels is None:
        raise ValueError("num_labels: expected a number for kind='labels', got None; a tile shows only some")
    return AsLogits(kind, num_labels or 1, gt_prob, unknown)


@dataclass(frozen=True)
class AsLogits:
    """See `as_logits`."""

    kind: str
    num_labels: int
    gt_prob: float
    unknown: int | None

    def __call__(self, values: NDArray[Any], valid: NDArray[np.bool_] | None = None) -> Tensor:
        if self.kind == "labels":
            if values.dtype.kind not in "iu" or len(values) != 1:
                raise ValueError(
                    f"unary: expected one band of whole numbers for labels, got {values.dtype} "
                    f"{values.shape}; say kind='probabilities' or 'logits' for scores"
                )
            known, unknown = torch.from_numpy(values[0].astype(np.int64)), self._void
            if valid is not None:
                known[~torch.from_numpy(valid)] = unknown
            return unary_from_labels(known, self.num_labels, gt_prob=self.gt_prob, unknown=unknown)
        if values.dtype.kind != "f":
            raise ValueError(
                f"unary: expected floating-point {self.kind}, got {values.dtype}; convert to float32"
            )
        scores = torch.from_numpy(values.astype(np.float32))
        return scores_to_logits(scores, self.kind, valid=None if valid is None else torch.from_numpy(valid))

    def ask(self, source: Source) -> None:
        """Refuse a label map of nothing but 0 and 255, which a tile alone may well be.

        The first strip with another label ends the search.
        """
        if self.kind != "labels" or self.unknown is not None or self.num_labels < 2:
            return
        _, height, width = source.shape
        step, seen = max(1, STRIP // width), np.zeros(0, np.int64)
        for top in range(0, height, step):
            rows, columns = slice(top, min(height, top + step)), slice(0, width)
            values, valid = source.read(rows, columns)[0], source.valid(rows, columns)
            seen = np.union1d(seen, values if valid is None else values[valid])
            if not np.isin(seen, (0, VOID)).all():
                return
        ask_about_white(seen, "unary")

    @property
    def _void(self) -> int:
        return VOID if self.unknown is None else self.unknown
