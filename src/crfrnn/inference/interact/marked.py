# SPDX-License-Identifier: MIT
"""A photograph with scribbles or a box, segmented repeatedly with different CRFs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crfrnn.crf import CRFRNN
from crfrnn.inference.held import Held
from crfrnn.inference.interact.mixture import Mixture
from crfrnn.inference.prediction import Prediction
from crfrnn.inference.refine import refine
from crfrnn.io.images import picture_and_map
from crfrnn.io.labels import FREE, only_white
from crfrnn.io.palette import VOID

_OUTLIERS = 1e-3  # share of a label's pixels with colours unlike its scribbles
SCRIBBLE_ROUNDS, BOX_ROUNDS, COMPONENTS = 1, 5, 5


class Marked:
    """A picture with scribbles or a box, whose lattice and colour models are kept between calls.

    The lattice is rebuilt only for other bandwidths, and the colours are learned again only from labels that
    differ from the last ones. The results equal those of `segment_scribbles` and `segment_box`.

    Args:
        image: UInt8[H, W, 3].
        scribbles: Int[H, W], 0..L-1, -1 = free; may be None with a box.
        num_labels: L; None takes the largest scribbled label plus one, with a box 2.
        box: (left, top, right, bottom) in pixels, right and bottom excluded; everything outside is fixed to
            0, and scribbles inside are 0 or 1.
        components: Gaussians per label.
        rounds: rounds of colour model and CRF; None: 1, or 5 with a box.
        guide: the same picture as a `Held`, if there is one.

    Raises: ValueError as in `segment_scribbles` and `segment_box`.

    >>> image = np.zeros((9, 9, 3), np.uint8)
    >>> image[3:6, 3:7] = 200
    >>> marked = Marked(image, box=(2, 2, 8, 7))
    >>> marked(default_crf(2, (9, 9))).labels[4].tolist()
    [0, 0, 0, 1, 1, 1, 1, 0, 0]
    """

    def __init__(
        self,
        image: NDArray[np.uint8],
        scribbles: NDArray[np.integer] | None = None,
        num_labels: int | None = None,
        *,
        box: Sequence[int] | None = None,
        components: int = COMPONENTS,
        rounds: int | None = None,
        guide: Held | None = None,
    ) -> None:
        if scribbles is None and box is None:
            raise ValueError("scribbles: expected scribbles or a box, got neither")
        check_marked(num_labels, box is not None, components, rounds)
        size = np.asarray(image).shape[:2]
        drawn = np.full(size, FREE) if scribbles is None else scribbles
        self._image, held = picture_and_map(image, drawn, "scribbles")
        _ask_about_white(held)
        if box is None:
            self.num_labels = int(held.max()) + 1 if num_labels is None else num_labels
            _check_labels(held, self.num_labels)
            self._held = self._shown = held
        else:
            self.num_labels = 2
            self._held = _boxed(held, box)
            self._shown = np.where(self._held == FREE, 1, self._held)
        self._rounds = (SCRIBBLE_ROUNDS if box is None else BOX_ROUNDS) if rounds is None else rounds
        self._components = components
        self._guide = Held(self._image) if guide is None else guide
        self._learnt: dict[int, tuple[NDArray[np.int64], Tensor]] = {}  # round: labels, unary

    @torch.no_grad()
    def __call__(self, crf: CRFRNN | None = None) -> Prediction:
        """The result of `segment_scribbles` or `segment_box`; None uses `default_crf`."""
        return self._last(crf)[0]

    @torch.no_grad()
    def steps(self, crf: CRFRNN | None = None) -> Iterator[NDArray[np.int64]]:
        """The labels Int64[H, W] after 0, 1, … iterations of the last round."""
        _, unary, layer = self._last(crf)
        yield from self._guide.steps(unary, layer, clamp=torch.from_numpy(self._held))

    def _last(self, crf: CRFRNN | None) -> tuple[Prediction, Tensor, CRFRNN]:
        """The last round: its result, its unary, and the layer."""
        layer = default_crf(self.num_labels, self._held.shape) if crf is None else crf
        clamp, shown = torch.from_numpy(self._held), self._shown
        number = 0
        while True:
            unary = self._colours(number, shown)
            found = refine(self._guide, unary, layer, clamp=clamp)
            number += 1
            settled = np.array_equal(found.labels, shown)
            # a label without pixels has no colours to learn
            lost = np.count_nonzero(np.bincount(found.labels.reshape(-1))) < self.num_labels
            if number == self._rounds or settled or lost:
                return found, unary, layer
            shown = found.labels

    def _colours(self, number: int, shown: NDArray[np.int64]) -> Tensor:
        kept = self._learnt.get(number)
        if kept is not None and np.array_equal(kept[0], shown):
            return kept[1]
        unary = colour_unary(self._image, shown, self.num_labels, components=self._components)
        self._learnt[number] = shown, unary
        return unary


def default_crf(num_labels: int, size: tuple[int, ...], **numbers: Any) -> CRFRNN:
    """The CRF that these functions use by default.

    Its θ_α is a twentieth of the picture's diagonal, as in `crfrnn demo`; the temperature 2 compensates for
    the overconfidence of a colour model learned from a few strokes.

    Args:
        num_labels: L.
        size: (height, width) of the picture.
        numbers: arguments of `CRFRNN` that override these defaults.

    >>> round(float(default_crf(2, (300, 400), theta_beta=9.0).log_theta_beta.exp()), 3)
    9.0
    """
    defaults = {
        "theta_alpha": max(math.hypot(*size) / 20, 1.0), "theta_beta": 20.0, "theta_gamma": 3.0,
        "spatial_weight": 8.0, "bilateral_weight": 10.0, "iterations": 10, "temperature": 2.0,
    }  # fmt: skip
    return CRFRNN(num_labels, **defaults | numbers).eval()


def colour_unary(
    image: NDArray[np.generic], labels: NDArray[np.integer], num_labels: int, *, components: int = 5
) -> Tensor:
    """The log-density Float32[L, *spatial] of every pixel's colour, learned from the pixels of each label.

    Args: image UInt8 or Float [*spatial, C] in 0..255, any number of channels; labels Int[*spatial], -1 =
        unknown, with pixels of each of the L; components as in `segment_scribbles`.
    """
    colours = torch.from_numpy(np.array(image, np.float32).reshape(-1, image.shape[-1]))
    known = torch.from_numpy(np.ascontiguousarray(labels).reshape(-1))
    unary = [
        Mixture.fit(colours[known == k], components).log_density(colours, _OUTLIERS)
        for k in range(num_labels)
    ]
    return torch.stack(unary).view(num_labels, *labels.shape)


def check_marked(num_labels: int | None, box: bool, components: int, rounds: int | None) -> None:
    """ValueError for arguments of `Marked` that are invalid for every picture."""
    if box and num_labels not in (None, 2):
        raise ValueError(f"num_labels: expected 2 with a box, inside and outside, got {num_labels}")
    if components < 1:
        raise ValueError(f"components: expected at least 1, got {components}")
    if rounds is not None and rounds < 1:
        raise ValueError(f"rounds: expected at least 1, got {rounds}")


def _boxed(held: NDArray[np.int64], box: Sequence[int]) -> NDArray[np.int64]:
    """The scribbles with everything outside the box fixed to 0."""
    if held.max() > 1:
        raise ValueError(f"scribbles: expected 0, 1 or {FREE} with a box, got {int(held.max())}")
    rows, columns = held.shape
    left, top, right, bottom = (int(v) for v in box) if len(box) == 4 else (0, 0, 0, 0)
    if not (0 <= left < right <= columns and 0 <= top < bottom <= rows):
        raise ValueError(
            f"box: expected (left, top, right, bottom) inside {columns} × {rows}, got {tuple(box)}; "
            "right and bottom are excluded"
        )
    inside = np.zeros(held.shape, bool)
    inside[top:bottom, left:right] = True
    if inside.all():
        raise ValueError(f"box: expected a part of the picture outside, got {tuple(box)} that covers it")
    held = np.where(inside, held, 0)
    if not (held != 0).any():
        raise ValueError("scribbles: expected free pixels in the box, got all of it fixed to 0")
    return held


def _ask_about_white(held: NDArray[np.int64]) -> None:
    if only_white(held):
        raise ValueError(
            f"scribbles: expected labels and {FREE} = free, got nothing but 0 and {VOID}; for white strokes "
            f"on black use np.where(scribbles == {VOID}, 1, {FREE}) and scribble on the background too; "
            f"if {VOID} means free, np.where(scribbles == {VOID}, {FREE}, scribbles)"
        )


def _check_labels(held: NDArray[np.int64], count: int) -> None:
    known = held[held != FREE]
    if known.size == 0 or known.min() < 0 or known.max() >= count:
        got = f"{known.min()}..{known.max()}" if known.size else "none"
        raise ValueError(f"scribbles: expected labels 0..{count - 1} and {FREE} = free, got {got}")
    missing = sorted(set(range(count)) - set(known.tolist()))
    if missing:
        raise ValueError(
            f"scribbles: expected some of every label 0..{count - 1}, got none of {missing[:8]}; "
            "scribble on it, or omit it"
        )
