# SPDX-License-Identifier: MIT
"""The paper's lists from the devkits' lists, the years of VOC, and pictures in two sets."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageOps

import devkits
from crfrnn.datasets import (
    augmented_lists,
    find_leaks,
    folder_pictures,
    merge,
    paper_lists,
    paper_pictures,
    refuse_leaks,
    sbd_pictures,
    voc_pictures,
)
from crfrnn.datasets import splits as splits_module
from crfrnn.datasets.leaks import TOLERANCE, canonical_id, thumbnail
from crfrnn.datasets.voc import VOC_YEARS

SIZE = (24, 32)


@pytest.fixture
def kits(tmp_path):
    voc = devkits.voc(tmp_path, {"train": ["v1", "v2"], "val": ["w1", "w2", "w3"]}, size=SIZE)
    sbd = devkits.sbd(tmp_path, {"train": ["v2", "s1", "w1"], "val": ["s2", "w3"]}, size=SIZE)
    return voc, sbd


def test_sets_of_the_paper(kits, monkeypatch):
    with pytest.raises(ValueError, match="lists of 11685 and 346 pictures in all, got 6 and 1"):
        paper_pictures(*kits)
    monkeypatch.setattr(splits_module, "PAPER_TRAIN", 6)
    monkeypatch.setattr(splits_module, "PAPER_REDUCED_VAL", 1)
    train, val = paper_pictures(*kits)
    assert (train.ids, val.ids) == (("s1", "s2", "v1", "v2", "w1", "w3"), ("w2",))
    # VOC's truth has a border of void, SBD's has none.
    assert [bool((item.mask == 255).any()) for item in train] == [False, False, True, True, False, False]
    assert train.check() == val.check() == []
    refuse_leaks(train, val)
    with pytest.raises(ValueError, match="lists of 10582 and 1449"):
        paper_pictures(*kits, augmented=True)


def test_merging(kits):
    voc, sbd = voc_pictures(kits[0], "train"), sbd_pictures(kits[1])
    assert merge(voc, sbd).ids == ("v1", "v2", "s1", "w1")
    assert (merge(voc, sbd)[1].mask == 255).any()
    assert not (merge(sbd, voc)[0].mask == 255).any()
    own = folder_pictures(kits[0], images="JPEGImages", masks="SegmentationClass")
    with pytest.raises(ValueError, match="the same class names, got 21 and 0 names"):
        merge(voc, own)
    with pytest.raises(ValueError, match="got none names"):
        merge()


@pytest.mark.parametrize("year", VOC_YEARS)
def test_years(tmp_path, year):
    base = devkits.voc(tmp_path / "TrainVal", {"train": ["a"], "test": ["b"]}, year)
    for root in (tmp_path, tmp_path / "TrainVal", base.parent, base):
        assert voc_pictures(root, "train", year=year).ids == ("a",)
    other = VOC_YEARS[VOC_YEARS.index(year) - 1]
    with pytest.raises(ValueError, match=f"VOC{other}"):
        voc_pictures(base, "train", year=other)


def test_unknown_year(tmp_path):
    with pytest.raises(ValueError, match=r"year: expected one of '2007', .*'2012', got '2006'"):
        voc_pictures(tmp_path, year="2006")


def test_the_same_id(kits):
    train, val = sbd_pictures(kits[1], "trainval"), voc_pictures(kits[0], "val")
    leaks = find_leaks(train, val, pictures=False)
    assert [(leak.train, leak.val, leak.reason) for leak in leaks] == [("w1", "w1", "id"), ("w3", "w3", "id")]
    assert [leak.val for leak in find_leaks(train, val)] == [
        "w1",
        "w3",
    ]  # each reported once, for both reasons
    with pytest.raises(ValueError, match="expected no picture in both, got 2") as caught:
        refuse_leaks(train, val)
    assert "same id (2 of this kind: 'w1', 'w3')" in str(caught.value)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("000032", "2007_000032", True),
        ("COCO_train2014_000000000009", "000000000009", True),
        ("COCO_val2014_000000000009", "COCO_train2014_000000000009", True),
        ("000032", "2008_000032", False),
        ("000000000032", "2007_000032", False),
        ("COCO_x_000000000009", "000000000009", False),
    ],
)
def test_ids_of_different_releases(one, other, same):
    assert (canonical_id(one) == canonical_id(other)) is same


def test_the_same_picture_under_two_names(tmp_path):
    for k in range(6):
        devkits.picture(tmp_path / f"train/t{k}.png", k, (60, 90))
    picture = Image.open(tmp_path / "train/t3.png")
    (tmp_path / "val").mkdir()
    picture.resize((53, 41)).save(tmp_path / "val/copy.jpg", quality=60)
    ImageOps.mirror(picture).save(tmp_path / "val/mirrored.png")
    exif = Image.Exif()
    exif[0x112] = 3  # saved upside down, with the EXIF orientation
    picture.rotate(180).save(tmp_path / "val/turned.jpg", quality=95, exif=exif)
    devkits.picture(tmp_path / "val/other.png", 77, (60, 90))
    train, val = (folder_pictures(tmp_path / name, masks=None) for name in ("train", "val"))
    seen = []
    leaks = find_leaks(train, val, progress=lambda *place: seen.append(place))
    assert [(leak.train, leak.val, leak.reason) for leak in leaks] == [
        ("t3", "copy", "picture"),
        ("t3", "turned", "picture"),
    ]
    assert all(0 < leak.distance < TOLERANCE for leak in leaks)
    assert seen == [(k, 10) for k in range(1, 11)]
    (tmp_path / "val/other.png").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"other\.png"):
        find_leaks(train, val)


@pytest.mark.real
def test_real_lists(shared):
    folder = shared / "data/voc12-lists"
    given = {path.stem: tuple(path.read_text().split()) for path in folder.glob("*.txt")}
    sbd = given["sbd_train"] + given["sbd_val"]
    lists = paper_lists(given["train"], given["val"], sbd)
    assert lists.train == given["train_crfrnn"]
    assert lists.val == given["val_reduced346"]
    assert (len(lists.train), len(lists.val)) == (splits_module.PAPER_TRAIN, splits_module.PAPER_REDUCED_VAL)
    assert not set(lists.train) & set(lists.val)
    usual = augmented_lists(given["train"], given["val"], sbd)
    assert usual == (given["train_aug"], given["val"])


def test_fingerprints_of_16_bit_and_transparent_pictures_are_of_the_pixels_read(tmp_path):
    grey = np.random.default_rng(0).integers(0, 200, (32, 32), np.uint8)
    Image.fromarray(grey).save(tmp_path / "a.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "b.png")  # 16 bits
    Image.fromarray(np.stack([np.zeros_like(grey), 255 - grey], -1)).save(tmp_path / "c.png")  # on white
    looks = [thumbnail(item) for item in folder_pictures(tmp_path, masks=None)]
    for look in looks[1:]:
        assert np.abs(look - looks[0]).max() <= 1


@pytest.mark.real
def test_real_pictures_are_distinguished(shared, tmp_path):
    root = shared / "data/voc2012-person"
    train, val = voc_pictures(root, "train"), voc_pictures(root, "val")
    refuse_leaks(train.select(train.ids[::8]), val.select(val.ids[::8]))
    item = val[5]
    picture = Image.open(item.image_path)
    picture.resize((picture.width * 3 // 5, picture.height * 3 // 5)).save(tmp_path / "x.jpg", quality=40)
    (copy,) = folder_pictures(tmp_path, masks=None)
    assert 0 < np.sqrt(((thumbnail(copy) - thumbnail(item)) ** 2).mean()) < TOLERANCE
    assert [
        leak.val for leak in find_leaks(folder_pictures(tmp_path, masks=None), val.select(val.ids[:10]))
    ] == [item.id]
