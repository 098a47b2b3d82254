# SPDX-License-Identifier: MIT
"""`crfrnn submit`: the archive that the VOC server accepts, and all inputs that it would reject."""

from __future__ import annotations

import io
import tarfile

import numpy as np
import pytest
from PIL import Image

import devkits
from command_line import run
from crfrnn.io import voc_palette, write_label_png

IDS = ["2008_000001", "2008_000004", "2009_000032"]


@pytest.fixture
def kit(tmp_path):
    base = devkits.voc(tmp_path, {"test": IDS, "val": ["2007_000033"]})
    (tmp_path / "labels").mkdir()
    for k, name in enumerate(IDS):
        Image.fromarray(np.full(devkits.SIZE, 20 - k, np.uint8)).save(tmp_path / f"labels/{name}.png")
    for year in ("2010", "2011"):
        devkits.voc(tmp_path, {"test": IDS[:1]}, year)
    context = tmp_path / "VOCdevkit/VOC2010/ImageSets/SegmentationContext"
    context.mkdir()
    (context / "val.txt").write_text(IDS[0])
    assert base.is_dir()
    return tmp_path


def submit(kit, *options, labels="labels"):
    code, said, complained = run("submit", kit / labels, kit, "-o", kit / "out.tar.gz", *options)
    return code, said + complained


def contents(path):
    with tarfile.open(path, "r:gz") as archive:
        return {m.name: (m, archive.extractfile(m).read()) for m in archive.getmembers()}  # type: ignore[union-attr]


def test_archive(kit):
    (kit / "labels/2008_000001_overlay.jpg").write_bytes(b"x")
    code, text = submit(kit)
    assert code == 0, text
    assert "1 files whose names are not in the list were omitted: 2008_000001_overlay.jpg" in text
    assert "3 predictions in" in text
    members = contents(kit / "out.tar.gz")
    assert list(members) == [f"results/VOC2012/Segmentation/comp6_test_cls/{i}.png" for i in IDS]
    for k, (entry, data) in enumerate(members.values()):
        picture = Image.open(io.BytesIO(data))
        assert (picture.mode, picture.size) == ("P", devkits.SIZE[::-1])
        assert np.array_equal(np.array(picture), np.full(devkits.SIZE, 20 - k))
        assert picture.getpalette() == voc_palette().reshape(-1).tolist()
        assert (entry.mtime, entry.uid, entry.uname, entry.mode) == (0, 0, "", 0o644)
    first = (kit / "out.tar.gz").read_bytes()
    assert first[4:8] == bytes(4)  # no time stamp in the gzip header either
    for name in IDS:  # the same labels in another PNG format
        write_label_png(kit / f"labels/{name}.png", np.array(Image.open(kit / f"labels/{name}.png")))
    assert submit(kit)[0] == 0
    assert (kit / "out.tar.gz").read_bytes() == first


@pytest.mark.parametrize(
    ("options", "folder"),
    [
        (("--target", "voc2010"), "VOC2010/Segmentation/comp6_test_cls"),
        (("--target", "voc2011", "--competition", "comp5"), "VOC2011/Segmentation/comp5_test_cls"),
        (("--target", "context"), "PascalContext/Segmentation/comp6_val_cls"),
    ],
)
def test_targets(kit, options, folder):
    code, text = submit(kit, *options)
    assert code == 0, text
    assert list(contents(kit / "out.tar.gz")) == [f"results/{folder}/{IDS[0]}.png"]


def test_other_lists(kit):
    (kit / "mine.txt").write_text(IDS[1])
    assert submit(kit, "--split", kit / "mine.txt")[0] == 0
    name = f"results/VOC2012/Segmentation/comp6_mine_cls/{IDS[1]}.png"
    assert list(contents(kit / "out.tar.gz")) == [name]
    code, text = submit(kit, "--split", "val")
    assert code == 2
    assert "no prediction for 1 of 1 ids: 2007_000033" in text


def test_labels_of_pascal_context(kit):
    for value, code in ((59, 0), (60, 2)):
        write_label_png(kit / f"labels/{IDS[0]}.png", np.full(devkits.SIZE, value))
        assert submit(kit, "--target", "context")[0] == code


def test_all_problems_at_once_and_nothing_written(kit):
    (kit / f"labels/{IDS[0]}.png").unlink()
    write_label_png(kit / f"labels/{IDS[1]}.png", np.full((5, 6), 1))
    write_label_png(kit / f"labels/{IDS[2]}.png", np.full(devkits.SIZE, 255))
    code, text = submit(kit)
    assert code == 2
    assert "3 problems; nothing was written" in text
    for said in (f"for 1 of 3 ids: {IDS[0]}", "5 × 7 as its picture has, got 5 × 6", "labels 0..20, got 255"):
        assert said in text
    assert not list(kit.glob("*out.tar.gz*"))
    Image.new("RGB", devkits.SIZE[::-1]).save(kit / f"labels/{IDS[1]}.png")
    (kit / f"labels/{IDS[2]}.png").write_bytes(b"\x89PNG")
    text = submit(kit)[1]
    assert "mode RGB" in text
    assert f"{IDS[2]}.png" in text


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--target", "voc2013"), "--target: expected one of 'voc2010', 'voc2011', 'voc2012', 'context'"),
        (("--competition", "comp7"), "competition: expected one of 'comp5', 'comp6'"),
        (("--split", "none"), "split: expected one of the lists"),
        (("-o", "out.zip"), "ends in .tar.gz or .tgz"),
        (("-o", "none/out.tar.gz"), "no such folder"),
    ],
)
def test_usage(kit, options, said):
    code, text = submit(kit, *options)
    assert code == 2
    assert said in text


def test_no_predictions(kit):
    code, text = submit(kit, labels="none")
    assert code == 2
    assert "predictions: expected a folder" in text


def test_a_picture_rotated_by_exif(kit):
    # Predictions are of the upright picture: 7 × 5 here, stored as 5 × 7.
    place = kit / "VOCdevkit/VOC2012/JPEGImages" / f"{IDS[0]}.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(place) as picture:
        picture.load()
    picture.save(place, exif=exif)
    code, text = submit(kit)
    assert code == 2
    assert "expected 7 × 5 as its picture has" in text
    write_label_png(kit / f"labels/{IDS[0]}.png", np.ones(devkits.SIZE[::-1], int))
    code, text = submit(kit)
    assert code == 0, text
