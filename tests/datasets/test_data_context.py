# SPDX-License-Identifier: MIT
"""Pascal Context: the 59 labels out of 459, from MATLAB files and from PNG."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.io

import devkits
from crfrnn.datasets import CONTEXT_CLASSES, context_pictures
from crfrnn.datasets.context import ContextLabels
from crfrnn.io import write_label_png

NAMES = ["accordion", *reversed(CONTEXT_CLASSES[:50]), "zebra crossing", *CONTEXT_CLASSES[50:]]
NAMES = [{"diningtable": "table", "bedcloth": "bedclothes", "clothes": "cloth"}.get(n, n) for n in NAMES]


@pytest.fixture
def kit(tmp_path):
    base = devkits.voc(tmp_path, {"trainval": ["a", "b"]}, "2010")
    (base / "ImageSets/SegmentationContext").mkdir()
    (base / "ImageSets/SegmentationContext/val.txt").write_text("b\na\n")
    (base / "trainval").mkdir()
    lines = [f"{value}: {name}" for value, name in enumerate(NAMES, 1)]
    (base / "labels.txt").write_text("\n".join(lines) + "\n")
    for name in "ab":
        values = np.zeros(devkits.SIZE, np.uint16)
        values[0, :5] = [1 + NAMES.index(n) for n in ("table", "aeroplane", "wood", "accordion", "cloth")]
        scipy.io.savemat(base / f"trainval/{name}.mat", {"LabelMap": values}, do_compression=True)
    return base


def test_matlab_files(kit, tmp_path):
    pictures = context_pictures(tmp_path)
    assert pictures.ids == ("b", "a")
    assert pictures.class_names == ("background", *CONTEXT_CLASSES)
    assert pictures[0].num_labels == 60
    assert pictures.check() == []
    expected = np.zeros(devkits.SIZE, np.uint8)
    expected[0, :5] = [11, 1, 59, 0, 28]
    assert np.array_equal(pictures[0].mask, expected)
    alone = context_pictures(tmp_path, background=False)
    assert (alone.class_names, alone[0].num_labels) == (CONTEXT_CLASSES, 59)
    assert alone[0].mask[0].tolist() == [10, 0, 58, 255, 27, 255, 255]


def test_png_masks(kit, tmp_path):
    folder = kit / "SegmentationClassContext"
    folder.mkdir()
    mask = np.arange(35).reshape(devkits.SIZE) + 25
    mask[0, 0] = 255
    for name in "ab":
        write_label_png(folder / f"{name}.png", mask)
    (tmp_path / "some.txt").write_text("a")
    for masks in (folder, None):
        if masks is None:
            for file in (kit / "trainval").iterdir():
                file.unlink()
            (kit / "trainval").rmdir()
        (item,) = context_pictures(tmp_path, tmp_path / "some.txt", masks=masks)
        assert np.array_equal(item.mask, mask)
    # In alphabetical order, as one converter writes them
    names = ["background", *sorted(CONTEXT_CLASSES)]
    item = context_pictures(tmp_path, names=names)[0]
    labels = [CONTEXT_CLASSES.index(names[25 + value]) + 1 for value in range(1, 35)]
    assert item.mask.reshape(-1).tolist() == [255, *labels]
    write_label_png(folder / "b.png", np.full(devkits.SIZE, 60))
    (problem,) = context_pictures(tmp_path).check()
    assert "b.png" in problem
    assert "labels 0..59" in problem


def test_what_is_refused(kit, tmp_path):
    with pytest.raises(ValueError, match=r"names: expected each of the 59.* wood missing"):
        ContextLabels.of(["background", *CONTEXT_CLASSES[:-1]])
    with pytest.raises(ValueError, match=r"VOCdevkit/VOC2010"):
        context_pictures(tmp_path / "none")
    with pytest.raises(ValueError, match=r"train\.txt"):
        context_pictures(tmp_path, "train")
    scipy.io.savemat(kit / "trainval/a.mat", {"LabelMap": np.full(devkits.SIZE, 700, np.uint16)})
    scipy.io.savemat(kit / "trainval/b.mat", {"LabelMap": np.full(devkits.SIZE, np.nan)})
    problems = context_pictures(tmp_path).check()
    assert [("a.mat" in p, "700" in p) for p in problems] == [(False, False), (True, True)]
    (kit / "labels.txt").write_text("1: accordion\n3: aeroplane\n")
    with pytest.raises(ValueError, match="expected '2: NAME', got '3: aeroplane'"):
        context_pictures(tmp_path)
    (kit / "labels.txt").unlink()
    with pytest.raises(ValueError, match="the list of 459 names"):
        context_pictures(tmp_path)


@pytest.mark.real
def test_real_lists_of_names(shared):
    lists = shared / "data/voc12-lists"
    own = [line.split(": ")[1] for line in (lists / "pascal_context_59_classes.txt").read_text().splitlines()]
    assert own == ["background", *CONTEXT_CLASSES]
    lines = (lists / "pascal_context_459_classes.txt").read_text().splitlines()
    names = [line.split(": ")[1] for line in lines]
    assert len(names) == 459
    for background in (True, False):
        table = ContextLabels.of(["none", *names], background).table
        kept = [label for label in table if label != (0 if background else 255)]
        assert sorted(kept) == [k + background for k in range(59)]
        assert table[1 + names.index("table")] == CONTEXT_CLASSES.index("diningtable") + background
