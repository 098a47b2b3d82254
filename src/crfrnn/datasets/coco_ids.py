# SPDX-License-Identifier: MIT
"""COCO's ids as people write them: 5, 5.0 and "5" are one number; what is none is named, never dropped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from crfrnn.io.files import FileError, PathLike

_EXACT = 2**53  # floats above stand for several whole numbers
_DIGITS = 19


def whole_number(value: Any) -> int | None:
    """The whole number that a JSON value stands for; None for anything else, true and false too.

    >>> [whole_number(v) for v in (5, 5.0, "005", 5.5, "5a", True, None)]
    [5, 5, 5, None, None, None, None]
    """
    if isinstance(value, bool):
        return None
    if isinstance(value, float):
        return int(value) if value.is_integer() and abs(value) < _EXACT else None
    if isinstance(value, str):
        return int(value) if value.isascii() and value.isdigit() and len(value) <= _DIGITS else None
    return value if isinstance(value, int) else None


def ids_of(
    entries: Sequence[dict[str, Any]], field: str, name: str, listing: PathLike, *, once: bool = False
) -> list[int]:
    """The ids that all entries of a list have under `field`; with `once` no two may be the same.

    Args: name, of the list in the file; listing, the file.

    Raises: ValueError that names file, list, field and the first wrong entry.
    """
    found = [whole_number(entry.get(field)) for entry in entries]
    bad = [place for place, value in enumerate(found) if value is None]
    if bad:
        entry = entries[bad[0]]
        got = f"{entry[field]!r:.40}" if field in entry else "none"
        raise FileError(
            "annotations", listing, f"a whole number as {field!r} in every entry of {name!r}",
            f"{got} in entry {bad[0]} (counted from 0; {len(bad)} such entries)",
            "write whole numbers, or take these entries out",
        )  # fmt: skip
    numbers = [value for value in found if value is not None]
    if once and len(set(numbers)) < len(numbers):
        seen: set[int] = set()
        twice = sorted({n for n in numbers if n in seen or seen.add(n)})
        raise FileError(
            "annotations", listing, f"each {field!r} once in {name!r}",
            f"{len(twice)} of them twice or more (the first: {twice[0]})",
            "number the entries anew when files are merged, and their annotations with them",
        )  # fmt: skip
    return numbers
