# SPDX-License-Identifier: MIT
"""Pictures with their label maps on disk: the VOC development kit, and a plain pair of folders."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crfrnn.data.files import PathLike
from crfrnn.data.images import read_image
from crfrnn.data.palette import read_label_png

VOC_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)  # fmt: skip
_IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm")
_SHOWN = 20


@dataclass(frozen=True)
class LabelledPicture:
    """One picture and its truth; nothing is read before `image` or `mask` is asked for, and nothing is kept.

    Attributes:
        id: the name, the same for picture and mask.
        image_path, mask_path: where they are; no mask path in a set without truths.
        num_labels: what the labels of the mask are checked against, or None.
    """

    id: str
    image_path: Path
    mask_path: Path | None
    num_labels: int | None = None

    @property
    def image(self) -> NDArray[np.uint8]:
        """The picture, UInt8[H, W, 3], read from disk at each call."""
        return read_image(self.image_path)

    @property
    def mask(self) -> NDArray[np.uint8]:
        """The labels, UInt8[H, W], 255 = void, read from disk at each call."""
        if self.mask_path is None:
            raise ValueError(
                f"mask: expected a picture with a truth, got {self.id!r} without; pass masks=True"
            )
        return read_label_png(self.mask_path, self.num_labels, role="mask")


@dataclass(frozen=True)
class PictureSet:
    """Pictures in a fixed order: ``len``, index, slice and iteration; build it with `voc` or `folder`.

    Attributes:
        items: the pictures.
        class_names: a name per label, or empty.
    """

    items: tuple[LabelledPicture, ...]
    class_names: tuple[str, ...] = ()

    @classmethod
    def voc(cls, root: PathLike, split: str = "val", *, masks: bool = True, year: str = "2012") -> PictureSet:
        """The pictures that ``ImageSets/Segmentation/<split>.txt`` lists.

        Args:
            root: the folder that holds ``VOCdevkit``, or ``VOCdevkit`` itself, or the ``VOC2012`` in it.
            split: "train", "val", "trainval", "test" or any other list there.
            masks: False for lists without public truths (test).
            year: which VOC.

        Raises:
            ValueError: no such folder or list, an empty list, ids twice, and all missing files named at once.
        """
        base = _devkit(Path(root), year)
        lists = base / "ImageSets" / "Segmentation"
        listing = lists / f"{split}.txt"
        if not listing.is_file():
            known = ", ".join(sorted(p.stem for p in lists.glob("*.txt"))) or "none"
            raise ValueError(f"split: expected one of the lists in {lists} ({known}), got {split!r}")
        ids = listing.read_text(encoding="utf-8").split()
        strange = [i for i in ids if "/" in i or "\\" in i or i in (".", "..")]
        if strange:
            raise ValueError(
                f"split: expected plain ids in {listing}, got {strange[0]!r}; one a line, no folders"
            )
        items = tuple(
            LabelledPicture(
                i,
                base / "JPEGImages" / f"{i}.jpg",
                base / "SegmentationClass" / f"{i}.png" if masks else None,
                len(VOC_CLASSES),
            )
            for i in ids
        )
        return cls(_present(items, str(listing)), VOC_CLASSES)

    @classmethod
    def folder(
        cls,
        root: PathLike,
        *,
        images: str = "images",
        masks: str | None = "masks",
        num_labels: int | None = None,
    ) -> PictureSet:
        """Pictures in ``root/images`` with indexed or grey PNG masks of the same stems in ``root/masks``.

        Args:
            root: the folder with the two.
            images, masks: their names; masks=None for pictures without truths.
            num_labels: where given, masks with other labels (but 255) are refused when they are read.

        Raises:
            ValueError: no such folder, no pictures, two of one stem, and all missing masks named at once.
        """
        place = Path(root) / images
        if not place.is_dir():
            raise ValueError(f"root: expected a folder with {images!r} in it, got {str(root)!r}; check it")
        found = sorted(p for p in place.iterdir() if p.suffix.lower() in _IMAGE_ENDINGS and p.is_file())
        truths = None if masks is None else Path(root) / masks
        items = tuple(
            LabelledPicture(p.stem, p, None if truths is None else truths / f"{p.stem}.png", num_labels)
            for p in found
        )
        return cls(_present(items, str(place)))

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> LabelledPicture:
        return self.items[index]

    def __iter__(self) -> Iterator[LabelledPicture]:
        return iter(self.items)

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(item.id for item in self.items)

    def select(self, ids: Iterable[str]) -> PictureSet:
        """The same set with only these pictures, in this order (a fold, a sample)."""
        by_id = {item.id: item for item in self.items}
        wanted = list(ids)
        missing = [i for i in wanted if i not in by_id]
        if missing:
            raise ValueError(f"ids: expected ids of this set of {len(self)}, got {_some(missing)}; see .ids")
        return PictureSet(tuple(by_id[i] for i in wanted), self.class_names)

    def verify(self) -> None:
        """Decode every file; name all that are damaged, or whose picture and mask differ in size, at once."""
        problems = []
        for item in self.items:
            sizes = []
            for part in ("image", "mask") if item.mask_path is not None else ("image",):
                try:
                    sizes.append(getattr(item, part).shape[:2])
                except ValueError as error:
                    problems.append(str(error))
            if len(sizes) == 2 and sizes[0] != sizes[1]:
                problems.append(f"{item.id}: picture {sizes[0]} and mask {sizes[1]} differ in size")
        if problems:
            lines = "\n  ".join(problems)
            raise ValueError(
                f"pictures: expected {len(self)} sound ones, got {len(problems)} problems; "
                f"copy these again:\n  {lines}"
            )


def _devkit(root: Path, year: str) -> Path:
    for base in (root, root / f"VOC{year}", root / "VOCdevkit" / f"VOC{year}"):
        if (base / "ImageSets" / "Segmentation").is_dir():
            return base
    raise ValueError(
        f"root: expected a folder with VOCdevkit/VOC{year}/ImageSets/Segmentation, got {str(root)!r}; "
        "name the folder that the development kit was unpacked in"
    )


def _present(items: tuple[LabelledPicture, ...], where: str) -> tuple[LabelledPicture, ...]:
    if not items:
        raise ValueError(f"pictures: expected at least one, got none in {where}")
    seen: set[str] = set()
    twice = sorted({i.id for i in items if i.id in seen or seen.add(i.id)})
    if twice:
        raise ValueError(f"pictures: expected each id once in {where}, got twice: {_some(twice)}; remove one")
    paths = [p for item in items for p in (item.image_path, item.mask_path) if p is not None]
    missing = [str(p) for p in paths if not p.is_file() or p.stat().st_size == 0]
    if missing:
        lines = "\n  ".join(missing)
        raise ValueError(
            f"pictures: expected {len(paths)} files for {where}, got {len(missing)} missing or empty; "
            f"copy them or take their ids out:\n  {lines}"
        )
    return items


def _some(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
