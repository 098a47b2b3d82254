# SPDX-License-Identifier: MIT
"""MS COCO with the labels of VOC: 20 of its 80 categories, the rest background, crowds void."""

from __future__ import annotations

import importlib
import json
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crfrnn.datasets.coco_ids import ids_of, whole_number
from crfrnn.datasets.coco_shapes import Shape, ShapeError, encode
from crfrnn.datasets.pictures import LabelledPicture, PictureSet, Progress
from crfrnn.extras import install_line
from crfrnn.io.files import FileError, PathLike, existing
from crfrnn.io.images import MAX_PIXELS
from crfrnn.io.palette import VOC_CLASSES, VOID
from crfrnn.io.problems import by_kind
from crfrnn.lattice.validate import warn

MIN_PIXELS = 200
Labelled = tuple[int, dict[str, Any]]  # a label of VOC and an annotation
OVERLAPS = ("smaller", "void")
# Names differ in six places; the other fourteen are the same.
_RENAMED = {
    "airplane": "aeroplane", "motorcycle": "motorbike", "potted plant": "pottedplant", "couch": "sofa",
    "dining table": "diningtable", "tv": "tvmonitor",
}  # fmt: skip


@dataclass(frozen=True)
class CocoMask:
    """The mask of one picture, painted anew at each call: UInt8[H, W], labels of VOC, 255 = void.

    Attributes:
        size: (height, width).
        shapes: (label, run lengths), the largest first; void shapes before all others.
        overlap: what a pixel of two labels becomes: "smaller" = the label of the smaller shape, "void".
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
        """How many pixels lie in shapes with a label, crowds left out."""
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
    """The pictures of COCO on which at least `min_pixels` pixels carry a label of VOC.

    The paper's second experiment takes those of train2014 with at least 200. A pixel counts where it lies
    in an annotated object of one of the 20 categories; crowds and annotations marked ``ignore`` become void
    and do not count. Ids may be written as 5, 5.0 or "5".

    Args:
        root: the folder with ``annotations/instances_<split>.json`` and the pictures in ``<split>`` or
            ``images/<split>``.
        split: "train2014", "train2017", "val2017", …
        min_pixels: 0 takes all pictures, also those without any annotation.
        overlap: where objects of two labels overlap: "smaller" gives the pixel to the smaller one (the
            person on the sofa), "void" to none.
        progress: called with (pictures done, pictures in all) while shapes are turned into run lengths.

    Raises:
        ValueError: no such file or folder, a damaged file, ids that are missing, no whole numbers or there
            twice, all unusable annotations and all missing pictures named at once.
        ImportError: pycocotools is not installed.

    Source: Zheng et al., ICCV 2015, section 7.2; Lin et al., Microsoft COCO, ECCV 2014.
    """
    if overlap not in OVERLAPS:
        raise ValueError(f"overlap: expected one of {', '.join(OVERLAPS)}, got {overlap!r}")
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
            "download the file again, or take these out",
        )  # fmt: skip
    return PictureSet.of(items, listing, VOC_CLASSES)


def voc_labels(categories: list[dict[str, Any]], listing: PathLike = "categories") -> dict[int, int]:
    """The label of VOC by COCO's category id, for the 20 that VOC has.

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
            "annotations", listing, "categories named as COCO names them (person, couch, …)",
            "none of the 20 that VOC has", "read other labels with folder_pictures",
        )  # fmt: skip
    return found


def _by_picture(
    content: dict[str, list[dict[str, Any]]], labels: dict[int, int], pictures: list[int], listing: Path
) -> dict[int, list[Labelled]]:
    """The annotations of labels that VOC has, with their labels, by the id of their picture."""
    annotations = content["annotations"]
    categories = ids_of(annotations, "category_id", "annotations", listing)
    known = set(ids_of(content["categories"], "id", "categories", listing))
    if unknown := [c for c in categories if c not in known]:
        raise FileError(
            "annotations", listing, "a 'category_id' that 'categories' lists in every annotation",
            f"{unknown[0]} ({len(unknown)} such annotations)", "add the category, or take them out",
        )  # fmt: skip
    found: dict[int, list[Labelled]] = defaultdict(list)
    owners = ids_of(annotations, "image_id", "annotations", listing)
    for annotation, category, picture in zip(annotations, categories, owners, strict=True):
        if category in labels:
            found[picture].append((labels[category], annotation))
    if strays := set(owners).difference(pictures):
        lost = sum(owner in strays for owner in owners)
        warn(
            f"annotations {str(listing)!r}: {lost} of {len(owners)} annotations are left out, since 'images' "
            f"does not list their pictures ({len(strays)} ids, such as {min(strays)})"
        )
    return found


def mask_tools() -> Any:
    """pycocotools.mask; ImportError with the remedy where it is not installed."""
    try:
        return importlib.import_module("pycocotools.mask")
    except ImportError as error:
        raise ImportError(
            f"COCO annotations need pycocotools: {install_line('train')} (or pycocotools)"
        ) from error


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
