# SPDX-License-Identifier: MIT
"""Data sets by name; all problems are reported before training."""

from __future__ import annotations

import numpy as np
import pytest

import devkits
from crfrnn.datasets import Source, prepare, splits
from crfrnn.io import write_label_png

SIZE = (24, 32)


@pytest.fixture
def root(tmp_path):
    devkits.voc(tmp_path, {"train": ["v1", "v2"], "val": ["w1", "w2", "w3"]}, size=SIZE)
    devkits.sbd(tmp_path, {"train": ["v2", "s1"], "val": ["w3"]}, size=SIZE)
    return tmp_path


def both(root, **options):
    train = [Source("voc", root, "train"), Source("sbd", str(root), "trainval")]
    return prepare(train, [Source("voc", root, "val")], **options)


def test_leaks_are_refused_dropped_or_ignored(root):
    with pytest.raises(ValueError, match=r"1 problems.*\n  'w3' in train, 'w3' in val: same id"):
        both(root)
    train, val = both(root, leaks="drop")
    assert (train.ids, val.ids) == (("v1", "v2", "s1"), ("w1", "w2", "w3"))
    assert both(root, leaks="drop", decode=False).train.ids == train.ids
    assert both(root, leaks="ignore").train.ids == ("v1", "v2", "s1", "w3")
    with pytest.raises(ValueError, match="leaks: expected refuse, drop or ignore, got 'yes'"):
        both(root, leaks="yes")


def test_the_papers_split(root, monkeypatch):
    monkeypatch.setattr(splits, "PAPER_TRAIN", 4)
    monkeypatch.setattr(splits, "PAPER_REDUCED_VAL", 2)
    parts = [[Source("paper", root, part, {"sbd_root": root})] for part in ("train", "val")]
    seen = set()
    train, val = prepare(*parts, progress=lambda *step: seen.add(step))
    assert (train.ids, val.ids) == (("s1", "v1", "v2", "w3"), ("w1", "w2"))
    assert {("check train", 4, 4), ("check val", 2, 2), ("compare train and val", 6, 6)} <= seen
    with pytest.raises(ValueError, match="split: expected train or val, got 'test'"):
        Source("paper", root, "test", {"sbd_root": root}).read()


def test_missing_files_of_all_sources_at_once(root):
    (root / "VOCdevkit/VOC2012/JPEGImages/v1.jpg").unlink()
    (root / "VOCdevkit/VOC2012/SegmentationClass/w2.png").unlink()
    (root / "benchmark_RELEASE/dataset/cls/s1.mat").write_bytes(b"")
    with pytest.raises(ValueError, match="3 problems") as caught:
        both(root)
    for said in ("train, voc in", "train, sbd in", "val, voc in", "v1.jpg", "w2.png", "s1.mat"):
        assert said in str(caught.value)


def test_damaged_files_of_both_parts_at_once(root):
    (root / "benchmark_RELEASE/dataset/img/s1.jpg").write_bytes(b"\xff\xd8")
    write_label_png(root / "VOCdevkit/VOC2012/SegmentationClass/w1.png", np.zeros((3, 3), int))
    with pytest.raises(ValueError, match="2 problems; correct these before training") as caught:
        both(root)
    assert "train: image" in str(caught.value)
    assert "val: 'w1': picture (24, 32) and mask (3, 3)" in str(caught.value)
    assert both(root, decode=False, leaks="ignore").train.ids == ("v1", "v2", "s1", "w3")


@pytest.mark.parametrize("decode", [True, False])
def test_black_and_white_masks_are_reported_and_void_may_be_any_value(tmp_path, decode):
    for part in ("train", "val"):
        for name in ("images", "masks"):
            (tmp_path / part / name).mkdir(parents=True)
        devkits.picture(tmp_path / part / "images" / f"{part}.jpg", 1 + len(part), SIZE)
    held = np.zeros(SIZE, np.uint8)
    held[:, 9:] = 255
    sources = [[Source("folder", tmp_path / part, None, {"num_labels": 2})] for part in ("train", "val")]
    for part in ("train", "val"):
        write_label_png(tmp_path / part / "masks" / f"{part}.png", held)
    with pytest.raises(ValueError, match="only 0 and 255 in all 1"):
        prepare(*sources, decode=decode, leaks="ignore")
    held[:3], held[held == 255] = 1, 11
    for part in ("train", "val"):
        write_label_png(tmp_path / part / "masks" / f"{part}.png", held)
    void = [[Source("folder", s.root, None, {**s.options, "void": 11}) for s in part] for part in sources]
    found = prepare(*void, decode=decode, leaks="ignore")
    assert sorted(np.unique(found.train[0].mask).tolist()) == [0, 1, 255]


def test_usage(root):
    with pytest.raises(
        ValueError, match="kind: expected one of 'voc', 'sbd', 'paper', 'coco', 'context', 'folder', got 'x'"
    ):
        Source("x", root)
    with pytest.raises(ValueError, match=r"options: expected those of 'voc', got .*'min_pixels'"):
        Source("voc", root, options={"min_pixels": 3}).read()
    with pytest.raises(ValueError, match="val: expected at least one source"):
        prepare([Source("voc", root)], [])
    (root / "images").mkdir()
    for k, name in enumerate("ab"):
        devkits.picture(root / f"images/{name}.png", k)
        devkits.picture(root / f"images/{name}_mask.png", k)
    with pytest.raises(ValueError, match="expected the same labels, got 21 and 0 names"):
        prepare([Source("voc", root, "train")], [Source("folder", root / "images", options={"masks": None})])


@pytest.mark.slow
@pytest.mark.real
def test_real_pictures(shared):
    root, coco = shared / "data/voc2012-person", shared / "data/coco-mini"
    train = [Source("voc", root, "train"), Source("coco", coco, "train2017")]
    seen = set()
    found = prepare(train, [Source("voc", root, "val")], decode=False, progress=lambda *step: seen.add(step))
    assert ("read coco", 494, 494) in seen
    assert (len(found.train), len(found.val)) == (393 + 398, 311)
