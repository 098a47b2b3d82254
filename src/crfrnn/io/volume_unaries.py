# SPDX-License-Identifier: MIT
"""What the caller has of a volume, scores or a label map, as logits in the guide's order of voxels."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crfrnn.io.arrays import MAX_BYTES
from crfrnn.io.scores import SCORE_KINDS, scores_to_logits
from crfrnn.io.scribbles import FREE
from crfrnn.io.unaries import unary_from_labels

KINDS = (*SCORE_KINDS, "labels")
AXES = 3
MOST_LABELS = 1024  # that one inference takes in one go


def score_unary(probabilities: Any, kind: str, shape: tuple[int, ...], inside: Tensor | None) -> Tensor:
    """Logits Float[L, X, Y, Z] of scores; one number per voxel is a binary problem."""
    if kind not in KINDS:
        raise ValueError(f"kind: expected one of {', '.join(KINDS)}, got {kind!r}")
    array = np.asarray(probabilities)
    if array.dtype.kind != "f":
        raise TypeError(
            f"probabilities: expected floating-point numbers, got {array.dtype}; for a label map say "
            "kind='labels', and bytes are divided first: probabilities / 255"
        )
    if array.shape == shape:
        array = array[None]
    if array.ndim != AXES + 1 or array.shape[1:] != shape:
        raise ValueError(
            f"probabilities: expected [L, {', '.join(map(str, shape))}] as guide has it, got {array.shape}; "
            + _reorder(array.shape, shape)
        )
    values = torch.from_numpy(np.array(array, np.float64 if array.dtype == np.float64 else np.float32))
    return scores_to_logits(values, kind, role="probabilities", valid=inside)


def _reorder(given: tuple[int, ...], shape: tuple[int, ...]) -> str:
    """The expression that brings these axes to the guide's, where there is one."""
    if given[:-1] == shape:
        return "labels come first: np.moveaxis(probabilities, -1, 0)"
    if given[1:] == shape[::-1]:
        return "turn z, y, x round: probabilities.transpose(0, 3, 2, 1)"
    if given == shape[::-1]:
        return "turn z, y, x round: probabilities.transpose(2, 1, 0)"
    if len(given) == AXES + 2 and given[0] == 1 and given[2:] == shape:
        return "take the one volume of the batch: probabilities[0]"
    return "resample them onto the guide"


def label_unary(
    labels: Any,
    shape: tuple[int, ...],
    num_labels: int | None,
    gt_prob: float,
    unknown: int | None,
    mask: NDArray[np.bool_] | None,
) -> tuple[Tensor, NDArray[np.int64]]:
    """Logits Float32[L, X, Y, Z] of a label map, and the numbers that its L labels have there."""
    array = np.asarray(labels)
    if array.shape != shape:
        remedy = _reorder(array.shape, shape)
        raise ValueError(
            f"probabilities: expected labels {shape} as guide has it, got {array.shape}; {remedy}"
        )
    if mask is not None and array.dtype.kind == "f":
        array = np.where(mask | np.isfinite(array), array, 0)
    if array.dtype.kind not in "iufb" or not (np.isfinite(array).all() and (array == np.round(array)).all()):
        raise ValueError(
            f"probabilities: expected labels, whole numbers, got {array.dtype} with other values; "
            "for scores say kind='probabilities' or kind='logits'"
        )
    values = array.astype(np.int64)
    found = np.unique(values)
    found = found[found != unknown]
    if num_labels is not None:
        numbers = np.arange(num_labels)
        remedy = (
            "leave out num_labels= to take the numbers that occur, or say which one means unknown: unknown="
        )
    else:
        numbers = np.union1d(found, [0, 1] if len(found) < 2 else [])  # a label alone has no rival
        remedy = "say which one means unknown: unknown="
    wrong = found[(found < 0) | ~np.isin(found, numbers)]
    if len(wrong):
        wanted = "0 and above" if num_labels is None else f"0..{num_labels - 1}"
        raise ValueError(f"probabilities: expected labels {wanted}, got {wrong[0]}; {remedy}{wrong[0]}")
    if not 1 <= len(numbers) <= MOST_LABELS or len(numbers) * values.size * 4 > MAX_BYTES:
        raise ValueError(
            f"probabilities: expected at most {MOST_LABELS} labels and {MAX_BYTES} bytes for their scores, "
            f"got {len(numbers)} × {values.size} × 4; crop the volume or merge labels, and for scores say "
            "kind='probabilities'"
        )
    known = np.isin(values, numbers) & (values != unknown)
    places = torch.from_numpy(np.where(known, np.searchsorted(numbers, values), FREE))
    unary = unary_from_labels(places, len(numbers), gt_prob=gt_prob, unknown=FREE)
    return unary, numbers.astype(np.int64)
