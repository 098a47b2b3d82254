# SPDX-License-Identifier: MIT
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from crfrnn.datasets import DeepLabUnaries, folder_pictures, shared_folder, voc_person_folder, voc_pictures
from crfrnn.io import VOC_CLASSES, write_label_png


@pytest.fixture
def devkit(tmp_path):
    base = tmp_path / "VOCdevkit" / "VOC2012"
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (base / folder).mkdir(parents=True)
    for i in range(3):
        Image.new("RGB", (6, 4), (i, i, i)).save(base / "JPEGImages" / f"p_{i}.jpg")
        write_label_png(base / "SegmentationClass" / f"p_{i}.png", np.full((4, 6), i))
    (base / "ImageSets/Segmentation/val.txt").write_text("p_2\np_0\n\n")
    return base


def test_devkit(devkit):
    for root in (devkit, devkit.parent, devkit.parent.parent):
        pictures = voc_pictures(root, "val")
        assert pictures.ids == ("p_2", "p_0")
    assert pictures.class_names == VOC_CLASSES
    assert len(VOC_CLASSES) == 21
    item = pictures[0]
    assert item.id == "p_2"
    assert (item.image.shape, item.image.dtype, item.mask.dtype) == ((4, 6, 3), np.uint8, np.uint8)
    assert item.mask.tolist() == [[2] * 6] * 4
    pictures.verify()
    assert [i.id for i in pictures.select(["p_0"])] == ["p_0"]
    with pytest.raises(ValueError, match="ids: expected ids of this set of 2, got p_9"):
        pictures.select(["p_9"])


def test_all_missing_files_at_once(devkit):
    (devkit / "ImageSets/Segmentation/val.txt").write_text("p_0 p_1 gone")
    (devkit / "JPEGImages/p_0.jpg").unlink()
    (devkit / "SegmentationClass/p_1.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"6 files.*4 missing or empty") as caught:
        voc_pictures(devkit, "val")
    for name in ("p_0.jpg", "p_1.png", "gone.jpg", "gone.png"):
        assert name in str(caught.value)
    (devkit / "ImageSets/Segmentation/test.txt").write_text("p_1")
    untold = voc_pictures(devkit, "test", masks=False)
    with pytest.raises(ValueError, match="masks=True"):
        untold[0].mask  # noqa: B018


def test_all_damaged_files_at_once(devkit):
    (devkit / "JPEGImages/p_0.jpg").write_bytes((devkit / "JPEGImages/p_0.jpg").read_bytes()[:-40])
    write_label_png(devkit / "SegmentationClass/p_2.png", np.full((4, 6), 30))
    write_label_png(devkit / "SegmentationClass/p_1.png", np.zeros((4, 5), int))
    (devkit / "ImageSets/Segmentation/val.txt").write_text("p_0 p_1 p_2")
    with pytest.raises(ValueError, match="3 valid ones, got 3 problems") as caught:
        voc_pictures(devkit, "val").verify()
    for said in ("p_0.jpg", "'p_1': picture (4, 6) and mask (4, 5) differ", "p_2.png", "30 at row 0"):
        assert said in str(caught.value)


@pytest.mark.parametrize(
    ("listing", "said"),
    [("", "at least one, got none"), ("p_0 p_0", "got twice: p_0"), ("../../etc/passwd", "plain ids")],
)
def test_invalid_lists(devkit, listing, said):
    (devkit / "ImageSets/Segmentation/val.txt").write_text(listing)
    with pytest.raises(ValueError, match=said):
        voc_pictures(devkit)


def test_missing_devkit_and_list(devkit, tmp_path):
    with pytest.raises(ValueError, match=r"root: expected a folder with VOCdevkit/VOC2007.*unpacked"):
        voc_pictures(tmp_path, year="2007")
    with pytest.raises(ValueError, match=r"split: expected one of the lists in .*\(val\), got 'train'"):
        voc_pictures(devkit, "train")


def test_plain_folders(tmp_path):
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for stem in "ba":
        Image.new("L", (3, 2)).save(tmp_path / f"images/{stem}.png")
        write_label_png(tmp_path / f"masks/{stem}.png", np.ones((2, 3), int))
    (tmp_path / "images/notes.txt").write_text("not a picture")
    pictures = folder_pictures(tmp_path, num_labels=2)
    assert pictures.ids == ("a", "b")
    assert pictures[0].mask.tolist() == [[1] * 3] * 2
    pictures.verify()
    Image.new("L", (3, 2)).save(tmp_path / "images/a.jpg")
    with pytest.raises(ValueError, match="got twice: a"):
        folder_pictures(tmp_path)
    (tmp_path / "images/a.jpg").unlink()
    (tmp_path / "masks/a.png").unlink()
    with pytest.raises(ValueError, match=r"1 missing or empty.*\n.*a\.png"):
        folder_pictures(tmp_path)
    assert len(folder_pictures(tmp_path, masks=None)) == 2
    with pytest.raises(ValueError, match="root"):
        folder_pictures(tmp_path, images="photos")


def test_the_folder_of_real_data(monkeypatch, tmp_path):
    monkeypatch.setenv("CRFRNN_SHARED", str(tmp_path))
    assert shared_folder() == tmp_path.resolve()
    assert voc_person_folder() is None
    (tmp_path / "data/voc2012-person").mkdir(parents=True)
    assert voc_person_folder() == tmp_path.resolve() / "data/voc2012-person"
    monkeypatch.setenv("CRFRNN_SHARED", str(tmp_path / "none"))
    assert shared_folder() is None
    monkeypatch.delenv("CRFRNN_SHARED")
    beside = Path(__file__).resolve().parents[3] / "shared"
    assert shared_folder() in (None, beside)


def test_deeplab_grids_are_bilinear_on_the_canvas(tmp_path):
    grids = np.random.default_rng(0).integers(0, 256, (2, 33, 33, 3), np.uint8)
    np.savez_compressed(tmp_path / "a.npz", scale=np.float32(0.2), zero_point=36, x=grids[0], y=grids[1])
    unaries = DeepLabUnaries.load(tmp_path / "a.npz")
    assert (unaries.ids, len(unaries)) == (("x", "y"), 2)
    for size in ((513, 513), (375, 500), (1, 7)):
        logits = unaries.logits("y", size)
        grid = torch.from_numpy(grids[1]).permute(2, 0, 1)[None].double()
        canvas = F.interpolate((grid - 36) * 0.2, size=(513, 513), mode="bilinear", align_corners=True)[0]
        assert logits.dtype == torch.float32
        assert logits.is_contiguous()
        assert torch.allclose(logits.double(), canvas[:, : size[0], : size[1]], atol=1e-4)
    with pytest.raises(ValueError, match=r"size: expected \(height, width\) in 1\.\.513"):
        unaries.logits("x", (514, 20))
    with pytest.raises(ValueError, match="name: expected one of 2 ids, got 'z'"):
        unaries.logits("z", (5, 5))


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"scale": 1.0, "x": np.zeros((3, 3, 2), np.uint8)}, "a finite number 'zero_point'"),
        ({"scale": np.nan, "zero_point": 1, "x": np.zeros((3, 3, 2), np.uint8)}, "a finite number 'scale'"),
        ({"scale": 1.0, "zero_point": 1}, "got no entry"),
        ({"scale": 1.0, "zero_point": 1, "x": np.zeros((3, 3, 2))}, r"uint8 \[grid, grid, L\].*float64"),
        ({"scale": 1.0, "zero_point": 1, "x": np.zeros((3, 0, 2), np.uint8)}, r"uint8 \[grid, grid, L\]"),
    ],
)
def test_invalid_deeplab_files(tmp_path, entries, said):
    np.savez(tmp_path / "a.npz", **entries)
    with pytest.raises(ValueError, match=said):
        DeepLabUnaries.load(tmp_path / "a.npz")
    (tmp_path / "a.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:-30])
    with pytest.raises(ValueError, match="a whole file"):
        DeepLabUnaries.load(tmp_path / "a.npz")


@pytest.mark.real
def test_real_lists_and_unaries(shared):
    folder = shared / "data/voc2012-person"
    for split, count in (("train", 393), ("val", 311)):
        pictures = voc_pictures(folder, split)
        unaries = DeepLabUnaries.load(folder / f"unaries/{split}.npz")
        assert len(pictures) == count
        assert set(unaries.ids) == set(pictures.ids)
        for item in pictures.items[::100]:
            assert item.image.shape[:2] == item.mask.shape
            assert unaries.logits(item.id, item.mask.shape).shape == (21, *item.mask.shape)
            assert 15 in item.mask  # every picture holds a person
