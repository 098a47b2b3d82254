# SPDX-License-Identifier: MIT
"""The paper's training list (11,685) and reduced validation list (346), from VOC 2012 and SBD; folds."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from crfrnn.datasets.pictures import PictureSet, read_ids
from crfrnn.datasets.sbd import SBD_SPLITS, sbd_folder, sbd_pictures
from crfrnn.datasets.voc import devkit, segmentation_list, voc_pictures
from crfrnn.io.files import PathLike

PAPER_TRAIN, PAPER_REDUCED_VAL = 11_685, 346


class Lists(NamedTuple):
    """Ids to train and to validate on, sorted."""

    train: tuple[str, ...]
    val: tuple[str, ...]


class Sets(NamedTuple):
    """Pictures to train and to validate on."""

    train: PictureSet
    val: PictureSet


def paper_lists(voc_train: Iterable[str], voc_val: Iterable[str], sbd: Iterable[str]) -> Lists:
    """Train on VOC train and all of SBD; validate on the part of VOC val that is not in SBD.

    Source: Zheng et al., ICCV 2015, section 7.2: 11,685 and 346 pictures.

    >>> paper_lists(["a", "b"], ["c", "d"], ["b", "c", "e"])
    Lists(train=('a', 'b', 'c', 'e'), val=('d',))
    """
    extra = set(sbd)
    return Lists(tuple(sorted(set(voc_train) | extra)), tuple(sorted(set(voc_val) - extra)))


def augmented_lists(voc_train: Iterable[str], voc_val: Iterable[str], sbd: Iterable[str]) -> Lists:
    """The other usual split (10,582 and 1,449): all of VOC val, whose pictures are removed from SBD.

    >>> augmented_lists(["a", "b"], ["c", "d"], ["b", "c", "e"])
    Lists(train=('a', 'b', 'e'), val=('c', 'd'))
    """
    held = set(voc_val)
    return Lists(tuple(sorted((set(voc_train) | set(sbd)) - held)), tuple(sorted(held)))


def paper_pictures(voc_root: PathLike, sbd_root: PathLike, *, augmented: bool = False) -> Sets:
    """The pictures of the paper's first experiment, with masks.

    Truths of the pictures in VOC train come from VOC, which marks the borders of objects as void; the others
    come from SBD, which does not.

    Args:
        voc_root: the development kit of VOC 2012.
        sbd_root: the folder of SBD.
        augmented: the split of `augmented_lists` instead.

    Raises:
        ValueError: lists that do not contain 11,685 and 346 (10,582 and 1,449) pictures, and all missing
        files.
    """
    base, extra = devkit(voc_root, "2012"), sbd_folder(sbd_root)
    voc_train, voc_val = (read_ids(segmentation_list(base, split)) for split in ("train", "val"))
    sbd = [i for split in SBD_SPLITS for i in read_ids(extra / f"{split}.txt")]
    lists = (augmented_lists if augmented else paper_lists)(voc_train, voc_val, sbd)
    expected = (10_582, 1_449) if augmented else (PAPER_TRAIN, PAPER_REDUCED_VAL)
    if (len(lists.train), len(lists.val)) != expected:
        raise ValueError(
            f"voc_root, sbd_root: expected lists of {expected[0]} and {expected[1]} pictures in all, "
            f"got {len(lists.train)} and {len(lists.val)}; compare train.txt and val.txt with the archives"
        )
    train = merge(voc_pictures(base, "train"), sbd_pictures(extra, "trainval")).select(lists.train)
    return Sets(train, voc_pictures(base, "val").select(lists.val))


def merge(*sets: PictureSet) -> PictureSet:
    """Merge sets with the same labels; a picture in several is taken from the first.

    Raises:
        ValueError: no set, or sets whose labels differ.
    """
    if not sets or any(s.class_names != sets[0].class_names for s in sets):
        raise ValueError(
            "sets: expected one or more with the same class names, got "
            f"{' and '.join(str(len(s.class_names)) for s in sets) or 'none'} names; "
            "convert their labels to one form first"
        )
    items = {item.id: item for pictures in reversed(sets) for item in pictures}
    order = dict.fromkeys(item.id for pictures in sets for item in pictures)
    return PictureSet(tuple(items[i] for i in order), sets[0].class_names)


def split_folds(ids: Sequence[str], folds: int, seed: int = 0) -> list[tuple[str, ...]]:
    """The ids in `folds` disjoint parts whose sizes differ by one at most, shuffled by the seed.

    >>> [len(part) for part in split_folds([str(i) for i in range(11)], 3)]
    [4, 4, 3]
    """
    if not 2 <= folds <= len(ids):
        raise ValueError(f"folds: expected 2..{len(ids)} for {len(ids)} pictures, got {folds}")
    order = sorted(ids)
    random.Random(seed).shuffle(order)
    return [tuple(order[fold::folds]) for fold in range(folds)]


def held_fold(ids: Sequence[str], share: float, seed: int = 0) -> frozenset[str]:
    """The first of round(1 / share) folds; ValueError for a share outside 0..0.5.

    >>> len(held_fold([str(i) for i in range(20)], 0.2))
    4
    """
    return frozenset(split_folds(ids, max(2, round(1 / check_share(share))), seed)[0])


def check_share(share: float) -> float:
    if not 0 < share <= 0.5:
        raise ValueError(f"hold_out: expected a share in 0..0.5, got {share}")
    return share
