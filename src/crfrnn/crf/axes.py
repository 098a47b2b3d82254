# SPDX-License-Identifier: MIT
"""What to do about axes that do not fit: the expressions that bring a unary and an image together."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from torch import Tensor

Move = tuple[str, Callable[[Tensor], Tensor]]
_SAME: Move = ("{}", lambda x: x)
_MOVES: tuple[Move, ...] = (
    _SAME,
    ("{}.unsqueeze(0)", lambda x: x.unsqueeze(0)),
    ("{}.movedim(-1, 1)", lambda x: x.movedim(-1, 1)),
    ("{}.movedim(-1, 0).unsqueeze(0)", lambda x: x.movedim(-1, 0).unsqueeze(0)),
    ("{}.transpose(-2, -1)", lambda x: x.transpose(-2, -1)),
)
_GREY: Move = ("{}.unsqueeze(1)", lambda x: x.unsqueeze(1))
_LONE: Move = ("{}.unsqueeze(0).unsqueeze(0)", lambda x: x.unsqueeze(0).unsqueeze(0))
_MOST_CHANNELS = 64  # of a guide: more on axis 1 are rows or columns


def remedy(unary: Tensor, image: Tensor, num_labels: int | None = None) -> str | None:
    """Expressions with which the two fit, as few as possible, or None; only shapes are looked at.

    >>> import torch
    >>> remedy(torch.zeros(2, 4, 5), torch.zeros(1, 3, 4, 5), 2)
    'use unary.unsqueeze(0)'
    """
    found: list[tuple[tuple[int, ...], list[str]]] = []
    for (first, (about, move)), (second, (about_image, move_image)) in itertools.product(
        enumerate(_MOVES), enumerate((*_MOVES, _GREY, _LONE, *_repeated(unary, image)))
    ):
        try:
            a, b = move(unary), move_image(image)
        except (IndexError, RuntimeError):  # too few axes for it
            continue
        if _fit(a, b, num_labels):
            used = [about.format("unary")] * (first > 0) + [about_image.format("image")] * (second > 0)
            # One-dimensional signals are rare; of two that fit, the scores are rather what is turned.
            found.append(((a.ndim == 3, len(used), second, first), used))
    if not found:
        return None
    told = f"use {' and '.join(min(found)[1])}"
    if "transpose" in told:
        told += " if its axes are [.., W, H], or turn back a picture that was turned"
    return told


def _repeated(unary: Tensor, image: Tensor) -> list[Move]:
    """One picture for a whole batch."""
    alone = image.ndim == unary.ndim - 1
    if not alone and (image.ndim < 3 or image.shape[0] != 1):
        return []
    shape = (unary.shape[0], *[-1] * (unary.ndim - 1 if alone else image.ndim - 1))
    return [("{}.expand(" + ", ".join(map(str, shape)) + ")", lambda x: x.expand(*shape))]


def _fit(unary: Tensor, image: Tensor, num_labels: int | None) -> bool:
    return (
        unary.ndim == image.ndim >= 3
        and unary.shape[0] == image.shape[0]
        and unary.shape[2:] == image.shape[2:]
        and (num_labels is None or unary.shape[1] == num_labels)
        and 1 <= image.shape[1] <= _MOST_CHANNELS
    )
