# SPDX-License-Identifier: MIT
"""The part of the FlatBuffers format that weight files need; every offset and length is checked."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAX_ENTRIES = 2**17  # in a list of tables: millions of small ones would take hours in Python


class FlatError(ValueError):
    """Bytes that are not a valid FlatBuffer; the message names the position."""


def _number(data: memoryview, form: str, position: int) -> int:
    if not 0 <= position <= len(data) - struct.calcsize(form):
        raise FlatError(f"position {position}: expected a number within the {len(data)} bytes")
    return struct.unpack_from(form, data, position)[0]


@dataclass(frozen=True)
class Table:
    """A table: optional fields by their numbers in the schema.

    A table begins with the distance back to its list of fields, which holds its size, the table's size and
    the position of each field (0: absent). Strings, lists and tables are stored at an offset.

    Source: *FlatBuffer Internals*, https://flatbuffers.dev/internals/.
    """

    data: memoryview
    position: int

    @classmethod
    def root(cls, data: memoryview, identifier: bytes) -> Table:
        """The root table of a file with this identifier."""
        if bytes(data[4:8]) != identifier:
            raise FlatError(f"position 4: expected {identifier.decode()!r}, got {bytes(data[4:8])!r}")
        return cls(data, _number(data, "<I", 0))

    def _field(self, number: int) -> int | None:
        """The position of a field, or None if it is absent."""
        listing = self.position - _number(self.data, "<i", self.position)
        if 4 + 2 * number >= _number(self.data, "<H", listing):
            return None
        place = _number(self.data, "<H", listing + 4 + 2 * number)
        return self.position + place if place else None

    def _target(self, number: int) -> int | None:
        place = self._field(number)
        return None if place is None else place + _number(self.data, "<I", place)

    def integer(self, number: int, form: str = "<i", default: int = 0) -> int:
        """An integer field; `form` is a format of `struct`."""
        place = self._field(number)
        return default if place is None else _number(self.data, form, place)

    def table(self, number: int) -> Table | None:
        target = self._target(number)
        return None if target is None else Table(self.data, target)

    def numbers(self, number: int, dtype: str) -> NDArray[np.generic]:
        """A list of numbers, without a copy; empty if absent."""
        target = self._target(number)
        if target is None:
            return np.empty(0, dtype)
        length, size = _number(self.data, "<I", target), np.dtype(dtype).itemsize
        if length * size > len(self.data) - target - 4:
            raise FlatError(f"position {target}: expected a list within the bytes, got {length} entries")
        return np.frombuffer(self.data, dtype, length, target + 4)

    def tables(self, number: int) -> list[Table]:
        """A list of tables; empty if absent."""
        offsets = self.numbers(number, "<u4")
        if len(offsets) > MAX_ENTRIES:
            raise FlatError(f"field {number}: expected at most {MAX_ENTRIES} entries, got {len(offsets)}")
        target = self._target(number)
        first = 0 if target is None else target + 4
        return [Table(self.data, first + 4 * index + int(offset)) for index, offset in enumerate(offsets)]
