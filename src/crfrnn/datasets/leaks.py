# SPDX-License-Identifier: MIT
"""Pictures that are in both the training and the validation set, under the same or different names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from crfrnn.datasets.pictures import LabelledPicture, PictureSet, Progress
from crfrnn.io.images import FORMATS, MAX_PIXELS, as_rgb, decode
from crfrnn.io.problems import by_kind

GRID = 16
# Root mean square over the thumbnail, in grey levels. Copies saved at 37 to 160 % of the size with JPEG
# qualities from 30 differed by up to 3.5, the closest two of 1,198 different pictures of VOC and COCO by 20.
TOLERANCE = 6.0
_THREADS = 4
_BLOCK = 2048
_COCO = re.compile(r"COCO_(?:train|val|test)20\d\d_(\d{12})")
_VOC_2007 = re.compile(r"\d{6}")


@dataclass(frozen=True)
class Leak:
    """A picture that is in both sets.

    Attributes:
        train, val: its ids there.
        reason: "id" or "picture".
        distance: distance of the two thumbnails, in grey levels; 0 for equal ids, without a comparison.
    """

    train: str
    val: str
    reason: str
    distance: float = 0.0

    def __str__(self) -> str:
        how = "same id" if self.reason == "id" else f"same picture (distance {self.distance:.2f} of 255)"
        return f"{self.train!r} in train, {self.val!r} in val: {how}"


def find_leaks(
    train: PictureSet, val: PictureSet, *, pictures: bool = True, progress: Progress | None = None
) -> list[Leak]:
    """Pictures of `val` that are also in `train`, by id and by appearance.

    Ids are compared in a canonical form: 000032 of VOC 2007 is 2007_000032 of VOC 2012, and
    COCO_train2014_000000000009 is 000000000009. Appearance is compared by thumbnails of 16 × 16 RGB: a copy
    at another size or quality is found, a mirrored or cropped one is not.

    Args:
        train, val: VOC, SBD, COCO or any other sets.
        pictures: False compares only ids, and reads no file.
        progress: called with (pictures read, total).

    Raises:
        ValueError: a picture that cannot be read.
    """
    known = {canonical_id(item.id): item.id for item in train}
    leaks = [Leak(known[name], i.id, "id") for i in val if (name := canonical_id(i.id)) in known]
    if not pictures:
        return leaks
    found = {(leak.train, leak.val) for leak in leaks}
    looks = _thumbnails([*train, *val], progress)
    for row, column, distance in _close(looks[: len(train)], looks[len(train) :]):
        pair = (train[row].id, val[column].id)
        if pair not in found:
            leaks.append(Leak(*pair, "picture", distance))
    return leaks


def refuse_leaks(
    train: PictureSet, val: PictureSet, *, pictures: bool = True, progress: Progress | None = None
) -> None:
    """Raise one ValueError with the number of leaks found by `find_leaks` and some examples."""
    leaks = find_leaks(train, val, pictures=pictures, progress=progress)
    if leaks:
        lines = "\n  ".join(by_kind([str(leak) for leak in leaks]))
        raise ValueError(
            f"train, val: expected no picture in both, got {len(leaks)}; remove them from one:\n  {lines}"
        )


def canonical_id(name: str) -> str:
    """The id without the parts that differ between releases.

    >>> canonical_id("COCO_train2014_000000000009"), canonical_id("000032"), canonical_id("2008_000002")
    ('000000000009', '2007_000032', '2008_000002')
    """
    if found := _COCO.fullmatch(name):
        return found[1]
    return f"2007_{name}" if _VOC_2007.fullmatch(name) else name


def thumbnail(item: LabelledPicture) -> NDArray[np.float32]:
    """A picture as Float32[16 · 16 · 3], RGB, 0..255: averages over its tiles."""
    picture = decode(item.image_path, "image", formats=FORMATS, max_pixels=MAX_PIXELS)
    whole = Image.fromarray(as_rgb(picture, item.image_path))
    small = whole.resize((GRID, GRID), Image.Resampling.BOX)
    return np.asarray(small, np.float32).reshape(-1)


def _thumbnails(items: list[LabelledPicture], progress: Progress | None) -> NDArray[np.float32]:
    looks = np.empty((len(items), GRID * GRID * 3), np.float32)
    with ThreadPoolExecutor(_THREADS) as pool:
        for row, look in enumerate(pool.map(thumbnail, items)):
            looks[row] = look
            if progress is not None:
                progress(row + 1, len(items))
    return looks


def _close(a: NDArray[np.float32], b: NDArray[np.float32]) -> Iterator[tuple[int, int, float]]:
    """Pairs within the tolerance, block by block: found by |x|² + |y|² - 2 x·y, confirmed by |x - y|²."""
    limit = TOLERANCE**2 * a.shape[1]
    square = (b.astype(np.float64) ** 2).sum(1)
    for start in range(0, len(a), _BLOCK):
        block = a[start : start + _BLOCK]
        apart = (block.astype(np.float64) ** 2).sum(1)[:, None] + square - 2.0 * (block @ b.T)
        # In float32 the product has an error of about 1e-7 of the squares, which may be 5e7.
        for row, column in np.argwhere(apart <= limit + 200.0):
            distance = float(np.sqrt(((block[row] - b[column]) ** 2).mean()))
            if distance <= TOLERANCE:
                yield start + int(row), int(column), distance
