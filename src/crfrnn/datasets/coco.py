# SPDX-License-Identifier: MIT
"""MS COCO with the labels of VOC: 20 of its 80 categories, the rest background, crowds void."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crfrnn.datasets.pictures import LabelledPicture, PictureSet, Progress
from crfrnn.extras import optional
from crfrnn.io.files import FileError, PathLike, existing
from crfrnn.io.images import MAX_PIXELS
from crfrnn.io.palette import VOC_CLASSES, VOID
from crfrnn.io.problems import by_kind
from crfrnn.lattice.validate import check_choice, warn

Shape = bytes  # run lengths in COCO's compressed form
MIN_PIXELS = 200
Labelled = tuple[int, dict[str, Any]]  # a label of VOC and an annotation
OVERLAPS = ("smaller", "void")
# Six names differ; the other fourteen are the same.
_RENAMED = {
    "airplane": "aeroplane", "motorcycle": "motorbike", "potted plant": "pottedplant", "couch": "sofa",
    "dining table": "diningtable", "tv": "tvmonitor",
}  # fmt: skip
_EXACT = 2**53  # floats above represent several whole numbers
_DIGITS = 19


class ShapeError(ValueError):
    """An annotation that is not a valid shape in its picture."""


@dataclass(frozen=True)
class CocoMask:
    """The mask of one picture, painted at each call: UInt8[H, W], labels of VOC, 255 = void.

    Attributes:
        size: (height, width).
        shapes: (label, run lengths), the largest first; void shapes before all others.
        overlap: value of a pixel in shapes of two labels: "smaller" = the label of the smaller shape, "void".
    """

    size: tuple[int, int]
    shapes: tuple[tuple[int, Shape], ...] = field(repr=False)
    overlap: str = "smaller"

    def __call__(self) -> NDArray[np.uint8]:
        tools = mask_tools()
        mask = np.zeros(self.size, np.uint8)
        taken = np.zeros(self.size, bool)
        for label, counts in self.shapes:
            inside = tools.decode({"size": list(self.size), "counts": counts}).astype(bool)
            if label == VOID:
                mask[inside] = VOID
                continue
            clash = inside & taken & (mask != label)
            mask[inside] = label
            if self.overlap == "void":
                mask[clash] = VOID
            taken |= inside
        return mask

    def pixels(self) -> int:
        """The number of pixels in shapes with a label, without crowds."""
        tools = mask_tools()
        shapes = [{"size": list(self.size), "counts": c} for label, c in self.shapes if label != VOID]
        return int(tools.area(tools.merge(shapes))) if shapes else 0


def coco_pictures(
    root: PathLike,
    split: str = "train2014",
    *,
    min_pixels: int = MIN_PIXELS,
    overlap: str = "smaller",
    progress: Progress | None = None,
) -> PictureSet:
    """The pictures of COCO with at least `min_pixels` pixels of VOC's labels.

    The paper's second experiment uses those of train2014 with at least 200. A pixel counts if it lies in an
    annotated object of one of the 20 categories; crowds and annotations marked ``ignore`` become void and do
    not count. Ids may be written as 5, 5.0 or "5".

    Args:
        root: the folder with ``annotations/instances_<split>.json`` and the pictures in ``<split>`` or
            ``images/<split>``.
        split: "train2014", "train2017", "val2017", …
        min_pixels: 0 takes all pictures, including those without any annotation.
        overlap: for objects of two labels that overlap: "smaller" assigns the pixel to the smaller one (the
        person on the sofa), "void" to neither.
        progress: called with (pictures done, total) while shapes are converted to run lengths.

    Raises:
        ValueError: no such file or folder, a damaged file, ids that are missing, not whole or duplicated;
            all unusable annotations and all missing pictures are listed together.
        ImportError: pycocotools is not installed.

    Source: Zheng et al., ICCV 2015, section 7.2; Lin et al., Microsoft COCO, ECCV 2014.
    """
    check_choice("overlap", overlap, OVERLAPS)
    listing = Path(root) / "annotations" / f"instances_{split}.json"
    content = _read(listing)
    places = [p for p in (Path(root) / split, Path(root) / "images" / split) if p.is_dir()]
    if not places:
        raise ValueError(f"root: expected a folder {split!r} in {str(root)!r}, got none; unpack the pictures")
    labels = voc_labels(content["categories"], listing)
    pictures = ids_of(content["images"], "id", "images", listing, once=True)
    by_picture = _by_picture(content, labels, pictures, listing)
    items: list[LabelledPicture] = []
    problems: list[str] = []
    for done, (number, picture) in enumerate(zip(pictures, content["images"], strict=True), 1):
        try:
            name, mask = _mask(picture, by_picture.get(number, []), overlap)
        except ShapeError as error:
            problems.append(f"picture {number}: {error}")
            continue
        finally:
            if progress is not None:
                progress(done, len(content["images"]))
        if min_pixels <= 0 or mask.pixels() >= min_pixels:
            items.append(LabelledPicture(Path(name).stem, places[0] / name, None, len(VOC_CLASSES), mask))
    if problems:
        raise FileError(
            "annotations", listing, "shapes inside their pictures",
            f"{len(problems)} problems:\n  " + "\n  ".join(by_kind(problems)) + "\n",
            "download the file again, or remove these",
        )  # fmt: skip
    return PictureSet.of(items, listing, VOC_CLASSES)


def voc_labels(categories: list[dict[str, Any]], listing: PathLike = "categories") -> dict[int, int]:
    """VOC's label by COCO's category id, for VOC's 20 labels.

    >>> voc_labels([{"id": 63, "name": "couch"}, {"id": 1, "name": "person"}, {"id": 52, "name": "banana"}])
    {63: 18, 1: 15}
    """
    found: dict[int, int] = {}
    for number, category in zip(
        ids_of(categories, "id", "categories", listing, once=True), categories, strict=True
    ):
        written = str(category.get("name")).strip().casefold()
        name = _RENAMED.get(written, written)
        if name in VOC_CLASSES[1:]:
            found[number] = VOC_CLASSES.index(name)
    if not found:
        raise FileError(
            "annotations", listing, "categories with COCO's names (person, couch, …)",
            "none of VOC's 20", "read other labels with folder_pictures",
        )  # fmt: skip
    return found


def _by_picture(
    content: dict[str, list[dict[str, Any]]], labels: dict[int, int], pictures: list[int], listing: Path
) -> dict[int, list[Labelled]]:
    """The annotations of VOC's labels, with their labels, by the id of their picture."""
    annotations = content["annotations"]
    categories = ids_of(annotations, "category_id", "annotations", listing)
    known = set(ids_of(content["categories"], "id", "categories", listing))
    if unknown := [c for c in categories if c not in known]:
        raise FileError(
            "annotations", listing, "a 'category_id' that 'categories' lists in every annotation",
            f"{unknown[0]} ({len(unknown)} such annotations)", "add the category, or remove them",
        )  # fmt: skip
    found: dict[int, list[Labelled]] = defaultdict(list)
    owners = ids_of(annotations, "image_id", "annotations", listing)
    for annotation, category, picture in zip(annotations, categories, owners, strict=True):
        if category in labels:
            found[picture].append((labels[category], annotation))
    if strays := set(owners).difference(pictures):
        lost = sum(owner in strays for owner in owners)
        warn(
            f"annotations {str(listing)!r}: {lost} of {len(owners)} annotations are ignored, since 'images' "
            f"does not list their pictures ({len(strays)} ids, such as {min(strays)})"
        )
    return found


def mask_tools() -> Any:
    """pycocotools.mask; ImportError with the remedy if it is not installed."""
    return optional("pycocotools.mask", "train", "COCO annotations")


def _read(listing: Path) -> dict[str, list[dict[str, Any]]]:
    existing(listing, "annotations")
    try:
        content = json.loads(listing.read_bytes())
    except (ValueError, RecursionError, OSError) as error:
        raise FileError(
            "annotations", listing, "JSON", f"{type(error).__name__}: {error}", "download it again"
        ) from error
    for name in ("images", "annotations", "categories"):
        entries = content.get(name) if isinstance(content, dict) else None
        if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
            raise FileError(
                "annotations", listing, f"a list of objects {name!r}", type(entries).__name__,
                "take the instances_*.json",
            )  # fmt: skip
    return content


def _mask(picture: dict[str, Any], annotations: list[Labelled], overlap: str) -> tuple[str, CocoMask]:
    name = picture.get("file_name")
    height, width = whole_number(picture.get("height")), whole_number(picture.get("width"))
    if not isinstance(name, str) or not name or "/" in name or "\\" in name or "\0" in name:
        raise ShapeError(f"expected a plain file name, got {name!r}")
    if height is None or width is None or height < 1 or width < 1:
        got = f"{picture.get('height')!r:.40} and {picture.get('width')!r:.40}"
        raise ShapeError(f"expected a height and a width, got {got}")
    if height * width > MAX_PIXELS:
        raise ShapeError(f"expected at most {MAX_PIXELS} pixels, got {height} × {width}")
    tools = mask_tools()
    shapes: list[tuple[int, int, Shape]] = []
    for label, annotation in annotations:
        counts = encode(annotation.get("segmentation"), (height, width), tools)
        if counts is not None:
            area = int(tools.area({"size": [height, width], "counts": counts}))
            hidden = _flag(annotation, "iscrowd") or _flag(annotation, "ignore")
            shapes.append((VOID if hidden else label, area, counts))
    shapes.sort(key=lambda shape: (shape[0] != VOID, -shape[1]))
    return name, CocoMask((height, width), tuple((label, counts) for label, _, counts in shapes), overlap)


def _flag(annotation: dict[str, Any], name: str) -> bool:
    value = annotation.get(name)
    number = int(value) if isinstance(value, bool) else 0 if value is None else whole_number(value)
    if number not in (0, 1):
        raise ShapeError(f"expected 0 or 1 as {name!r} of an annotation, got {value!r:.40}")
    return number == 1


def whole_number(value: Any) -> int | None:
    """The whole number that a JSON value represents; None for anything else, including true and false.

    >>> [whole_number(v) for v in (5, 5.0, "005", 5.5, "5a", True, None)]
    [5, 5, 5, None, None, None, None]
    """
    if isinstance(value, bool):
        return None
    if isinstance(value, float):
        return int(value) if value.is_integer() and abs(value) < _EXACT else None
    if isinstance(value, str):
        return int(value) if value.isascii() and value.isdigit() and len(value) <= _DIGITS else None
    return value if isinstance(value, int) else None


def ids_of(
    entries: Sequence[dict[str, Any]], field: str, name: str, listing: PathLike, *, once: bool = False
) -> list[int]:
    """The ids under `field` of all entries of a list; with `once` they must be unique.

    Args: name: the list's name in the file; listing: the file.

    Raises: ValueError that names file, list, field and the first invalid entry.
    """
    found = [whole_number(entry.get(field)) for entry in entries]
    bad = [place for place, value in enumerate(found) if value is None]
    if bad:
        entry = entries[bad[0]]
        got = f"{entry[field]!r:.40}" if field in entry else "none"
        raise FileError(
            "annotations", listing, f"a whole number as {field!r} in every entry of {name!r}",
            f"{got} in entry {bad[0]} (counted from 0; {len(bad)} such entries)",
            "write whole numbers, or remove these entries",
        )  # fmt: skip
    numbers = [value for value in found if value is not None]
    if once and len(set(numbers)) < len(numbers):
        seen: set[int] = set()
        twice = sorted({n for n in numbers if n in seen or seen.add(n)})
        raise FileError(
            "annotations", listing, f"each {field!r} once in {name!r}",
            f"{len(twice)} of them twice or more (the first: {twice[0]})",
            "when merging files, renumber the entries and their annotations",
        )  # fmt: skip
    return numbers


def encode(segmentation: Any, size: tuple[int, int], tools: Any) -> Shape | None:
    """The shape of an annotation as compressed run lengths; None if it is empty.

    Args:
        segmentation: a list of polygons [x0, y0, x1, y1, …], or {"size": [H, W], "counts": …} with run
            lengths down the columns, as a list or in COCO's compressed form.
        size: (height, width) of the picture.
        tools: the module pycocotools.mask.

    Raises:
        ShapeError: polygons far outside the picture or with non-numeric values, run lengths that do not add
            up to the picture. (pycocotools would allocate without limit, or return uninitialised memory.)
    """
    height, width = size
    if isinstance(segmentation, dict):
        counts = _checked_counts(segmentation, size)
        return tools.frPyObjects({"size": [height, width], "counts": counts}, height, width)["counts"]
    if not isinstance(segmentation, list):
        raise ShapeError(f"expected polygons or run lengths, got {type(segmentation).__name__}")
    # Fewer than three corners enclose nothing, and pycocotools would interpret four numbers as a box.
    polygons = [_checked_polygon(p, size) for p in segmentation]
    polygons = [p for p in polygons if len(p) >= 6]
    if not polygons:
        return None
    return tools.merge(tools.frPyObjects(polygons, height, width))["counts"]


def _checked_polygon(polygon: Any, size: tuple[int, int]) -> list[float]:
    if not isinstance(polygon, list) or len(polygon) % 2:
        raise ShapeError("expected polygons [x0, y0, x1, y1, …], got something else")
    # Compare before converting: an integer of a thousand digits does not fit a float.
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
    """Run lengths from COCO's text: five bits per character from '0', a continuation bit, differences."""
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
        raise ShapeError("expected complete compressed run lengths, got a part")
    return counts
