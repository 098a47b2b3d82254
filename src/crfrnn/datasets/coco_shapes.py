# SPDX-License-Identifier: MIT
"""COCO's polygons and run lengths, looked at before pycocotools, whose C code believes them, sees them."""

from __future__ import annotations

import math
from typing import Any

Shape = bytes  # run lengths in COCO's compressed form


class ShapeError(ValueError):
    """An annotation that cannot be a shape in its picture."""


def encode(segmentation: Any, size: tuple[int, int], tools: Any) -> Shape | None:
    """The shape of an annotation as compressed run lengths; None where it encloses nothing.

    Args:
        segmentation: a list of polygons [x0, y0, x1, y1, …], or {"size": [H, W], "counts": …} with run
            lengths down the columns, as a list or in COCO's compressed form.
        size: (height, width) of the picture.
        tools: the module pycocotools.mask.

    Raises:
        ShapeError: polygons far outside the picture or with values that are no numbers, run lengths that do
            not add up to the picture. (pycocotools would allocate without limit, or hand out memory that
            nobody wrote.)
    """
    height, width = size
    if isinstance(segmentation, dict):
        counts = _checked_counts(segmentation, size)
        return tools.frPyObjects({"size": [height, width], "counts": counts}, height, width)["counts"]
    if not isinstance(segmentation, list):
        raise ShapeError(f"expected polygons or run lengths, got {type(segmentation).__name__}")
    # Fewer than three corners enclose nothing, and four numbers pycocotools would take for a box.
    polygons = [_checked_polygon(p, size) for p in segmentation]
    polygons = [p for p in polygons if len(p) >= 6]
    if not polygons:
        return None
    return tools.merge(tools.frPyObjects(polygons, height, width))["counts"]


def _checked_polygon(polygon: Any, size: tuple[int, int]) -> list[float]:
    if not isinstance(polygon, list) or len(polygon) % 2:
        raise ShapeError("expected polygons [x0, y0, x1, y1, …], got something else")
    # Compared before converted: an integer of a thousand digits is no float.
    if not all(isinstance(v, (int, float)) and abs(v) < math.inf for v in polygon):
        raise ShapeError("expected finite numbers as corners, got something else")
    height, width = size
    for values, length, axis in ((polygon[::2], width, "x"), (polygon[1::2], height, "y")):
        if values and (min(values) < -length or max(values) > 2 * length):
            raise ShapeError(
                f"expected corners in or near 0..{length} along {axis}, got {min(values)}..{max(values)}"
            )
    return [float(v) for v in polygon]


def _checked_counts(segmentation: dict[str, Any], size: tuple[int, int]) -> list[int]:
    if segmentation.get("size") != list(size):
        raise ShapeError(f"expected run lengths of size {list(size)}, got {segmentation.get('size')!r}")
    counts = segmentation.get("counts")
    if isinstance(counts, str):
        counts = _uncompressed(counts)
    if not isinstance(counts, list) or not all(isinstance(c, int) and c >= 0 for c in counts):
        raise ShapeError("expected run lengths of 0 and more, got something else")
    if sum(counts) != size[0] * size[1]:
        raise ShapeError(f"expected run lengths that add up to {size[0] * size[1]}, got {sum(counts)}")
    return counts


def _uncompressed(text: str) -> list[int]:
    """Run lengths out of COCO's text: five bits a character from '0' on, a bit for more, differences."""
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 35:
            raise ShapeError("expected compressed run lengths, got other text")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                value -= 1 << shift
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    if shift:
        raise ShapeError("expected whole compressed run lengths, got a part")
    return counts
