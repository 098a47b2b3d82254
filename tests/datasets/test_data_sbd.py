# SPDX-License-Identifier: MIT
"""MATLAB files against scipy, which wrote them, and hostile files."""

from __future__ import annotations

import struct
import time
import tracemalloc
import zlib

import numpy as np
import pytest
import scipy.io
from hypothesis import given
from hypothesis import strategies as st

import devkits
from crfrnn.datasets import sbd_pictures
from crfrnn.io import VOC_CLASSES, read_mat

HEADER = b"MATLAB 5.0 MAT-file".ljust(124, b" ") + struct.pack("<H", 0x100) + b"IM"


def element(kind: int, content: bytes) -> bytes:
    return struct.pack("<II", kind, len(content)) + content + bytes(-len(content) % 8)


def matrix(kind: int, dims: tuple[int, ...], name: bytes, content: bytes, flags: int = 0) -> bytes:
    return element(
        14,
        element(6, struct.pack("<II", kind | flags, 0))
        + element(5, struct.pack(f"<{len(dims)}i", *dims))
        + element(1, name)
        + content,
    )


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "i4", "f4", "f8", "i8"])
@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (37, 50)])
def test_what_scipy_writes(tmp_path, dtype, shape, compressed):
    values = np.random.default_rng(0).integers(0, 100, shape).astype(dtype)
    content = {"other": "text", "LabelMap": values, **devkits.gtcls(values)}
    scipy.io.savemat(tmp_path / "a.mat", content, do_compression=compressed)
    for names in (("LabelMap",), ("GTcls", "Segmentation")):
        read = read_mat(tmp_path / "a.mat", *names)
        assert read.dtype == values.dtype
        assert np.array_equal(read, values)
    with pytest.raises(ValueError, match=r"no variable 'x' \('other', 'LabelMap', 'GTcls'\)"):
        read_mat(tmp_path / "a.mat", "x")
    with pytest.raises(ValueError, match=r"no field 'x' \(Boundaries, Segmentation, CategoriesPresent\)"):
        read_mat(tmp_path / "a.mat", "GTcls", "x")
    with pytest.raises(ValueError, match="no 1×1 struct"):
        read_mat(tmp_path / "a.mat", "LabelMap", "x")
    with pytest.raises(ValueError, match="class 4 of shape"):
        read_mat(tmp_path / "a.mat", "other")


def test_big_endian(tmp_path):
    flags = struct.pack(">II", 6, 8) + struct.pack(">II", 9, 0)
    dims = struct.pack(">II", 5, 8) + struct.pack(">ii", 2, 1)
    numbers = struct.pack(">II", 4, 4) + struct.pack(">HH", 3, 400) + bytes(4)
    body = flags + dims + struct.pack(">HH", 1, 1) + b"x\0\0\0" + numbers
    head = HEADER[:124] + struct.pack(">H", 0x100) + b"MI"
    (tmp_path / "a.mat").write_bytes(head + struct.pack(">II", 14, len(body)) + body)
    assert read_mat(tmp_path / "a.mat", "x").tolist() == [[3], [400]]
    assert scipy.io.loadmat(tmp_path / "a.mat")["x"].tolist() == [[3], [400]]


def test_set(tmp_path):
    base = devkits.sbd(tmp_path, {"train": ["b", "a"], "val": ["c"]})
    for root in (tmp_path, base.parent, base):
        assert sbd_pictures(root).ids == ("b", "a")
    pictures = sbd_pictures(tmp_path, "trainval")
    assert (pictures.ids, pictures.class_names) == (("b", "a", "c"), VOC_CLASSES)
    assert [int(item.mask[0, 0]) for item in pictures] == [2, 1, 3]
    assert pictures[0].image.shape == (*devkits.SIZE, 3)
    assert pictures.check() == []
    with pytest.raises(ValueError, match=r"split: expected one of the lists in .* \(train, val\), got 'all'"):
        sbd_pictures(tmp_path, "all")
    with pytest.raises(ValueError, match="benchmark_RELEASE"):
        sbd_pictures(base / "img")


def test_every_problem_is_named_at_once(tmp_path):
    base = devkits.sbd(tmp_path, {"train": list("abcde"), "val": ["f"]})
    cls = base / "cls"
    (cls / "a.mat").write_bytes((cls / "a.mat").read_bytes()[:-30])
    scipy.io.savemat(cls / "b.mat", devkits.gtcls(np.full(devkits.SIZE, 21, np.uint8)))
    scipy.io.savemat(cls / "c.mat", devkits.gtcls(np.full((4, 4), 1, np.uint8)))
    scipy.io.savemat(cls / "d.mat", devkits.gtcls(np.full(devkits.SIZE, 0.5)))
    seen = []
    problems = sbd_pictures(tmp_path).check(lambda done, total: seen.append((done, total)))
    assert len(problems) == 4
    for said in ("a.mat", "b.mat", "'c': picture (5, 7) and mask (4, 4)", "fractions"):
        assert any(said in problem for problem in problems)
    assert seen == [(k, 5) for k in range(1, 6)]


def squeezed(megabytes: int, head: bytes = b"") -> bytes:
    """Some bytes followed by many zeros, compressed to a thousandth."""
    squeezer = zlib.compressobj(9)
    first = squeezer.compress(head)
    return first + b"".join(squeezer.compress(bytes(2**20)) for _ in range(megabytes)) + squeezer.flush()


# A struct GTcls of one element, without content.
TAG = matrix(2, (1, 1), b"GTcls", b"")


def bomb(megabytes: int, body: bytes) -> bytes:
    """A compressed matrix of that body followed by many zeros, whose tag states the size."""
    tag = struct.pack("<II", 14, len(body) + megabytes * 2**20)
    return element(15, squeezed(megabytes, tag + body))


HOSTILE = {
    "cells without end": (matrix(1, (2**28, 1), b"GTcls", b""), "no 1×1 struct"),
    "a field without end": (
        matrix(
            2, (1, 1), b"GTcls",
            element(5, struct.pack("<i", 16)) + element(1, b"Segmentation".ljust(16, b"\0"))
            + matrix(9, (2**30, 2**30), b"", element(2, bytes(8))),
        ),
        "8 bytes for 1073741824 × 1073741824",
    ),
    "negative sides": (
        matrix(
            2, (1, 1), b"GTcls",
            element(5, struct.pack("<i", 16)) + element(1, b"Segmentation".ljust(16, b"\0"))
            + matrix(9, (-2, -4), b"", element(2, bytes(8))),
        ),
        "not a matrix of real numbers",
    ),
    "a length beyond the file": (struct.pack("<II", 14, 2**31) + bytes(64), "an element of 2147483648 bytes"),
    "field names of no width": (
        matrix(2, (1, 1), b"GTcls", element(5, struct.pack("<i", 0)) + element(1, bytes(16))),
        "field names of 0 bytes",
    ),
    "two hundred megabytes of zeros": (element(15, squeezed(200)), "no variable 'GTcls' \\(none at all\\)"),
    "two hundred megabytes of a matrix": (bomb(200, TAG[8:]), "more than 134217728 bytes after inflating"),
    "more than the tag says": (element(15, squeezed(100, TAG)), "data that does not end after 56 bytes"),
    "sixty million field names": (
        bomb(60, TAG[8:] + element(5, struct.pack("<i", 1)) + struct.pack("<II", 1, 60 * 2**20)),
        "field names of 1 bytes, 62914560 in all",
    ),
    "a name of sixty megabytes": (
        bomb(60, TAG[8:40] + struct.pack("<II", 1, 60 * 2**20)), "an element of 62914560 bytes where"
    ),
    "variables without end": (element(1, b"") * 20_000, "among the first 10000"),
    "no matlab": (b"", "no variable 'GTcls' \\(none at all\\)"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_malicious_files(tmp_path, name):
    content, said = HOSTILE[name]
    (tmp_path / "bad.mat").write_bytes(HEADER + content)
    tracemalloc.start()
    begun = time.monotonic()
    with pytest.raises(ValueError, match=said) as caught:
        read_mat(tmp_path / "bad.mat", "GTcls", "Segmentation")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "bad.mat" in str(caught.value)
    assert peak < 2**28
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\x89HDF\r\n\x1a\n" + bytes(200), "MATLAB 7.3"),
        (b"MATLAB 7.3 MAT-file".ljust(128) + bytes(600), "MATLAB 7.3"),
        # as written by MATLAB: version 2.0 and the byte order, HDF5 after 512 bytes
        (b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(384) + b"\x89HDF\r\n\x1a\n", "MATLAB 7.3"),
        (b"Created by hdf5storage".ljust(124) + b"\x00\x02IM" + bytes(384) + bytes(99), "MATLAB 7.3"),
        (b"MATLAB 7.3 MAT-file".ljust(124) + b"\x02\x00MI" + bytes(384) + b"\x89HDF", "'-v7'"),
        (b"GIF89a", "something else"),
        (b"", "an empty file"),
    ],
)
def test_other_formats(tmp_path, content, said):
    (tmp_path / "a.mat").write_bytes(content)
    with pytest.raises(ValueError, match=said):
        read_mat(tmp_path / "a.mat", "x")


@pytest.mark.slow
@given(st.data())
def test_damage_anywhere_is_a_value_error_or_an_array(tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp()
    sound = folder / "sound.mat"
    if not sound.exists():
        scipy.io.savemat(sound, devkits.gtcls(np.arange(35, dtype=np.uint8).reshape(5, 7)))
    content = bytearray(sound.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (folder / "damaged.mat").write_bytes(content[: data.draw(st.integers(1, len(content)))])
    try:
        values = read_mat(folder / "damaged.mat", "GTcls", "Segmentation")
    except ValueError as error:
        assert "damaged.mat" in str(error)
    else:
        assert values.ndim == 2
        assert values.size * values.itemsize <= len(content)
