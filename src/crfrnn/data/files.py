# SPDX-License-Identifier: MIT
"""Files from elsewhere are refused by name, and nothing of ours is ever left half written."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PathLike = str | os.PathLike[str]


class FileError(ValueError):
    """A file that is missing, damaged, hostile or not what was asked for; it names file and remedy."""

    def __init__(self, role: str, path: PathLike, expected: str, got: str, remedy: str) -> None:
        super().__init__(f"{role} {os.fspath(path)!r}: expected {expected}, got {got}; {remedy}")

    def __reduce__(self) -> tuple[object, ...]:  # a worker process hands it back whole
        return _rebuild, (str(self),)


def _rebuild(message: str) -> FileError:
    error = FileError.__new__(FileError)
    ValueError.__init__(error, message)
    return error


def existing(path: PathLike, role: str) -> Path:
    """The path of a file that is there and holds something."""
    found = Path(path)
    if not found.exists():
        raise FileError(role, path, "a file", "nothing under that name", "check the spelling and the folder")
    if not found.is_file():
        raise FileError(role, path, "a file", "a folder or a device", "name one file")
    if found.stat().st_size == 0:
        raise FileError(role, path, "a file with content", "an empty file", "write or download it again")
    return found


@contextmanager
def atomic(path: PathLike) -> Iterator[Path]:
    """A temporary name in the folder of `path`, moved over it at the end and removed after an error.

    A reader therefore sees the old file or the new one, whole. The folder must exist.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> with atomic(folder / "a.txt") as temporary:
    ...     _ = temporary.write_text("done")
    >>> [p.name for p in folder.iterdir()]
    ['a.txt']
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise FileError("output", path, "a name in an existing folder", "no such folder", "create it first")
    if target.is_dir():
        raise FileError("output", path, "the name of a file", "a folder", "add a file name")
    temporary = target.parent / f".{target.name}.{secrets.token_hex(6)}.tmp"
    try:
        yield temporary
        os.replace(temporary, target)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def write_text(path: PathLike, text: str) -> None:
    """Write UTF-8, whole or not at all."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
