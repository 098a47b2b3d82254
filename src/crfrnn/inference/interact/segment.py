# SPDX-License-Identifier: MIT
"""Segment a photograph from scribbles, seeds or a box, by a colour model per label and the CRF."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from crfrnn.crf import CRFRNN
from crfrnn.inference.interact.marked import BOX_ROUNDS, COMPONENTS, SCRIBBLE_ROUNDS, Marked
from crfrnn.inference.prediction import Prediction
from crfrnn.io.labels import FREE


def segment_scribbles(
    image: NDArray[np.uint8],
    scribbles: NDArray[np.integer],
    num_labels: int | None = None,
    *,
    components: int = COMPONENTS,
    rounds: int = SCRIBBLE_ROUNDS,
    crf: CRFRNN | None = None,
) -> Prediction:
    """Segment a picture from scribbles on some pixels of every label.

    Each label's colours are a mixture of Gaussians fitted to its scribbled pixels; its log-density is the
    unary, and the CRF refines it with the scribbles fixed. In further rounds the colours are learned again
    from the resulting labels, as in GrabCut.

    Args:
        image: UInt8[H, W, 3].
        scribbles: Int[H, W], 0..L-1, -1 = free, from `crfrnn.io.read_scribbles`.
        num_labels: L; None uses the largest scribbled label plus one. Each label needs at least one pixel.
        components: Gaussians per label.
        rounds: rounds of colour model and CRF, at least 1.
        crf: the layer; None uses `default_crf`.

    Returns:
        `Prediction`: the labels by colour alone (`before`), those after the CRF, which keep the scribbles,
            and the marginals.

    Raises:
        ValueError: other shapes, labels out of range, a label without scribbles.

    Source: Rother, Kolmogorov & Blake, *GrabCut*, SIGGRAPH 2004, doi:10.1145/1015706.1015720, with the fully
    connected CRF instead of the graph cut.

    >>> image = np.zeros((6, 8, 3), np.uint8)
    >>> image[:, 4:] = 200
    >>> scribbles = np.full((6, 8), -1)
    >>> scribbles[2, 1], scribbles[3, 6] = 0, 1
    >>> segment_scribbles(image, scribbles).labels[0].tolist()
    [0, 0, 0, 0, 1, 1, 1, 1]
    """
    return Marked(image, scribbles, num_labels, components=components, rounds=rounds)(crf)


def segment_seeds(
    image: NDArray[np.uint8],
    seeds: Iterable[tuple[int, int, int]],
    num_labels: int | None = None,
    *,
    radius: int = 5,
    components: int = 2,
    rounds: int = SCRIBBLE_ROUNDS,
    crf: CRFRNN | None = None,
) -> Prediction:
    """Segment a picture from points (x, y, label); a disk of `radius` pixels around each is fixed.

    Where disks of different labels overlap, the later seed takes precedence. Otherwise as
    `segment_scribbles`.

    Raises:
        ValueError: no seeds, a seed outside the picture, a label without seeds.

    >>> image = np.zeros((6, 8, 3), np.uint8)
    >>> image[:, 4:] = 200
    >>> segment_seeds(image, [(1, 2, 0), (6, 3, 1)], radius=1).labels[0].tolist()
    [0, 0, 0, 0, 1, 1, 1, 1]
    """
    if radius < 0:
        raise ValueError(f"radius: expected at least 0, got {radius}; 0 fixes only the point")
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


def segment_box(
    image: NDArray[np.uint8],
    box: Sequence[int],
    *,
    scribbles: NDArray[np.integer] | None = None,
    components: int = COMPONENTS,
    rounds: int = BOX_ROUNDS,
    crf: CRFRNN | None = None,
) -> Prediction:
    """Segment the object in a box: label 1 for the object, 0 elsewhere; everything outside is fixed to 0.

    The colours of the outside are known; those of the object are learned from the pixels that the CRF labels
    as object, in several rounds.

    Args:
        image: UInt8[H, W, 3].
        box: (left, top, right, bottom) in pixels, right and bottom excluded.
        scribbles: Int[H, W], 0, 1 or -1 = free: corrections, which are fixed too (1 where a part of the
            object was missed).
        components, rounds, crf: as in `segment_scribbles`.

    Returns:
        `Prediction` with two labels. An object with the colours of the outside may vanish.

    Raises:
        ValueError: a box that is empty, leaves the picture or covers it; other shapes.

    Source: as `segment_scribbles`; see section 3.2 of the paper.

    >>> image = np.zeros((9, 9, 3), np.uint8)
    >>> image[3:6, 3:7] = 200
    >>> segment_box(image, (2, 2, 8, 7)).labels[4].tolist()
    [0, 0, 0, 1, 1, 1, 1, 0, 0]
    """
    return Marked(image, scribbles, box=box, components=components, rounds=rounds)(crf)
