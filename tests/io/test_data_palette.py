# SPDX-License-Identifier: MIT
from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from PIL import Image

import devkits
from crfrnn.io import FileError, atomic, read_image, read_label_png, read_unary, voc_palette, write_label_png


def test_palette_is_the_devkit_colour_map():
    def devkit(label):  # as in VOClabelcolormap.m
        colour = [0, 0, 0]
        for j in range(8):
            for channel in range(3):
                colour[channel] |= ((label >> channel) & 1) << (7 - j)
            label >>= 3
        return colour

    assert voc_palette().tolist() == [devkit(label) for label in range(256)]
    assert voc_palette(21).shape == (21, 3)


@pytest.mark.parametrize("labels", [np.arange(12).reshape(3, 4), torch.arange(12).reshape(3, 4) + 200])
def test_png_round_trip(tmp_path, labels):
    write_label_png(tmp_path / "a.png", labels)
    assert read_label_png(tmp_path / "a.png").tolist() == labels.tolist()
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.mode == "P"
        shown = np.asarray(picture.convert("RGB"))
    assert (shown == voc_palette()[np.asarray(labels)]).all()


def test_own_palette_and_grey_and_sixteen_bit(tmp_path):
    palette = np.array([[1, 2, 3], [9, 8, 7]], np.uint8)
    write_label_png(tmp_path / "a.png", [[0, 1]], palette)
    assert np.asarray(Image.open(tmp_path / "a.png").convert("RGB")).tolist() == [[[1, 2, 3], [9, 8, 7]]]
    Image.fromarray(np.array([[3, 255]], np.uint8)).save(tmp_path / "grey.png")
    assert read_label_png(tmp_path / "grey.png", 4).tolist() == [[3, 255]]
    Image.fromarray(np.array([[3, 255]], np.uint16)).save(tmp_path / "deep.png")
    assert read_label_png(tmp_path / "deep.png").tolist() == [[3, 255]]
    Image.new("1", (2, 1), 1).save(tmp_path / "bits.png")
    assert read_label_png(tmp_path / "bits.png").tolist() == [[1, 1]]


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_the_stored_number_is_the_label_at_every_depth(tmp_path, bits):
    labels = np.arange(2**bits).reshape(2, -1)
    devkits.grey_png(tmp_path / "a.png", labels, bits)
    assert read_label_png(tmp_path / "a.png").tolist() == labels.tolist()
    found = read_unary(tmp_path / "a.png", kind="labels", num_labels=255).logits.argmax(0)
    assert found[labels < 255].tolist() == labels[labels < 255].tolist()
    Image.fromarray(labels.astype(np.uint8)).convert("P").save(tmp_path / "p.png", bits=bits)
    assert read_label_png(tmp_path / "p.png").tolist() == labels.tolist()
    shown = read_image(tmp_path / "a.png")[..., 0]  # read_image still reads it as a photograph
    assert shown.tolist() == (labels * 255 // (2**bits - 1)).tolist()


@pytest.mark.parametrize(
    ("labels", "error", "said"),
    [
        (np.zeros((2, 2)), TypeError, "argmax"),
        (np.zeros((1, 2, 2), int), ValueError, r"\[H, W\]"),
        (np.zeros((0, 2), int), ValueError, "at least one pixel"),
        (np.array([[256]]), ValueError, r"numpy\.save"),
        (np.array([[-1]]), ValueError, r"0\.\.255"),
    ],
)
def test_labels_that_do_not_fit_into_a_png(tmp_path, labels, error, said):
    with pytest.raises(error, match=said):
        write_label_png(tmp_path / "a.png", labels)
    assert list(tmp_path.iterdir()) == []


def test_writing_is_atomic(tmp_path, monkeypatch):
    target = tmp_path / "a.png"
    write_label_png(target, [[1]])
    before = target.read_bytes()

    def half(self, name, **_):
        with open(name, "wb") as stream:
            stream.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", half)
    with pytest.raises(OSError, match="disk full"):
        write_label_png(target, [[2]])
    assert target.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.png"]


def test_no_such_folder(tmp_path):
    with pytest.raises(ValueError, match="create it"), atomic(tmp_path / "no" / "a"):
        pass
    with pytest.raises(ValueError, match="add a file name"), atomic(tmp_path):
        pass
    with pytest.raises(ValueError, match="palette"):
        write_label_png(tmp_path / "a.png", [[1]], np.zeros((3, 4), np.uint8))


def test_invalid_label_pngs(tmp_path):
    Image.new("RGB", (2, 2)).save(tmp_path / "rgb.png")
    with pytest.raises(FileError, match=r"mode RGB.*kind='scribbles'"):
        read_label_png(tmp_path / "rgb.png")
    Image.new("L", (2, 2)).save(tmp_path / "a.jpg")
    with pytest.raises(FileError, match=r"a picture \(PNG\)"):
        read_label_png(tmp_path / "a.jpg")
    Image.fromarray(np.array([[300]], np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(FileError, match="up to 300"):
        read_label_png(tmp_path / "deep.png")
    write_label_png(tmp_path / "a.png", [[0, 0], [7, 255]])
    with pytest.raises(FileError, match="7 at row 1, column 0"):
        read_label_png(tmp_path / "a.png", 7)
    with pytest.raises(FileError, match="nothing under that name"):
        read_label_png(tmp_path / "none.png")
