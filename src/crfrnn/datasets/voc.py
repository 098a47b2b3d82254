# SPDX-License-Identifier: MIT
"""PASCAL VOC 2007-2012: pictures and truths of the development kits."""

from __future__ import annotations

from pathlib import Path

from crfrnn.datasets.pictures import LabelledPicture, PictureSet, read_ids
from crfrnn.io.files import PathLike
from crfrnn.io.palette import VOC_CLASSES
from crfrnn.lattice.validate import check_choice

VOC_YEARS = (
    "2007",
    "2008",
    "2009",
    "2010",
    "2011",
    "2012",
)  # the years with segmentations, all with 21 labels


def voc_pictures(root: PathLike, split: str = "val", *, masks: bool = True, year: str = "2012") -> PictureSet:
    """The pictures listed in ``ImageSets/Segmentation/<split>.txt`` of a VOC development kit.

    Args:
        root: the folder that holds ``VOCdevkit`` (or ``TrainVal/VOCdevkit``, as 2011 unpacks), or
            ``VOCdevkit`` itself, or the ``VOC2012`` in it.
        split: "train", "val", "trainval", "test" or any other list there.
        masks: False for lists without public truths (test, except that of 2007).
        year: "2007" to "2012".

    Raises:
        ValueError: no such year, folder or list, an empty list, duplicate ids, all missing files at once.
    """
    base = devkit(root, year)
    listing = segmentation_list(base, split)
    items = [
        LabelledPicture(
            i,
            base / "JPEGImages" / f"{i}.jpg",
            base / "SegmentationClass" / f"{i}.png" if masks else None,
            len(VOC_CLASSES),
        )
        for i in read_ids(listing)
    ]
    return PictureSet.of(items, listing, VOC_CLASSES)


def devkit(root: PathLike, year: str = "2012") -> Path:
    """The folder ``VOC<year>`` of a development kit in `root`, or `root` itself.

    Raises:
        ValueError: a year without segmentations, or no such folder.
    """
    check_choice("year", year, VOC_YEARS)
    start, name = Path(root), f"VOC{year}"
    for base in (
        start, start / name, start / "VOCdevkit" / name, start / "TrainVal" / "VOCdevkit" / name,
    ):  # fmt: skip
        # The folder may contain a kit of another year: VOC2010 is not VOC2012.
        another = base.name.startswith("VOC20") and base.name != name
        if not another and (base / "ImageSets" / "Segmentation").is_dir():
            return base
    raise ValueError(
        f"root: expected a folder with VOCdevkit/{name}/ImageSets/Segmentation, got {str(root)!r}; "
        "name the folder that the development kit was unpacked in"
    )


def segmentation_list(base: Path, split: str) -> Path:
    """The list file of a split; otherwise ValueError names the existing ones."""
    lists = base / "ImageSets" / "Segmentation"
    listing = lists / f"{split}.txt"
    if not listing.is_file():
        known = ", ".join(sorted(p.stem for p in lists.glob("*.txt"))) or "none"
        raise ValueError(f"split: expected one of the lists in {lists} ({known}), got {split!r}")
    return listing
