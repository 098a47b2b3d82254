# SPDX-License-Identifier: MIT
"""The part of the protocol buffers' wire format that weight files need; every length is checked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_SIZES = {FIXED64: 8, FIXED32: 4}
MAX_NUMBER = 2**29 - 1  # largest field number
MAX_FIELDS = 2**20  # in a message: millions of tiny fields would take hours in Python


class WireError(ValueError):
    """Bytes that are not a valid protocol buffer; the message names the position."""


class Field(NamedTuple):
    """One field: its number, its kind on the wire, and its content (an int for VARINT, else a view)."""

    number: int
    kind: int
    value: int | memoryview

    def integer(self) -> int:
        """The content of a VARINT; WireError otherwise."""
        if not isinstance(self.value, int):
            raise WireError(f"field {self.number}: expected an integer, got wire type {self.kind}")
        return self.value

    def view(self) -> memoryview:
        """The content of BYTES or of fixed numbers; WireError otherwise."""
        if isinstance(self.value, int):
            raise WireError(f"field {self.number}: expected bytes, got an integer")
        return self.value

    def message(self) -> memoryview:
        """The content of BYTES; WireError otherwise."""
        if self.kind != BYTES:
            raise WireError(f"field {self.number}: expected a message, got wire type {self.kind}")
        return self.view()

    def text(self) -> str:
        try:
            return bytes(self.message()).decode("utf-8")
        except UnicodeDecodeError as error:
            raise WireError(f"field {self.number}: expected text, got other bytes") from error


def read_varint(data: memoryview, start: int) -> tuple[int, int]:
    """The number at `start` and the position after it.

    >>> read_varint(memoryview(bytes([0xAC, 0x02])), 0)
    (300, 2)
    """
    value = 0
    for index in range(10):  # 64 bits are ten bytes
        if start + index >= len(data):
            raise WireError(f"position {start}: a number expected, the bytes end in it")
        byte = data[start + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            if value >= 2**64:
                break
            return value, start + index + 1
    raise WireError(f"position {start}: a number of at most 64 bits expected, a longer one found")


def varints(data: memoryview) -> list[int]:
    """The numbers of a packed field."""
    found, position = [], 0
    while position < len(data):
        value, position = read_varint(data, position)
        found.append(value)
    return found


def fields(data: memoryview) -> Iterator[Field]:
    """The fields of a message in byte order, without copies.

    Source: Protocol Buffers, *Encoding*; https://protobuf.dev/programming-guides/encoding/.

    Raises: WireError at the first invalid byte: a length beyond the end, groups, field number 0.

    >>> [f.text() for f in fields(memoryview(bytes([0x0A, 2]) + b"ok"))]
    ['ok']
    """
    position = count = 0
    while position < len(data):
        begin, count = position, count + 1
        if count > MAX_FIELDS:
            raise WireError(f"position {begin}: at most {MAX_FIELDS} fields in a message expected")
        key, position = read_varint(data, position)
        number, kind = key >> 3, key & 7
        if not 1 <= number <= MAX_NUMBER:
            raise WireError(f"position {begin}: a field number in 1..{MAX_NUMBER} expected, {number} found")
        if kind == VARINT:
            value, position = read_varint(data, position)
            yield Field(number, kind, value)
            continue
        if kind == BYTES:
            length, position = read_varint(data, position)
        elif kind in _SIZES:
            length = _SIZES[kind]
        else:
            raise WireError(f"position {begin}: wire type 0, 1, 2 or 5 expected, {kind} found")
        if length > len(data) - position:
            raise WireError(
                f"position {begin}: a field of {length} bytes, of which {len(data) - position} are there"
            )
        yield Field(number, kind, data[position : position + length])
        position += length
