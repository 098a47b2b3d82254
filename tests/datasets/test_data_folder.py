# SPDX-License-Identifier: MIT
"""Users' folders: two folders or pairs, lists, names of labels, and common mistakes."""

from __future__ import annotations

import codecs
import warnings

import numpy as np
import pytest
from PIL import Image

import devkits
from crfrnn.datasets import LabelList, folder_pictures
from crfrnn.datasets import pictures as pictures_module
from crfrnn.io import read_label_png, write_label_png


def mask(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_label_png(path, np.array(rows))


@pytest.fixture
def two(tmp_path):
    for k, name in enumerate(("a.jpg", "b.png", "c.JPG")):
        devkits.picture(tmp_path / "images" / name, k, (2, 2))
        mask(tmp_path / f"masks/{name[0]}.png", [0, 1], [2, 255])
    return tmp_path


def test_two_folders(two):
    pictures = folder_pictures(two, num_labels=3)
    assert pictures.ids == ("a", "b", "c")
    assert pictures.check() == []
    assert pictures[1].mask.tolist() == [[0, 1], [2, 255]]
    (two / "labels.txt").write_text("\ufeff# a remark\nroad\nleft: verge\n\ncar \n", encoding="utf-8")
    named = folder_pictures(two)
    assert named.class_names == ("road", "left: verge", "car")
    assert named[0].num_labels == 3
    with pytest.raises(ValueError, match=r"num_labels: expected 3 as .*labels\.txt, got 2"):
        folder_pictures(two, num_labels=2)
    assert [item.has_mask for item in folder_pictures(two, masks=None)] == [False] * 3
    (two / "labels.txt").write_text("road\ncar\n")
    problems = folder_pictures(two).check()
    assert len(problems) == 3
    assert "2 at row 1, column 0" in problems[0]


def test_splits(two):
    (two / "train.txt").write_text("c\na\n")
    assert folder_pictures(two, "train").ids == ("a", "c")
    (two / "val.txt").write_text("b\nx\ny\n")
    with pytest.raises(ValueError, match="2 missing") as caught:
        folder_pictures(two, "val")
    assert "x." in str(caught.value)
    assert "y." in str(caught.value)
    (two / "val.txt").write_text("../a")
    with pytest.raises(ValueError, match="plain ids"):
        folder_pictures(two, "val")
    devkits.picture(two / "later/images/z.jpg", 3, (2, 2))
    mask(two / "later/masks/z.png", [0, 0], [1, 1])
    assert folder_pictures(two, "later").ids == ("z",)
    with pytest.raises(ValueError, match=r"expected none\.txt or a folder 'none'"):
        folder_pictures(two, "none")
    with pytest.raises(ValueError, match=r"expected labels\.txt or a folder"):
        folder_pictures(two, "labels")


def test_pairs_in_one_folder(tmp_path):
    devkits.picture(tmp_path / "a.jpg", 0, (2, 2))
    mask(tmp_path / "a.png", [0, 1], [0, 1])
    devkits.picture(tmp_path / "b.png", 1, (2, 2))
    mask(tmp_path / "b_mask.png", [1, 1], [0, 1])
    devkits.picture(tmp_path / "c.jpg", 2, (2, 2))
    mask(tmp_path / "c_mask.png", [1, 0], [0, 1])
    pictures = folder_pictures(tmp_path, num_labels=2)
    assert pictures.ids == ("a", "b", "c")
    assert [item.mask[0].tolist() for item in pictures] == [[0, 1], [1, 1], [1, 0]]
    assert pictures.check() == []
    assert [item.has_mask for item in folder_pictures(tmp_path, masks=None)] == [False] * 3
    devkits.picture(tmp_path / "d.png", 2, (2, 2))
    devkits.picture(tmp_path / "e.jpg", 2, (2, 2))
    with pytest.raises(ValueError, match="2 missing") as caught:
        folder_pictures(tmp_path)
    assert "d_mask.png" in str(caught.value)
    assert "e.png" in str(caught.value)


def test_custom_values(two):
    for name in "abc":
        Image.fromarray(np.array([[0, 128], [255, 128]], np.uint8)).save(two / f"masks/{name}.png")
    (two / "labels.txt").write_text("128: cat\n0: floor\n255: light\n")
    pictures = folder_pictures(two)
    assert (pictures.class_names, pictures[0].num_labels) == (("cat", "floor", "light"), 3)
    assert pictures[0].mask.tolist() == [[1, 0], [2, 0]]
    (two / "labels.txt").write_text("128: cat\n0: floor\n")
    assert folder_pictures(two)[0].mask.tolist() == [[1, 0], [255, 0]]
    (two / "labels.txt").write_text("128: cat\n")
    problems = folder_pictures(two).check()
    assert len(problems) == 3
    assert "0 at row 0, column 0; add a line '0: NAME'" in problems[0]


def test_black_and_white_masks_are_reported(two):
    for name in "abc":
        mask(two / f"masks/{name}.png", [0, 255], [255, 0])
    (problem,) = folder_pictures(two, num_labels=2).check()
    assert "only 0 and 255 in all 3" in problem
    with pytest.raises(ValueError, match=r"1 problems.*\n.*255: object"):
        folder_pictures(two).verify()
    (two / "labels.txt").write_text("0: background\n255: object\n")
    assert folder_pictures(two).check() == []
    assert folder_pictures(two)[0].mask.tolist() == [[0, 1], [1, 0]]


def test_the_search_for_a_label_ends_with_the_first(two, monkeypatch):
    plain = read_label_png
    for name in "abc":
        mask(two / f"masks/{name}.png", [0, 255], [255, 0])
    with pytest.raises(ValueError, match="only 0 and 255 in all 3"):
        folder_pictures(two, num_labels=2).ask_about_white()
    (two / "masks/a.png").write_bytes(b"damaged")  # an error only when it is fully read
    mask(two / "masks/b.png", [0, 1])
    read = []

    def reading(path, *_, **__):
        read.append(path.stem)
        return plain(path)

    monkeypatch.setattr(pictures_module, "read_label_png", reading)
    folder_pictures(two, num_labels=2).ask_about_white()
    assert read == ["a", "b"]


def test_void_under_another_number(two):
    """CamVid's void value 11: from labels.txt or given by the caller, with names and without."""
    for name in "abc":
        mask(two / f"masks/{name}.png", [0, 11, 1], [255, 1, 11])
    want = [[0, 255, 1], [255, 1, 255]]
    assert folder_pictures(two, num_labels=2, void=11)[0].mask.tolist() == want
    assert folder_pictures(two, num_labels=2, void=11).class_names == ()
    with pytest.raises(ValueError, match="void: expected a value outside the labels, got 1"):
        folder_pictures(two, num_labels=2, void=1)
    (two / "labels.txt").write_text("0: sky\n1: road\n11: Void\n")
    pictures = folder_pictures(two)
    assert pictures.class_names == ("sky", "road") and pictures[0].mask.tolist() == want
    assert LabelList.read(two / "labels.txt") == LabelList(("sky", "road"), (0, 1), (11,))
    names = [f"label {k}" for k in range(11)]
    (two / "labels.txt").write_text("\n".join([*names, "void"]))
    with pytest.warns(UserWarning, match=r"'void' is a label like the others.*--void 11.*'11: void'"):
        assert len(folder_pictures(two).class_names) == 12
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pictures = folder_pictures(two, void=11)  # the remedy
        assert len(pictures.class_names) == 11 and pictures[0].mask.tolist() == want
    (two / "labels.txt").write_text("0: sky\n1: road\n11: Unlabelled\n")
    with pytest.warns(UserWarning, match="'Unlabelled'"):
        folder_pictures(two)


def test_every_problem_at_once(two):
    (two / "images/a.jpg").write_bytes(b"\xff\xd8\xff")
    mask(two / "masks/b.png", [0, 1, 2])
    Image.new("RGB", (2, 2)).save(two / "masks/c.png")
    seen = []
    problems = folder_pictures(two).check(lambda *place: seen.append(place))
    assert len(problems) == 3
    for said, problem in zip(("a.jpg", "(2, 2) and mask (1, 3)", "mode RGB"), problems, strict=True):
        assert said in problem
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_comments_are_not_labels(tmp_path):
    listing = tmp_path / "labels.txt"
    listing.write_text("# what the masks hold\n## by hand\nsky\nbolt #5\nsea\n# the end\n")
    assert LabelList.read(listing).names == ("sky", "bolt #5", "sea")
    listing.write_text("#0: sky\n#3: bird\n5: # of cars\n7: #tag\n")
    assert LabelList.read(listing) == LabelList(("# of cars", "#tag"), (5, 7))
    listing.write_text("sky\n# bird\nsea\n")
    with pytest.warns(UserWarning, match="'# bird' is read as a comment.*label 1 is 'sea'.*VALUE: NAME"):
        assert LabelList.read(listing).names == ("sky", "sea")


@pytest.mark.parametrize("coding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-le", "utf-16-be"])
def test_lists_with_a_byte_order_mark(two, coding):
    mark = (
        codecs.BOM_UTF16_LE
        if coding == "utf-16-le"
        else codecs.BOM_UTF16_BE
        if coding == "utf-16-be"
        else b""
    )
    (two / "labels.txt").write_bytes(mark + "Straße\r\nsea\r\n".encode(coding))
    (two / "train.txt").write_bytes(mark + "a\r\nc\r\n".encode(coding))
    pictures = folder_pictures(two, "train")
    assert (pictures.ids, pictures.class_names) == (("a", "c"), ("Straße", "sea"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "1..255 names"),
        ("# only remarks", "1..255 names"),
        ("a\nb\na", "name a twice"),
        ("0: a\n0: b", "value 0 twice"),
        ("0: a\nb", "VALUE: NAME in every line or in none, got 'b'"),
        ("256: a", "values up to 256"),
        ("\n".join(map(str, range(256))), "256 names"),
        (b"\xff\xfe\x00", "save it as UTF-8"),
        ("a\nb".encode("utf-16-le"), "zero bytes; save it as UTF-8"),
        ("sky\n#tag\nsea", "'#tag', which may be either"),
    ],
)
def test_invalid_lists_of_labels(tmp_path, text, said):
    (tmp_path / "labels.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=said) as caught:
        LabelList.read(tmp_path / "labels.txt")
    assert "labels.txt" in str(caught.value)


def test_no_folder(tmp_path):
    with pytest.raises(ValueError, match="root: expected a folder"):
        folder_pictures(tmp_path / "none")
    with pytest.raises(ValueError, match="at least one, got none"):
        folder_pictures(tmp_path)
