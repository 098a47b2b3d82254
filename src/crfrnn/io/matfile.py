# SPDX-License-Identifier: MIT
"""Read one array from an untrusted MATLAB 5 file: every size is checked before it is used.

scipy.io.loadmat allocates what a header claims before reading any data (a file of 250 bytes can take two
gigabytes), decompresses without a limit, and reads every variable of the file. This reader looks up one
label map by name and skips everything else.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crfrnn.io.files import FileError, PathLike, existing

MAX_BYTES = 2**27  # of a file and of its decompressed data; SBD's and Pascal Context's stay below 2 MB
MAX_VARIABLES, MAX_FIELDS, MAX_NAME = 10_000, 4096, 256  # MATLAB's names have at most 63 characters
_HEADER, _V73 = 128, 0x0200
_PEEK = 1024  # longer than the header of a matrix: its class, up to 32 dimensions, its name
_MATRIX, _COMPRESSED, _INT8, _INT32, _UINT32 = 14, 15, 1, 5, 6
_STRUCT, _NUMBERS = 2, range(6, 16)
_STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}


class _Broken(Exception):
    """The bytes violate the format."""


def read_mat(path: PathLike, *names: str, role: str = "mask") -> NDArray[Any]:
    """Read one two-dimensional array of real numbers from a MATLAB 5 file (.mat of MATLAB 5 to 7.2).

    Args:
        path: the file.
        names: the variable, then, if it is a 1×1 struct, the field in it, and so on.
        role: what the caller uses the file for, as named in the message.

    Returns:
        [rows, columns] in the file's number type.

    Raises:
        ValueError: no such file, another format, damaged, no such name, no matrix, more than 128 MiB.

    Source: MAT-File Level 5 File Format, The MathWorks, 2019.
    """
    found = existing(path, role)
    if found.stat().st_size > MAX_BYTES:
        raise FileError(role, path, f"at most {MAX_BYTES} bytes", f"{found.stat().st_size}", _REMEDY)
    data = found.read_bytes()
    order = {b"IM": "<", b"MI": ">"}.get(data[126:128])
    if order is None or len(data) < _HEADER or _is_hdf5(data, order):
        got = "a file of MATLAB 7.3 (HDF5)" if _is_hdf5(data, order or "<") else "something else"
        raise FileError(role, path, "a MATLAB 5 file", got, "save it with '-v7', or as indexed PNG")
    try:
        reader = _Reader(order)
        body = reader.find(memoryview(data)[_HEADER:], names[0])
        for name in names[1:]:
            body = reader.field(body, name)
        return reader.matrix(body)
    except (_Broken, struct.error, zlib.error) as error:
        expected = f"a whole MATLAB file with the matrix {'.'.join(names)}"
        raise FileError(role, path, expected, str(error), _REMEDY) from error


_REMEDY = "download or save it again"


def _is_hdf5(data: bytes, order: str) -> bool:
    """MATLAB 7.3 writes the same text and byte order first, then its version number, then HDF5."""
    if data.startswith(b"\x89HDF") or data[512:516] == b"\x89HDF" or b"MATLAB 7.3" in data[:_HEADER]:
        return True
    return len(data) >= _HEADER and struct.unpack_from(f"{order}H", data, 124)[0] == _V73


@dataclass(frozen=True)
class _Reader:
    order: str

    def element(self, data: memoryview, start: int) -> tuple[int, memoryview, int]:
        """Type and content of the element at `start`, and the start of the next one."""
        if start + 8 > len(data):
            raise _Broken("the end in the middle of an element")
        kind, size = struct.unpack_from(f"{self.order}II", data, start)
        if kind >> 16:  # small elements: size and type share a word, four bytes follow
            kind, size, begin, end = kind & 0xFFFF, kind >> 16, start + 4, start + 8
            if size > 4:
                raise _Broken(f"a small element of {size} bytes")
        else:
            begin = start + 8
            # All but compressed elements are padded to eight bytes.
            end = begin + (size if kind == _COMPRESSED else -(-size // 8) * 8)
        if begin + size > len(data):
            raise _Broken(f"an element of {size} bytes where {len(data) - begin} are left")
        return kind, data[begin : begin + size], end

    def find(self, data: memoryview, name: str) -> memoryview:
        """The matrix of that name; of all others only the header is decompressed."""
        seen: list[str] = []
        start = 0
        while start < len(data):
            if len(seen) >= MAX_VARIABLES:
                raise _Broken(f"no variable {name!r} among the first {MAX_VARIABLES}")
            kind, content, start = self.element(data, start)
            if kind == _COMPRESSED:
                own = self.compressed_name(content)
                seen.append(own)
                if own == name:
                    kind, content, _ = self.element(memoryview(self.inflated(content)), 0)
                    return content
            elif kind == _MATRIX:
                seen.append(self.name(content))
                if seen[-1] == name:
                    return content
            else:
                seen.append("")
        named = [repr(own) for own in seen if own]
        raise _Broken(f"no variable {name!r} ({', '.join(named[:5]) or 'none at all'})")

    def compressed_name(self, content: memoryview) -> str:
        """The name of a compressed matrix, from its first bytes; "" if it is not a matrix."""
        head = zlib.decompressobj().decompress(content, _PEEK)
        if len(head) < 8 or struct.unpack_from(f"{self.order}I", head)[0] != _MATRIX:
            return ""
        return self.name(memoryview(head)[8:])

    def inflated(self, content: memoryview) -> bytes:
        """A compressed element with its tag, which states the decompressed size."""
        inflater = zlib.decompressobj()
        tag = inflater.decompress(content, 8)
        size = 8 + struct.unpack_from(f"{self.order}I", tag, 4)[0]
        if size > MAX_BYTES:
            raise _Broken(f"more than {MAX_BYTES} bytes after inflating ({size})")
        body = inflater.decompress(inflater.unconsumed_tail, size - 8)
        # This call also verifies the checksum; only padding may follow.
        padding = inflater.decompress(inflater.unconsumed_tail, 8)
        if not inflater.eof:
            raise _Broken(f"compressed data that does not end after {size} bytes")
        return b"".join((tag, body, padding))

    def head(self, body: memoryview) -> tuple[int, tuple[int, ...], str, int]:
        """Class (with the complex flag), dimensions and name of a matrix, and the start of its content."""
        kind, flags, start = self.element(body, 0)
        if kind != _UINT32 or len(flags) != 8:
            raise _Broken("a matrix without flags")
        word = struct.unpack(f"{self.order}I", flags[:4])[0]
        kind, dims, start = self.element(body, start)
        if kind != _INT32 or len(dims) % 4 or not 8 <= len(dims) <= 128:
            raise _Broken("a matrix without dimensions")
        kind, name, start = self.element(body, start)
        if kind != _INT8 or len(name) > MAX_NAME:
            raise _Broken("a matrix without a name, or with a very long one")
        shape = struct.unpack(f"{self.order}{len(dims) // 4}i", dims)
        return word & 0x8FF, shape, bytes(name).decode("latin1"), start

    def name(self, body: memoryview) -> str:
        return self.head(body)[2]

    def field(self, body: memoryview, name: str) -> memoryview:
        """A field of a 1×1 struct."""
        kind, shape, _, start = self.head(body)
        if kind & 0xFF != _STRUCT or set(shape) != {1}:
            raise _Broken(f"no 1×1 struct that could hold {name!r}")
        _, length, start = self.element(body, start)
        _, block, start = self.element(body, start)
        width = struct.unpack(f"{self.order}i", length)[0]
        if not 1 <= width <= MAX_NAME or len(block) > width * MAX_FIELDS:
            raise _Broken(f"field names of {width} bytes, {len(block)} in all")
        packed = bytes(block)
        names = [packed[i : i + width].split(b"\0")[0].decode("latin1") for i in range(0, len(packed), width)]
        for own in names:
            kind, content, start = self.element(body, start)
            if own == name:
                if kind != _MATRIX:
                    raise _Broken(f"no matrix in the field {name!r}")
                return content
        raise _Broken(f"no field {name!r} ({', '.join(names[:5])})")

    def matrix(self, body: memoryview) -> NDArray[Any]:
        """Real numbers, [rows, columns]."""
        kind, shape, _, start = self.head(body)
        if kind & 0xFF not in _NUMBERS or kind & 0x800 or len(shape) != 2 or min(shape) < 1:
            raise _Broken(f"class {kind & 0xFF} of shape {shape}, not a matrix of real numbers")
        stored, content, _ = self.element(body, start)
        if stored not in _STORED:
            raise _Broken(f"numbers stored as type {stored}")
        dtype = np.dtype(self.order + _STORED[stored])
        if len(content) != shape[0] * shape[1] * dtype.itemsize:
            raise _Broken(f"{len(content)} bytes for {shape[0]} × {shape[1]} numbers of {dtype.itemsize}")
        values = np.frombuffer(content, dtype).reshape(shape, order="F")
        return np.array(values, dtype.newbyteorder("="), order="C")
