# SPDX-License-Identifier: MIT
"""The Semantic Boundaries Dataset: 11,355 pictures of VOC 2011 with 21-label masks in MATLAB files."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crfrnn.datasets.pictures import LabelledPicture, PictureSet, read_ids
from crfrnn.io.files import FileError, PathLike
from crfrnn.io.labels import check_labels
from crfrnn.io.matfile import read_mat
from crfrnn.io.palette import VOC_CLASSES

SBD_SPLITS = ("train", "val")


def sbd_pictures(root: PathLike, split: str = "train") -> PictureSet:
    """The pictures of SBD (``img/ID.jpg``) with the masks of ``cls/ID.mat``; they have no void.

    Args:
        root: the folder that holds ``benchmark_RELEASE``, or its ``dataset``, or that folder itself.
        split: "train" (8,498), "val" (2,857), "trainval" (both), or another list there.

    Raises:
        ValueError: no such folder or list, an empty list, duplicate ids, and all missing files in one error.

    Source: Hariharan et al., Semantic Contours from Inverse Detectors, ICCV 2011.
    """
    base = sbd_folder(root)
    listings = [base / f"{part}.txt" for part in (SBD_SPLITS if split == "trainval" else (split,))]
    for listing in listings:
        if not listing.is_file():
            known = ", ".join(sorted(p.stem for p in base.glob("*.txt"))) or "none"
            raise ValueError(f"split: expected one of the lists in {base} ({known}), got {split!r}")
    items = []
    for name in (i for listing in listings for i in read_ids(listing)):
        mask = base / "cls" / f"{name}.mat"
        image = base / "img" / f"{name}.jpg"
        items.append(LabelledPicture(name, image, mask, len(VOC_CLASSES), partial(read_sbd_mask, mask)))
    return PictureSet.of(items, base, VOC_CLASSES)


def sbd_folder(root: PathLike) -> Path:
    """The folder with ``img`` and ``cls``: `root` or below it."""
    for base in (Path(root), Path(root) / "dataset", Path(root) / "benchmark_RELEASE" / "dataset"):
        if (base / "cls").is_dir():
            return base
    raise ValueError(
        f"root: expected a folder with benchmark_RELEASE/dataset/cls, got {str(root)!r}; "
        "name the folder that benchmark.tgz was unpacked in"
    )


def read_sbd_mask(path: PathLike) -> NDArray[np.uint8]:
    """The matrix ``GTcls.Segmentation`` of an SBD file: UInt8[H, W], 0..20.

    Raises:
        ValueError: no such file, another format, damaged, larger than declared, labels out of range.
    """
    values = read_mat(path, "GTcls", "Segmentation")
    if not np.array_equal(values, np.round(values)):
        raise FileError("mask", path, "whole numbers as labels", "fractions", "download it again")
    check_labels(values, len(VOC_CLASSES), path, "mask")
    return values.astype(np.uint8)
