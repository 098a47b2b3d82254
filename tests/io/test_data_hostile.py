# SPDX-License-Identifier: MIT
"""Hostile files: each raises a ValueError that names the file, quickly and without much memory."""

from __future__ import annotations

import io
import os
import pickle
import re
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from crfrnn.io import read_array, read_image, read_label_png, read_scribbles, read_unary


class Harm:
    def __reduce__(self):
        return os.system, ("touch harmed",)


def npy_header(shape, descr="<f4", version=1, size=None):
    text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}\n".encode("latin1")
    length = len(text) if size is None else size
    return b"\x93NUMPY" + bytes([version, 0]) + length.to_bytes(2 if version == 1 else 4, "little") + text


def refused(path, said, read=read_array, **options):
    with pytest.raises(ValueError, match=said) as caught:
        read(path, **options)
    assert path.name in str(caught.value)
    assert "; " in str(caught.value)
    assert not os.path.exists("harmed")


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_pickled_arrays(tmp_path):
    np.save(tmp_path / "a.npy", np.array([Harm(), 1], dtype=object), allow_pickle=True)
    refused(tmp_path / "a.npy", "pickled Python objects, which can run code")
    np.savez(tmp_path / "a.npz", np.array([Harm(), 1], dtype=object), allow_pickle=True)
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as archive:
        archive.write(tmp_path / "a.npy", "a.npy")
    refused(tmp_path / "b.npz", "pickled Python objects")
    (tmp_path / "c.npy").write_bytes(pickle.dumps(Harm()))  # numpy.load would unpickle this if allowed
    refused(tmp_path / "c.npy", "the header of an array in .npy format")
    np.save(tmp_path / "d.npy", np.zeros(3, dtype=[("a", "f4"), ("b", "i4")]))
    refused(tmp_path / "d.npy", "expected real numbers")


def test_code_in_a_pt(tmp_path):
    torch.save(Harm(), tmp_path / "a.pt")
    refused(tmp_path / "a.pt", "other Python objects, which can run code")
    torch.save({"x": torch.zeros(2), "y": Harm()}, tmp_path / "b.pt")
    refused(tmp_path / "b.pt", "which can run code", key="x")
    (tmp_path / "c.pt").write_bytes(pickle.dumps(Harm()))
    refused(tmp_path / "c.pt", "before torch 1.6")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "d.pt")
    refused(tmp_path / "d.pt", "save the tensor alone")
    torch.save([1, 2], tmp_path / "e.pt")
    refused(tmp_path / "e.pt", "a dense tensor, got list")


def test_decompression_bombs_are_refused_before_allocation(tmp_path):
    (tmp_path / "a.npy").write_bytes(npy_header("(100000, 100000, 21)"))
    with (
        zipfile.ZipFile(tmp_path / "b.npz", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("x.npy", "w") as member,
    ):
        member.write(npy_header("(64, 1024, 1024)"))
        for _ in range(64):
            member.write(bytes(2**20))
    with (
        zipfile.ZipFile(tmp_path / "e.npz", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("x.npy", "w") as member,  # a header of 64 MiB
    ):
        member.write(npy_header("(2, 3)", version=2, size=2**26)[:12])
        for _ in range(64):
            member.write(b" " * 2**20)
    torch.save(torch.zeros(1).expand(10**6, 10**6), tmp_path / "c.pt")  # four bytes, two zero strides
    torch.save(torch.zeros(2**24), tmp_path / "plain.pt")
    with (
        zipfile.ZipFile(tmp_path / "plain.pt") as stored,
        zipfile.ZipFile(tmp_path / "d.pt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in stored.namelist():
            packed.writestr(name, stored.read(name))
    assert (tmp_path / "d.pt").stat().st_size < 2**17
    tracemalloc.start()
    try:
        refused(tmp_path / "a.npy", "at most 2147483648 bytes in memory, got 840000000000")
        refused(tmp_path / "b.npz", "at most 1000000 bytes", max_bytes=1_000_000)
        refused(tmp_path / "e.npz", "the header of an array")
        refused(tmp_path / "c.pt", "at most 2147483648 bytes in memory, got 4000000000000")
        refused(tmp_path / "d.pt", "at most 1000000 bytes", max_bytes=1_000_000)
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


def test_the_declared_size_is_checked_before_the_data(tmp_path):
    (tmp_path / "a.npy").write_bytes(npy_header("(21, 5000, 5000)"))
    refused(
        tmp_path / "a.npy",
        "10 rows × 10 columns as the picture has",
        read_unary,
        kind="logits",
        axes="lhw",
        size=(10, 10),
    )


@pytest.mark.parametrize(
    "header",
    [
        npy_header("(2, 3)", size=5),
        npy_header("(2, 3)", version=2, size=2**32 - 1),
        npy_header("(2, 3)", size=60_000),
        npy_header("(2, 3)", descr="(9,9)f4"),
        npy_header("(2, 3)", descr="<U4"),
        npy_header("(2, 3)", descr="<q9"),
        npy_header("(-1, 3)"),
        npy_header("(0, 1" + "0" * 150 + ")"),
        npy_header("(" + "1, " * 60 + ")"),
        npy_header("(" * 150 + "2" + ")" * 150),
        npy_header("__import__('os').system('touch harmed')"),
        npy_header("(2, 3)", version=9),
        b"\x93NUMPY",
        b"\x93NUMPY\x01\x00",
    ],
)
def test_invalid_headers(tmp_path, header):
    (tmp_path / "a.npy").write_bytes(header + bytes(24))
    refused(tmp_path / "a.npy", "expected")


def test_data_longer_than_the_header_says(tmp_path):
    (tmp_path / "a.npy").write_bytes(npy_header("(2, 3)") + bytes(25))
    refused(tmp_path / "a.npy", "more than that")


def test_a_changed_byte_in_an_archive(tmp_path):
    np.savez(tmp_path / "a.npz", np.arange(100.0))
    raw = bytearray((tmp_path / "a.npz").read_bytes())
    raw[400] ^= 1
    (tmp_path / "a.npz").write_bytes(raw)
    refused(tmp_path / "a.npz", "CRC")


@pytest.mark.parametrize("ending", ["npy", "npz", "pt"])
def test_truncated(tmp_path, ending):
    array = np.random.default_rng(0).normal(size=(3, 40, 50)).astype(np.float32)
    path = tmp_path / f"a.{ending}"
    np.save(path, array) if ending == "npy" else None
    np.savez(path, array) if ending == "npz" else None
    torch.save(torch.as_tensor(array), path) if ending == "pt" else None
    whole = path.read_bytes()
    for length in (len(whole) - 1, len(whole) // 2, 200, 7, 0):
        path.write_bytes(whole[:length])
        refused(path, "expected", read_unary, kind="logits", axes="lhw")


def test_other_endings_and_places(tmp_path):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(Harm()))
    refused(tmp_path / "a.pkl", "ending in .npy, .npz, .pt or .pth, got '.pkl'")
    refused(tmp_path / "none.npy", "nothing under that name")
    (tmp_path / "folder.npy").mkdir()
    refused(tmp_path / "folder.npy", "a folder")
    (tmp_path / "empty.npz").write_bytes(b"PK\x05\x06" + bytes(18))
    refused(tmp_path / "empty.npz", re.escape("the entries (none)"))
    np.save(tmp_path / "a.npy", np.zeros(1))
    refused(tmp_path / "a.npy", "no key for an .npy", key="a")


def _sound(kind, folder):
    rng = np.random.default_rng(1)
    array, pixels = rng.normal(size=(2, 6, 7)).astype(np.float32), rng.integers(0, 3, (6, 7), np.uint8)
    stream = io.BytesIO()
    if kind == "npy":
        np.save(stream, array)
    elif kind == "npz":
        np.savez_compressed(stream, array)
    elif kind == "pt":
        torch.save(torch.as_tensor(array), stream)
    else:
        Image.fromarray(pixels).save(
            stream, format={"png": "PNG", "jpg": "JPEG", "tiff": "TIFF", "gif": "GIF"}[kind]
        )
    return folder / f"a.{kind}", stream.getvalue()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow warns about damaged TIFF tags before failing
@pytest.mark.parametrize("kind", ["npy", "npz", "pt", "png", "jpg", "tiff", "gif"])
def test_random_damage_is_a_value_error_or_harmless(tmp_path, kind):
    path, whole = _sound(kind, tmp_path)
    rng = np.random.default_rng(7)
    for _ in range(120):
        raw = bytearray(whole)
        for position in rng.integers(0, len(raw), rng.integers(1, 6)):
            raw[position] = rng.integers(256)
        if rng.random() < 0.3:
            raw = raw[: rng.integers(1, len(raw) + 1)]
        path.write_bytes(raw)
        readers = [lambda: read_image(path, max_pixels=10_000)]
        if kind in ("npy", "npz", "pt"):
            readers = [lambda: read_unary(path, kind="logits", axes="lhw", max_bytes=10_000)]
        elif kind == "png":
            readers += [lambda: read_label_png(path, max_pixels=10_000), lambda: read_scribbles(path, 3)]
        for read in readers:
            try:
                read()
            except ValueError as error:
                assert path.name in str(error)
