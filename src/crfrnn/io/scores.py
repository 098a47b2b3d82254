# SPDX-License-Identifier: MIT
"""What scores from elsewhere mean, as logits: one rule for pictures, tiles and volumes."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from crfrnn.crf.binary import two_labels, two_probabilities
from crfrnn.crf.unit import warn_of_probabilities
from crfrnn.io.files import FileError, PathLike

ScoreKind = Literal["logits", "probabilities"]
SCORE_KINDS: tuple[str, ...] = get_args(ScoreKind)
SMALLEST = 1e-5  # of a probability, as in pydensecrf's unary_from_softmax


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
        scores: Float[L, *spatial], L ≥ 1; what it holds may be overwritten.
        kind: "logits" (any finite numbers) or "probabilities" (0..1, sum 1 over the labels).
        role, path: what the scores are to the caller, and their file if they come from one, for messages.
        valid: Bool[*spatial]; elsewhere anything is welcome, and NaN and infinity count as 0.

    Returns:
        Float[max(L, 2), *spatial] in the dtype of the scores.

    Raises:
        ValueError: NaN or infinity, numbers outside 0..1 or sums other than 1 for probabilities.

    >>> scores_to_logits(torch.tensor([[0.25]]), "probabilities").exp().flatten()
    tensor([0.7500, 0.2500])
    """
    if kind not in SCORE_KINDS:
        raise ValueError(f"kind: expected one of {', '.join(map(repr, SCORE_KINDS))}, got {kind!r}")
    if valid is not None:
        scores.masked_fill_(~(torch.isfinite(scores) | valid), 0)
    _check_finite(scores, role, path)
    inside = scores if valid is None else scores[:, valid]
    if kind == "logits":
        warn_of_probabilities(inside)
        return two_labels(scores)
    _check_range(inside, role, path)
    if len(scores) > 1:
        _check_sums(inside, role, path)
    return two_probabilities(scores).clamp_(min=SMALLEST).log_()


def _check_finite(scores: Tensor, role: str, path: PathLike | None) -> None:
    bad = ~torch.isfinite(scores)
    if bad.any():
        first = tuple(bad.nonzero()[0].tolist())
        raise _refused(
            role, path, "finite numbers",
            f"{int(bad.sum())} NaN or infinite in {str(scores.dtype).removeprefix('torch.')} "
            f"(first: label {first[0]}, {_place(first[1:])})",
            "limit infinite logits to ±50; for NaN look at the network that wrote them",
        )  # fmt: skip


def _place(position: tuple[int, ...]) -> str:
    return f"row {position[0]}, column {position[1]}" if len(position) == 2 else f"position {position}"


def _check_range(scores: Tensor, role: str, path: PathLike | None) -> None:
    if not scores.numel():
        return
    low, high = (float(v) for v in torch.aminmax(scores))
    if low >= -1e-3 and high <= 1 + 1e-3:
        return
    whole = bool((scores == scores.round()).all()) and low >= 0
    raise _refused(
        role, path, "probabilities, numbers in 0..1", f"{low:.4g}..{high:.4g}",
        "for a label map say kind='labels'" if whole else "for scores of any size say kind='logits'",
    )  # fmt: skip


def _check_sums(scores: Tensor, role: str, path: PathLike | None) -> None:
    if not scores.numel():
        return
    least, greatest = (float(v) for v in torch.aminmax(scores.sum(0)))
    if least < 0.99 or greatest > 1.01:
        raise _refused(
            role, path, "sum 1 over the labels", f"sums {least:.4g}..{greatest:.4g}",
            "add the background as a label of its own, divide independent sigmoids by their sum, or correct "
            "the order of the axes (labels that overlap: CRFRNN(L, activation='sigmoid'))",
        )  # fmt: skip


def _refused(role: str, path: PathLike | None, expected: str, got: str, remedy: str) -> ValueError:
    if path is not None:
        return FileError(role, path, expected, got, remedy)
    return ValueError(f"{role}: expected {expected}, got {got}; {remedy}")
