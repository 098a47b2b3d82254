# SPDX-License-Identifier: MIT
"""Conversion of probabilities, labels and logits to logits: one rule for pictures, tiles and volumes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crfrnn.crf.binary import two_labels, two_probabilities
from crfrnn.crf.unit import warn_of_probabilities
from crfrnn.io.axes import OTHER_LABELS, check_type
from crfrnn.io.files import PathLike, refusal
from crfrnn.io.labels import FREE, ask_about_white, known_labels, place_of
from crfrnn.io.palette import VOID
from crfrnn.io.rectangles import Windowed

Kind = Literal["logits", "probabilities", "labels"]
KINDS: tuple[str, ...] = get_args(Kind)
SLACK = 0.01  # tolerance of a sum of probabilities
SMALLEST = 1e-5  # lower limit of a probability, as in pydensecrf's unary_from_softmax
STRIP = 2**22  # pixels of a label map that `AsLogits.ask_about_white` reads at once


@dataclass(frozen=True)
class AsLogits:
    """The function from the numbers of a file to logits; the caller states their meaning, it is not guessed.

    Attributes:
        kind: "logits" (any finite numbers, larger = likelier), "probabilities" (0..1, sum 1 over the labels)
            or "labels" (whole numbers, each right with probability `gt_prob`).
        num_labels: L, required for labels, since a file may contain only some; None: the number of scores.
        gt_prob: in (0, 1), see `unary_from_labels`.
        unknown: the value of pixels without a label, see `crfrnn.io.labels.known_labels`.

    >>> AsLogits("labels", 2, 0.9)(np.array([[[1]]])).exp().flatten()
    tensor([0.1000, 0.9000])
    """

    kind: str = "logits"
    num_labels: int | None = None
    gt_prob: float = 0.7
    unknown: int | None = None

    def __post_init__(self) -> None:
        check_kind(self.kind, KINDS)
        if self.kind == "labels":
            check_label_count(self.kind, self.num_labels)

    def __call__(
        self,
        values: NDArray[Any],
        valid: NDArray[np.bool_] | None = None,
        *,
        role: str = "unary",
        path: PathLike | None = None,
        dtype: type[np.floating] = np.float32,
        copy: bool = True,
    ) -> Tensor:
        """Logits Float[L, *spatial] of the numbers in a file.

        Args:
            values: [L, *spatial]; L = 1 for labels, and for a binary problem, see `scores_to_logits`.
            valid: Bool[*spatial]; where False any value is accepted.
            role, path: what the caller uses the values for, and their file if there is one, for messages.
            dtype: dtype of logits from scores; logits from labels are float32.
            copy: False if the values may be overwritten, and the result may share their memory.

        Raises:
            ValueError: numbers that are not valid for `kind`.
        """
        check_type(values.dtype, self.kind, role, path)
        self.count(len(values), role, path)
        if self.kind == "labels":
            assert self.num_labels is not None
            known = known_labels(values[0], self.num_labels, self.unknown, valid=valid, role=role, path=path)
            return unary_from_labels(
                torch.from_numpy(known), self.num_labels, gt_prob=self.gt_prob, unknown=FREE
            )
        with np.errstate(over="ignore"):  # values that overflow to infinity are rejected below
            scores = (np.array if copy else np.asarray)(values, dtype, order="C")
        inside = None if valid is None else torch.from_numpy(np.ascontiguousarray(valid))
        return scores_to_logits(torch.from_numpy(scores), self.kind, role=role, path=path, valid=inside)

    def count(self, values: int, role: str = "unary", path: PathLike | None = None) -> int:
        """The number of labels for this many numbers per pixel; ValueError if it is not `num_labels`."""
        if self.kind == "labels":
            if values != 1:
                raise refusal(
                    role, path, "one whole number per pixel for kind='labels'", f"{values}",
                    "for scores pass kind='probabilities' or kind='logits'",
                )  # fmt: skip
            return self.num_labels or 0
        if self.num_labels not in (None, values, max(values, 2)):
            raise refusal(
                role, path, f"{self.num_labels} labels", f"{values}",
                OTHER_LABELS,
            )  # fmt: skip
        return max(values, 2)

    def ask_about_white(self, source: Windowed) -> None:
        """Reject a label map of only 0 and 255, checked over the whole map since a tile may well be so.

        The search stops at the first strip with another label.
        """
        if self.kind != "labels" or self.unknown is not None or self.count(1) < 2:
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


def check_kind(kind: str, known: tuple[str, ...]) -> None:
    """ValueError unless it is one of the kinds."""
    if kind not in known:
        raise ValueError(
            f"kind: expected one of {', '.join(map(repr, known))}, got {kind!r}; state what the file holds"
        )


def check_label_count(kind: str, num_labels: int | None) -> None:
    """ValueError if a label map is given without the number of labels."""
    if num_labels is None:
        raise ValueError(
            f"num_labels: expected a number for kind={kind!r}, got None; a map may contain only some"
        )


def scores_to_logits(
    scores: Tensor,
    kind: str,
    *,
    role: str = "unary",
    path: PathLike | None = None,
    valid: Tensor | None = None,
) -> Tensor:
    """Logits of scores: ``log max(p, 1e-5)`` of probabilities, logits as they are.

    One score per pixel is a binary problem, [0, z] or [1 - p, p], see `crfrnn.crf.binary`.

    Args:
        scores: Float[L, *spatial], L ≥ 1; may be overwritten.
        kind: "logits" (any finite numbers) or "probabilities" (0..1, sum 1 over the labels).
        role, path: what the caller uses the scores for, and their file if there is one, for messages.
        valid: Bool[*spatial]; where False any value is accepted, and NaN and infinity count as 0.

    Returns:
        Float[max(L, 2), *spatial] in the dtype of the scores.

    Raises:
        ValueError: NaN or infinity, numbers outside 0..1 or sums other than 1 for probabilities.

    >>> scores_to_logits(torch.tensor([[0.25]]), "probabilities").exp().flatten()
    tensor([0.7500, 0.2500])
    """
    check_kind(kind, KINDS[:2])
    if valid is not None:
        scores.masked_fill_(~(torch.isfinite(scores) | valid), 0)
    if scores.numel() and not all(math.isfinite(float(v)) for v in torch.aminmax(scores)):
        bad = ~torch.isfinite(scores)
        first = tuple(bad.nonzero()[0].tolist())
        raise refusal(
            role, path, "finite numbers",
            f"{int(bad.sum())} NaN or infinite in {str(scores.dtype).removeprefix('torch.')} "
            f"(first: label {first[0]}, {place_of(first[1:])})",
            "limit infinite logits to ±50; for NaN check the network that wrote them",
        )  # fmt: skip
    inside = scores if valid is None else scores[:, valid]
    if kind == "logits":
        warn_of_probabilities(inside)
        return two_labels(scores)
    if inside.numel():
        _check_probabilities(inside, role, path)
    return two_probabilities(scores).clamp_(min=SMALLEST).log_()


def _check_probabilities(scores: Tensor, role: str, path: PathLike | None) -> None:
    low, high = (float(v) for v in torch.aminmax(scores))
    if low < -1e-3 or high > 1 + 1e-3:
        whole = bool((scores == scores.round()).all()) and low >= 0
        raise refusal(
            role, path, "probabilities, numbers in 0..1", f"{low:.4g}..{high:.4g}",
            "for a label map pass kind='labels'" if whole else "for scores of any size pass kind='logits'",
        )  # fmt: skip
    least, greatest = (float(v) for v in torch.aminmax(scores.sum(0)))
    if len(scores) > 1 and (least < 1 - SLACK or greatest > 1 + SLACK):
        raise refusal(
            role, path, "sum 1 over the labels", f"sums {least:.4g}..{greatest:.4g}",
            "add the background as a label of its own, divide independent sigmoids by their sum, or correct "
            "the order of the axes (labels that overlap: CRFRNN(L, activation='sigmoid'))",
        )  # fmt: skip


def unary_from_labels(
    labels: Tensor, num_labels: int, *, gt_prob: float = 0.7, unknown: int = VOID
) -> Tensor:
    """Logits of a label map that is right with probability `gt_prob`.

    ``U(l) = log gt_prob`` for the given label, ``log((1 - gt_prob) / (L - 1))`` for every other, ``-log L``
    for all where the label is unknown: the negative of pydensecrf's ``unary_from_labels``.

    Args:
        labels: Int[\\*spatial] in 0..L-1 or `unknown`.
        num_labels: L ≥ 1.
        gt_prob: in (0, 1), exclusive; for certain labels use the CRF's ``clamp``.
        unknown: the value of pixels without a label.

    Returns:
        Float32[L, \\*spatial].

    >>> unary_from_labels(torch.tensor([[1, 255]]), 2, gt_prob=0.9).exp()[:, 0]
    tensor([[0.1000, 0.5000],
            [0.9000, 0.5000]])
    """
    if not 0 < gt_prob < 1:
        raise ValueError(f"gt_prob: expected a number in (0, 1), got {gt_prob}; for certainty use clamp")
    if num_labels < 1:
        raise ValueError(f"num_labels: expected at least 1, got {num_labels}")
    labels = labels.long()
    bad = ((labels < 0) | (labels >= num_labels)) & (labels != unknown)
    if bool(bad.any()):
        raise ValueError(
            f"labels: expected 0..{num_labels - 1} or {unknown}, got {int(labels[bad][0])}; check num_labels"
        )
    other = math.log((1 - gt_prob) / (num_labels - 1)) if num_labels > 1 else math.log(gt_prob)
    columns = torch.full((num_labels, num_labels + 1), other)  # the last column is for unknown pixels
    columns.fill_diagonal_(math.log(gt_prob))
    columns[:, num_labels] = -math.log(num_labels)
    return columns[:, labels.masked_fill(labels == unknown, num_labels)]
