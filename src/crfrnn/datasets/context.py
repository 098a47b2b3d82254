# SPDX-License-Identifier: MIT
"""Pascal Context: dense labels of 10,103 pictures of VOC 2010, in the usual 59 labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crfrnn.datasets.pictures import LabelledPicture, PictureSet, read_ids
from crfrnn.datasets.voc import devkit
from crfrnn.io.files import FileError, PathLike, read_text
from crfrnn.io.labels import read_label_png
from crfrnn.io.matfile import read_mat
from crfrnn.io.palette import VOC_CLASSES, VOID

CONTEXT_CLASSES = (
    *VOC_CLASSES[1:], "bag", "bed", "bench", "book", "building", "cabinet", "ceiling", "clothes", "computer",
    "cup", "door", "fence", "floor", "flower", "food", "grass", "ground", "keyboard", "light", "mountain",
    "mouse", "curtain", "platform", "sign", "plate", "road", "rock", "shelves", "sidewalk", "sky", "snow",
    "bedcloth", "track", "tree", "truck", "wall", "water", "window", "wood",
)  # fmt: skip
# Three labels have different names in the lists of 459 and of 59.
_ALSO = {"table": "diningtable", "bedclothes": "bedcloth", "cloth": "clothes"}
_SPLITS = "SegmentationContext"


def context_pictures(
    root: PathLike,
    split: str | Path = "val",
    *,
    masks: PathLike | None = None,
    names: Sequence[str] | None = None,
    background: bool = True,
) -> PictureSet:
    """The pictures of Pascal Context with masks of 60 labels (0 = anything else), or of 59 and void.

    Masks are either the published ``ID.mat`` files, whose `LabelMap` holds 459 labels that are named in
    ``labels.txt`` (in the same folder or above it), or indexed PNGs ``ID.png``.

    Args:
        root: the VOC 2010 development kit, for the pictures.
        split: a list in ``ImageSets/SegmentationContext``, or the path of a list file.
        masks: the folder of masks; by default ``trainval`` or ``SegmentationClassContext`` in the kit.
        names: the labels of the values 0, 1, 2, … of PNG masks; by default "background" and
            `CONTEXT_CLASSES`. (State them for masks from converters that keep the alphabetical order.)
        background: False for the 59 labels alone: 0 = aeroplane, …, anything else void.

    Raises:
        ValueError: no such folder or list, unknown names, and all missing files in one error.

    Source: Mottaghi et al., The Role of Context for Object Detection and Semantic Segmentation in the Wild,
    CVPR 2014.
    """
    base = devkit(root, "2010")
    listing = split if isinstance(split, Path) else base / "ImageSets" / _SPLITS / f"{split}.txt"
    folder = Path(masks) if masks is not None else _mask_folder(base)
    ids = read_ids(listing)
    if ids and (folder / f"{ids[0]}.mat").is_file():
        ending, mapping = ".mat", ContextLabels.of(_label_names(folder), background)
    else:
        ending = ".png"
        mapping = ContextLabels.of(names or ("background", *CONTEXT_CLASSES), background)
    labels = ("background", *CONTEXT_CLASSES) if background else CONTEXT_CLASSES
    items = [
        LabelledPicture(
            i, base / "JPEGImages" / f"{i}.jpg", folder / f"{i}{ending}", len(labels),
            partial(mapping.mask, folder / f"{i}{ending}"),
        )
        for i in ids
    ]  # fmt: skip
    return PictureSet.of(items, listing, labels)


@dataclass(frozen=True)
class ContextLabels:
    """Maps the values of a mask file to labels: `table[value]`, -1 for an unused value."""

    table: tuple[int, ...] = field(repr=False)

    @classmethod
    def of(cls, names: Sequence[str], background: bool = True) -> ContextLabels:
        """The table of values 0, 1, 2, … with these names.

        Raises:
            ValueError: a list in which one of the 59 does not occur exactly once.
        """
        own = [_ALSO.get(name, name) for name in names]
        missing = [name for name in CONTEXT_CLASSES if own.count(name) != 1]
        if missing:
            raise ValueError(
                f"names: expected each of the 59 labels of Pascal Context once, got {', '.join(missing)} "
                "missing or twice; pass CONTEXT_CLASSES or the names of the 459 labels"
            )
        other = 0 if background else VOID
        place = {name: index + int(background) for index, name in enumerate(CONTEXT_CLASSES)}
        return cls(tuple(place.get(name, other) for name in own))

    def mask(self, path: Path) -> NDArray[np.uint8]:
        """The mask of a .mat (variable ``LabelMap``) or .png file: UInt8[H, W], 255 = void."""
        is_mat = path.suffix.lower() == ".mat"
        values = read_mat(path, "LabelMap") if is_mat else read_label_png(path, role="mask")
        table = np.array(self.table, np.uint8)
        void = np.zeros(values.shape, bool) if is_mat else values == VOID
        if (
            not np.array_equal(values, np.round(values))
            or (values < 0).any()
            or (values[~void] >= len(table)).any()
        ):
            raise FileError(
                "mask", path, f"labels 0..{len(table) - 1}", f"{values.min()}..{values.max()}",
                "check that the list of names belongs to these masks",
            )  # fmt: skip
        return np.where(void, VOID, table[np.where(void, 0, values).astype(np.int64)]).astype(np.uint8)


def _mask_folder(base: Path) -> Path:
    for folder in (base / "trainval", base / "SegmentationClassContext"):
        if folder.is_dir():
            return folder
    raise ValueError(
        f"masks: expected trainval or SegmentationClassContext in {str(base)!r}, got neither; "
        "name the folder with the masks"
    )


def _label_names(folder: Path) -> list[str]:
    """Names by value: 0, then those of the list of 459, one ``NUMBER: NAME`` per line, from 1."""
    for listing in (folder / "labels.txt", folder.parent / "labels.txt"):
        if listing.is_file():
            break
    else:
        raise FileError(
            "labels", folder / "labels.txt", "the list of 459 names", "no file here or in the folder above",
            "copy it from the data set's page",
        )  # fmt: skip
    names = ["background"]
    for line in read_text(listing, "labels").splitlines():
        number, colon, name = line.partition(":")
        if not line.strip() or line.startswith("#"):
            continue
        if not colon or number.strip() != str(len(names)):
            raise FileError("labels", listing, f"'{len(names)}: NAME'", repr(line), "copy the published list")
        names.append(name.strip())
    return names
