# SPDX-License-Identifier: MIT
"""Damaged and hostile weight files: rejected with an error that names the file, never run or trusted."""

from __future__ import annotations

import os
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import foreign
from crfrnn.io.weights import read_tensors
from crfrnn.models.importers import convert
from crfrnn.models.importers.caffe import read_caffemodel
from crfrnn.models.importers.wire import WireError, fields, read_varint

LAYER = {"conv1_1": [np.ones((2, 3, 3, 3), np.float32), np.ones(2, np.float32)]}


def caffe(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def v1_layer(*parts: bytes, name: bytes = b"conv1_1") -> bytes:
    return foreign.tagged(2, foreign.tagged(4, name) + b"".join(parts))


def v1_blob(content: bytes) -> bytes:
    return v1_layer(foreign.tagged(6, content))


@given(st.integers(0, 2**64 - 1))
def test_varints_round_trip(value: int) -> None:
    data = foreign.varint(value)
    assert read_varint(memoryview(data), 0) == (value, len(data))


@given(st.binary(max_size=60))
def test_any_bytes_give_fields_or_an_error(data: bytes) -> None:
    try:
        found = [
            (f.number, f.kind, f.value if isinstance(f.value, int) else bytes(f.value))
            for f in fields(memoryview(data))
        ]
    except WireError:
        return
    # Everything was parsed: rewritten it has the same fields.
    again = b""
    for number, kind, value in found:
        key = foreign.varint(number << 3 | kind)
        again += key + (
            foreign.varint(value)
            if isinstance(value, int)
            else (foreign.varint(len(value)) if kind == 2 else b"") + value
        )
    assert [f.number for f in fields(memoryview(again))] == [number for number, _, _ in found]


def test_every_truncation_is_an_error(tmp_path: Path) -> None:
    whole = foreign.caffemodel(tmp_path / "a", LAYER).read_bytes()
    assert [tuple(b.shape) for b in read_caffemodel(tmp_path / "a")["conv1_1"]] == [
        (2, 3, 3, 3),
        (1, 1, 1, 2),
    ]
    for end in range(1, len(whole)):
        with pytest.raises(ValueError, match=r"caffemodel '.*a'"):
            read_caffemodel(caffe(tmp_path / "a", whole[:end]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mutated")


@given(where=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255), v1=st.booleans())
def test_a_changed_byte_gives_weights_or_one_error(folder: Path, where: float, byte: int, v1: bool) -> None:
    content = bytearray(foreign.caffemodel(folder / "b", LAYER, v1=v1).read_bytes())
    content[int(where * len(content))] = byte
    try:
        convert(caffe(folder / "b", bytes(content)), "caffe")
    except ValueError as error:  # never another error type; this network lacks layers in any case
        assert str(error)
    else:
        raise AssertionError("one layer is no network")


BLOB = foreign.blob(np.ones(3, np.float32), legacy=True)
SIZE = foreign.tagged(7, foreign.tagged(1, foreign.varint(3)))
BAD = {
    "length beyond the end": (b"\x12\xff\xff\xff\xff\x7f", "bytes, of which"),
    "number too long": (b"\xff" * 11, "64 bits"),
    "groups": (b"\x13\x14", "wire type"),
    "field zero": (b"\x00\x01", "field number"),
    "V0": (foreign.tagged(2, foreign.tagged(1, b"\x0a\x01a")), "V0 format"),
    "layers as number": (foreign.tagged(2, 7), "expected a message"),
    "name is no text": (v1_layer(name=b"\xff\xfe"), "expected text"),
    "two of one name": (v1_layer(foreign.tagged(6, BLOB)) * 2, "two layers"),
    "more than there is": (
        v1_blob(foreign.tagged(7, foreign.tagged(1, foreign.varint(2**62)))), "0 numbers",
    ),
    "less than there is": (v1_blob(foreign.tagged(1, 2) + foreign.tagged(5, bytes(4))), "numbers"),
    "half a float": (v1_blob(foreign.tagged(5, bytes(7))), "7 bytes"),
    "both precisions": (
        v1_blob(SIZE + foreign.tagged(5, bytes(12)) + foreign.tagged(8, bytes(24))), "single and double",
    ),
    "NaN": (v1_blob(SIZE + foreign.tagged(5, struct.pack("<3f", 1, float("nan"), 1))), "NaN"),
    "infinity": (v1_blob(SIZE + foreign.tagged(8, struct.pack("<3d", 1, 1e300, 1))), "infinity"),
    "nothing in it": (v1_layer(), "layers without"),
    "a text": (b"name: 'VGG'\nlayer {", "caffemodel"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize("kind", BAD)
def test_bad_caffemodels(kind: str, tmp_path: Path) -> None:
    content, complaint = BAD[kind]
    with pytest.raises(ValueError, match=complaint) as caught:
        read_caffemodel(caffe(tmp_path / "bad.caffemodel", content))
    assert "bad.caffemodel" in str(caught.value)


class RunsCode:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.marker}",)


def test_a_picture_is_refused_as_weights(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(b"\xff\xd8\xff\xe0 a photograph")
    with pytest.raises(ValueError, match=r"a file that torch\.save wrote, got a file that begins"):
        convert(path, "pytorch")


@pytest.mark.parametrize("origin", ["pytorch", "torchvision"])
@pytest.mark.parametrize("zipped", [False, True])
def test_a_pickle_that_would_run_code_is_refused(origin: str, zipped: bool, tmp_path: Path) -> None:
    path, marker = tmp_path / "evil.pth", tmp_path / "ran"
    state = {"conv1_1.weight": torch.zeros(1), "x": RunsCode(marker)}
    if zipped:
        torch.save(state, path)
    else:
        path.write_bytes(pickle.dumps(state | {"conv1_1.weight": 0}, protocol=2))
    with pytest.raises(ValueError, match="a pickle that would run code") as caught:
        convert(path, origin)
    assert not marker.exists() and "evil.pth" in str(caught.value)
    assert "system" in str(caught.value)


def test_bad_torch_files(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save({"a": torch.zeros(1)}, path)
    whole = path.read_bytes()
    for content, complaint in (
        (whole[: len(whole) // 2], "a file that torch.save wrote|pickle"),
        (b"hello", "pickle|torch.save"),
        (b"", "empty file"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=complaint):
            read_tensors(path)
    contents: list[tuple[Any, str]] = [
        ([torch.zeros(2)], "a state_dict"),
        ({"a": 1}, "tensors by name"),
        ({"a": torch.full((2,), float("inf"))}, "NaN or infinity"),
        ({"a": torch.zeros(1).expand(2**30)}, "at most"),  # four bytes that claim four gigabytes
        ({"a": torch.eye(3).to_sparse()}, "plain numbers"),
        ({"a": torch.zeros(2, dtype=torch.complex64)}, "plain numbers"),
    ]
    for content, complaint in contents:
        torch.save(content, path)
        with pytest.raises(ValueError, match=complaint):
            read_tensors(path)
    with pytest.raises(ValueError, match="nothing under that name"):
        read_tensors(tmp_path / "none.pth")


def test_bad_h5_files(tmp_path: Path) -> None:
    import h5py

    path = tmp_path / "w.h5"

    def refused(complaint: str) -> None:
        with pytest.raises(ValueError, match=complaint) as caught:
            convert(path, "keras")
        assert "w.h5" in str(caught.value)

    path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(40))
    refused("a whole HDF5 file")
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["secret"] = np.ones(3, np.float32)
    with h5py.File(path, "w") as file:
        file["conv1_1"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/")
    refused("a link 'conv1_1'")
    with h5py.File(path, "w") as file:
        file["conv1_1"] = h5py.SoftLink("/nowhere")
    refused("a link 'conv1_1'")
    with h5py.File(path, "w") as file:
        layout = h5py.VirtualLayout((3,), np.float32)
        layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "secret", (3,))
        file.create_virtual_dataset("conv1_1", layout)
    refused("outside")
    with h5py.File(path, "w") as file:
        file.create_dataset("a", (3,), np.float32, external=[(str(tmp_path / "raw"), 0, 12)])
    refused("outside")
    with h5py.File(path, "w") as file:
        file.create_dataset("bomb", (2**40,), np.float32, chunks=(1024,), compression="gzip")
    refused("at most")
    with h5py.File(path, "w") as file:
        file["self"] = file["/"]
    refused("nested groups")
    with h5py.File(path, "w") as file:  # 10^8 paths to the last of nine groups
        above: h5py.Group = file
        for level in range(8):
            below = file.create_group(f"level {level}")
            for name in "abcdefghij":
                above[name] = below
            above = below
    refused("at most 10000 entries")
    with h5py.File(path, "w") as file:
        file["conv1_1/conv1_1/kernel:0"] = np.full((3, 3, 3, 2), np.nan, np.float32)
    refused("NaN")
    with h5py.File(path, "w") as file:
        file["conv1_1/conv1_1/kernel:0"] = np.ones(3, np.float32)
    refused("4 axes")


def test_without_h5py_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    (tmp_path / "w.h5").write_bytes(b"x")
    with pytest.raises(ImportError, match=r"pip install '\.\[convert\]'"):
        convert(tmp_path / "w.h5", "keras")
