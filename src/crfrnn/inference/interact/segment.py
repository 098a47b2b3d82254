# SPDX-License-Identifier: MIT
"""Scribbles, seeds or a box on a photograph in, labels out: a colour model per label, then the CRF."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

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

_OUTLIERS = 1e-3  # pixels of a label that look like nothing seen of it


def default_crf(num_labels: int, size: tuple[int, int]) -> CRFRNN:
    """The CRF that the functions here use unless one is given.

    Its reach is a twentieth of the picture's diagonal, as in `crfrnn demo`; the temperature 2 makes the
    colour model less sure of itself than a few strokes entitle it to be.

    Args:
        num_labels: L.
        size: (height, width) of the picture.
    """
    return CRFRNN(
        num_labels,
        theta_alpha=max(math.hypot(*size) / 20, 1.0),
        theta_beta=20.0,
        theta_gamma=3.0,
        spatial_weight=8.0,
        bilateral_weight=10.0,
        iterations=10,
        temperature=2.0,
    ).eval()


@torch.no_grad()
def segment_scribbles(
    image: NDArray[np.uint8],
    scribbles: NDArray[np.integer],
    num_labels: int | None = None,
    *,
    components: int = 5,
    rounds: int = 1,
    crf: CRFRNN | None = None,
) -> Prediction:
    """Labels of a picture from scribbles that show some pixels of every label.

    Each label's colours are a mixture of Gaussians fitted to its scribbled pixels; its log-density is the
    unary; the CRF refines it with the scribbles held. With more rounds the colours are learnt again from the
    labels found, as GrabCut does.

    Args:
        image: UInt8[H, W, 3].
        scribbles: Int[H, W], 0..L-1, -1 = free, as `crfrnn.io.read_scribbles` gives them.
        num_labels: L; None takes the largest scribbled label plus one. Each needs a pixel at least.
        components: Gaussians of a label.
        rounds: of colours and CRF, at least 1.
        crf: the layer; None takes `default_crf`.

    Returns:
        `Prediction`: the labels by colour alone (`before`), those after the CRF, in which scribbled pixels
        keep theirs, and the marginals.

    Raises:
        ValueError: other shapes, labels out of range, a label without scribbles.

    Source: Rother, Kolmogorov & Blake, *GrabCut*, SIGGRAPH 2004, doi:10.1145/1015706.1015720, with the fully
    connected CRF in place of the graph cut.

    >>> image = np.zeros((6, 8, 3), np.uint8)
    >>> image[:, 4:] = 200
    >>> scribbles = np.full((6, 8), -1)
    >>> scribbles[2, 1], scribbles[3, 6] = 0, 1
    >>> segment_scribbles(image, scribbles).labels[0].tolist()
    [0, 0, 0, 0, 1, 1, 1, 1]
    """
    image, held = picture_and_map(image, scribbles, "scribbles")
    _ask_about_white(held)
    count = int(held.max()) + 1 if num_labels is None else num_labels
    _check_labels(held, count)
    return _segment(image, held, held, count, components, rounds, crf)


@torch.no_grad()
def segment_seeds(
    image: NDArray[np.uint8],
    seeds: Iterable[tuple[int, int, int]],
    num_labels: int | None = None,
    *,
    radius: int = 5,
    components: int = 2,
    rounds: int = 1,
    crf: CRFRNN | None = None,
) -> Prediction:
    """Labels of a picture from points: (x, y, label) each, a disk of `radius` pixels around it is held.

    Where disks of different labels meet, the later seed rules. The rest is `segment_scribbles`.

    Raises:
        ValueError: no seeds, a seed outside the picture, a label without seeds.

    >>> image = np.zeros((6, 8, 3), np.uint8)
    >>> image[:, 4:] = 200
    >>> segment_seeds(image, [(1, 2, 0), (6, 3, 1)], radius=1).labels[0].tolist()
    [0, 0, 0, 0, 1, 1, 1, 1]
    """
    if radius < 0:
        raise ValueError(f"radius: expected at least 0, got {radius}; 0 holds the point alone")
    height, width = np.asarray(image).shape[:2]
    rows, columns = np.mgrid[:height, :width]
    scribbles = np.full((height, width), FREE)
    for x, y, label in seeds:
        if not (0 <= x < width and 0 <= y < height):
            raise ValueError(
                f"seeds: expected points (x, y, label) inside {width} × {height}, got {(x, y, label)}"
            )
        scribbles[(rows - y) ** 2 + (columns - x) ** 2 <= radius**2] = label
    return segment_scribbles(image, scribbles, num_labels, components=components, rounds=rounds, crf=crf)


@torch.no_grad()
def segment_box(
    image: NDArray[np.uint8],
    box: Sequence[int],
    *,
    scribbles: NDArray[np.integer] | None = None,
    components: int = 5,
    rounds: int = 5,
    crf: CRFRNN | None = None,
) -> Prediction:
    """The object in a box: 1 where it is, 0 elsewhere; everything outside the box is held at 0.

    The colours of the outside are known; those of the object are learnt from what the CRF leaves of the
    inside, round after round.

    Args:
        image: UInt8[H, W, 3].
        box: (left, top, right, bottom) in pixels, right and bottom excluded.
        scribbles: Int[H, W], 0, 1 or -1 = free: corrections, held too (1 where object was lost).
        components, rounds, crf: as in `segment_scribbles`.

    Returns:
        `Prediction` with two labels. An object that its colours do not tell from the outside may vanish.

    Raises:
        ValueError: a box that is empty, leaves the picture or covers it; other shapes.

    Source: as `segment_scribbles`; section 3.2 of the paper is this use.

    >>> image = np.zeros((9, 9, 3), np.uint8)
    >>> image[3:6, 3:7] = 200
    >>> segment_box(image, (2, 2, 8, 7)).labels[4].tolist()
    [0, 0, 0, 1, 1, 1, 1, 0, 0]
    """
    shape = np.asarray(image).shape[:2]
    free = np.full(shape, FREE) if scribbles is None else scribbles
    image, held = picture_and_map(image, free, "scribbles")
    _ask_about_white(held)
    if held.max() > 1:
        raise ValueError(f"scribbles: expected 0, 1 or {FREE} with a box, got {int(held.max())}")
    left, top, right, bottom = (int(v) for v in box) if len(box) == 4 else (0, 0, 0, 0)
    if not (0 <= left < right <= shape[1] and 0 <= top < bottom <= shape[0]):
        raise ValueError(
            f"box: expected (left, top, right, bottom) inside {shape[1]} × {shape[0]}, got {tuple(box)}; "
            "right and bottom are excluded"
        )
    inside = np.zeros(shape, bool)
    inside[top:bottom, left:right] = True
    if inside.all():
        raise ValueError(f"box: expected some picture outside, got {tuple(box)} that covers it")
    held = np.where(inside, held, 0)
    start = np.where(held == FREE, 1, held)
    if not (start == 1).any():
        raise ValueError("scribbles: expected some of the box left free, got all of it held at 0")
    return _segment(image, held, start, 2, components, rounds, crf)


def colour_unary(
    image: NDArray[np.generic], labels: NDArray[np.integer], num_labels: int, *, components: int = 5
) -> Tensor:
    """The log-density Float32[L, *spatial] of every pixel's colour, learnt from the pixels of each label.

    Args: image UInt8 or Float [*spatial, C] in 0..255, any number of channels; labels Int[*spatial], -1 = not
        known, some of each of the L; components as in `segment_scribbles`.
    """
    colours = torch.from_numpy(np.ascontiguousarray(image).reshape(-1, image.shape[-1])).float()
    known = torch.from_numpy(np.ascontiguousarray(labels).reshape(-1))
    unary = [
        Mixture.fit(colours[known == k], components).log_density(colours, _OUTLIERS)
        for k in range(num_labels)
    ]
    return torch.stack(unary).view(num_labels, *labels.shape)


def _segment(
    image: NDArray[np.uint8],
    held: NDArray[np.int64],
    shown: NDArray[np.int64],
    count: int,
    components: int,
    rounds: int,
    crf: CRFRNN | None,
) -> Prediction:
    """`held` is clamped; the colours are learnt from `shown`, later from the labels found."""
    if rounds < 1:
        raise ValueError(f"rounds: expected at least 1, got {rounds}")
    layer = default_crf(count, held.shape) if crf is None else crf
    guide, clamp = Held(image), torch.from_numpy(held)
    found: Prediction | None = None
    for _ in range(rounds):
        found = refine(guide, colour_unary(image, shown, count, components=components), layer, clamp=clamp)
        if np.array_equal(found.labels, shown) or len(np.unique(found.labels)) < count:
            break  # settled, or a label has no pixels left to learn from
        shown = found.labels
    assert found is not None
    return found


def _ask_about_white(held: NDArray[np.int64]) -> None:
    if only_white(held):
        raise ValueError(
            f"scribbles: expected labels and {FREE} = free, got nothing but 0 and {VOID}; for white strokes "
            f"on black take np.where(scribbles == {VOID}, 1, {FREE}) and scribble on the background too; "
            f"where {VOID} means free, np.where(scribbles == {VOID}, {FREE}, scribbles)"
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
            "scribble on it, or leave it out"
        )
