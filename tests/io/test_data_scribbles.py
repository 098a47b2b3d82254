# SPDX-License-Identifier: MIT
from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import devkits
from crfrnn.io import read_image, read_label_map, read_scribbles, read_unary, voc_palette, write_label_png

LABELS = np.array([[0, 1, 255], [2, 255, 0]])
FREE = [[0, 1, -1], [2, -1, 0]]


def test_indexed_grey_and_arrays(tmp_path):
    write_label_png(tmp_path / "a.png", LABELS)
    Image.fromarray(LABELS.astype(np.uint8)).save(tmp_path / "grey.png")
    np.save(tmp_path / "a.npy", LABELS)
    np.save(tmp_path / "free.npy", np.array(FREE)[None])
    torch.save(torch.as_tensor(LABELS), tmp_path / "a.pt")
    for name in ("a.png", "grey.png", "a.npy", "free.npy", "a.pt"):
        assert read_scribbles(tmp_path / name, 3).tolist() == FREE, name
        assert read_label_map(tmp_path / name, 3).tolist() == FREE, name


WHITE = np.array([[0, 255, 255], [0, 0, 255]], np.uint8)


@pytest.mark.parametrize("name", ["grey.png", "indexed.png", "alpha.png", "a.npy", "a.npz", "a.pt"])
def test_black_and_white_is_reported(tmp_path, name):
    """255 means "unknown", so white pixels would be lost unless the caller states that meaning."""
    path = tmp_path / name
    if name == "indexed.png":
        write_label_png(path, WHITE)
    elif name == "alpha.png":
        Image.fromarray(np.stack([WHITE, np.full_like(WHITE, 255)], -1)).save(path)
    elif name == "grey.png":
        Image.fromarray(WHITE).save(path)
    elif name == "a.pt":
        torch.save(torch.from_numpy(WHITE), path)
    else:
        (np.save if name == "a.npy" else np.savez)(path, WHITE)
    known = [[0, -1, -1], [0, 0, -1]]
    for kind in ("labels", "scribbles") if name != "alpha.png" else ("scribbles",):
        for labels in (2, 21):
            with pytest.raises(ValueError, match=r"255.*unknown.*nothing but 0 and 255.*--void 255"):
                read_unary(path, kind=kind, num_labels=labels)
        assert read_unary(path, kind=kind, num_labels=1).logits.shape == (1, 2, 3)
        found = read_unary(path, kind="scribbles", num_labels=2, unknown=255).clamp
        assert found is not None and found.tolist() == known
    if name == "alpha.png":  # only white strokes; fully opaque, they would be paper
        Image.fromarray(np.stack([np.full_like(WHITE, 255), WHITE], -1)).save(path)
        with pytest.raises(ValueError, match="nothing but 255"):
            read_unary(path, kind="scribbles", num_labels=2)
    np.save(tmp_path / "mended.npy", (WHITE > 0).astype("uint8"))  # the suggested fix
    assert read_label_map(tmp_path / "mended.npy", 2).tolist() == (WHITE > 0).astype(int).tolist()


def test_an_unmarked_picture_is_no_mask_and_booleans_are_labels(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.full((2, 3), 255, np.uint8))
    assert (read_scribbles(path, 2) == -1).all()
    with pytest.raises(ValueError, match="nothing but 255"):
        read_label_map(path, 2)
    np.save(path, WHITE > 0)
    assert read_label_map(path, 2).tolist() == [[0, 1, 1], [0, 0, 1]]
    np.save(path, (WHITE > 0).astype(np.float32))
    assert read_label_map(path, 2).tolist() == [[0, 1, 1], [0, 0, 1]]
    np.save(path, WHITE / 510)
    with pytest.raises(ValueError, match=r"whole numbers, got float64.*kind='probabilities'"):
        read_label_map(path, 2)
    np.save(path, WHITE // 2)
    with pytest.raises(ValueError, match=r"labels 0..1 or -1, got 127 at row 0, column 1"):
        read_label_map(path, 2)
    with pytest.raises(ValueError, match="if 11 is the void value, use fewer labels"):
        read_label_map(path, 12, unknown=11)


def test_colour_with_transparency(tmp_path):
    pixels = np.zeros((2, 3, 4), np.uint8)
    pixels[..., :3] = voc_palette()[LABELS]
    pixels[..., 3] = np.where(LABELS == 255, 0, 255)
    pixels[0, 0, 3] = 128  # half opaque counts, slightly less does not
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert read_scribbles(tmp_path / "a.png", 3).tolist() == FREE
    pixels[0, 1, 3] = 127
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert read_scribbles(tmp_path / "a.png", 3).tolist() == [[0, -1, -1], [2, -1, 0]]


def test_colour_on_black_paper_and_on_void(tmp_path):
    Image.fromarray(voc_palette()[LABELS]).save(tmp_path / "a.png")
    assert read_scribbles(tmp_path / "a.png", 3).tolist() == [[-1, 1, -1], [2, -1, -1]]
    # Only the void colour of the palette is unknown, so black is background.
    assert read_scribbles(tmp_path / "a.png", 3, unknown_colour=None).tolist() == FREE
    white = voc_palette()[LABELS]
    white[LABELS == 255] = 255
    Image.fromarray(white).save(tmp_path / "w.png")
    assert read_scribbles(tmp_path / "w.png", 3, unknown_colour=(255, 255, 255)).tolist() == FREE


def test_own_palette(tmp_path):
    palette = np.array([[1, 1, 1], [255, 0, 0], [0, 255, 0]], np.uint8)
    colours = np.concatenate([palette, np.zeros((253, 3), np.uint8)])[LABELS]
    Image.fromarray(colours).save(tmp_path / "a.png")
    assert read_scribbles(tmp_path / "a.png", 3, palette=palette).tolist() == FREE
    with pytest.raises(ValueError, match="palette: expected a colour for each of 4 labels, got 3"):
        read_scribbles(tmp_path / "a.png", 4, palette=palette)


def test_transparent_index(tmp_path):
    write_label_png(tmp_path / "a.png", np.where(LABELS == 255, 9, LABELS))
    with Image.open(tmp_path / "a.png") as picture:
        picture.save(tmp_path / "b.png", transparency=9)
    assert read_scribbles(tmp_path / "b.png", 3).tolist() == FREE


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_shallow_grey_and_its_transparent_number(tmp_path, bits):
    devkits.grey_png(tmp_path / "a.png", [[0, 1, 1, 0]], bits)
    assert read_scribbles(tmp_path / "a.png", 3).tolist() == [[0, 1, 1, 0]]
    devkits.grey_png(tmp_path / "b.png", [[0, 1, 1, 0]], bits, transparent=0)
    assert read_scribbles(tmp_path / "b.png", 3).tolist() == [[-1, 1, 1, -1]]
    assert read_image(tmp_path / "b.png")[0, :, 0].tolist() == [255, *[255 // (2**bits - 1)] * 2, 255]


def test_deep_grey_with_transparency(tmp_path):
    Image.fromarray(np.array([[0, 1, 2]], np.uint16)).save(tmp_path / "a.png", transparency=2)
    assert read_scribbles(tmp_path / "a.png", 3).tolist() == [[0, 1, -1]]


def test_unknown_colours_are_refused(tmp_path):
    pixels = voc_palette()[LABELS]
    pixels[0, 1] = (120, 3, 3)  # a soft edge
    Image.fromarray(pixels).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"1 other colours \(\(120, 3, 3\)\).*soft edges"):
        read_scribbles(tmp_path / "a.png", 3)
    with pytest.raises(ValueError, match="label"):  # a palette label, but not one of the two
        read_scribbles(tmp_path / "a.png", 2)


def test_scribbles_as_unary_and_clamp(tmp_path):
    write_label_png(tmp_path / "a.png", LABELS)
    unary = read_unary(tmp_path / "a.png", kind="scribbles", num_labels=3, gt_prob=0.9, size=(2, 3))
    assert unary.clamp is not None
    assert unary.clamp.tolist() == FREE
    q = unary.logits.exp()
    assert torch.allclose(q[:, 0, 1], torch.tensor([0.05, 0.9, 0.05]))
    assert torch.allclose(q[:, 1, 1], torch.full((3,), 1 / 3))
    assert read_unary(tmp_path / "a.png", kind="labels", num_labels=3).clamp is None
    with pytest.raises(ValueError, match="3 rows × 3 columns"):
        read_unary(tmp_path / "a.png", kind="scribbles", num_labels=3, size=(3, 3))


def test_labels_out_of_range(tmp_path):
    write_label_png(tmp_path / "a.png", LABELS)
    for read in (read_label_map, read_scribbles):
        with pytest.raises(ValueError, match=r"labels 0\.\.1 or -1, got 2 at row 1, column 0"):
            read(tmp_path / "a.png", 2)
    assert read_label_map(tmp_path / "a.png", 3, unknown=255)[0, 2] == -1
    np.savez(tmp_path / "a.npz", x=LABELS, y=LABELS + 1)
    for kind in ("labels", "scribbles"):
        unary = read_unary(tmp_path / "a.npz", kind=kind, num_labels=3, key="x")
        assert unary.logits.argmax(0)[0, 1] == 1
    np.save(tmp_path / "a.npy", np.zeros((2, 2, 2), int))
    with pytest.raises(ValueError, match="labels"):
        read_label_map(tmp_path / "a.npy", 2)
