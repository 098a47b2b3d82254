# SPDX-License-Identifier: MIT
"""Output names: unique, and different from every input even through links or changes of case."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from crfrnn.io.files import FileError, PathLike
from crfrnn.io.temporary import temporary_name


@dataclass(frozen=True)
class Item:
    """One unit of work.

    Attributes:
        sources: the files that it is made from; the first one gives it its name.
        files: the files that are written; the last one marks the item as finished.
    """

    sources: tuple[Path, ...]
    files: tuple[Path, ...]


class Folders:
    """Real locations of files. There may be a million of them, so every folder is looked up only once.

    Args: base: the folder that `name` is relative to.
    """

    def __init__(self, base: Path) -> None:
        self._base = os.path.realpath(base)
        self._known: dict[str, tuple[str, str]] = {}

    def place(self, path: PathLike) -> str:
        """The full name with links among its folders resolved, but not a link that is the file itself."""
        folder, file = os.path.split(path)
        return os.path.join(self._folder(folder)[0], file)

    def real(self, path: PathLike) -> str:
        """The full name with all links resolved."""
        found = self.place(path)
        return os.path.realpath(found) if os.path.islink(found) else found

    def name(self, path: PathLike) -> str:
        """The name below the base, with ``/``."""
        folder, file = os.path.split(path)
        return self._folder(folder)[1] + file

    def _folder(self, folder: str) -> tuple[str, str]:
        if folder not in self._known:
            real = os.path.realpath(folder)
            below = os.path.relpath(real, self._base)
            self._known[folder] = real, "" if below == "." else f"{Path(below).as_posix()}/"
        return self._known[folder]


def folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def check_apart(items: Sequence[Item], role: str, key: Callable[[Path], str]) -> None:
    taken: dict[str, Item] = {}
    for item in items:
        for file in item.files:
            other = taken.setdefault(key(file), item)
            if other is not item:
                first, second = (i.sources[0] for i in (other, item))
                raise FileError(
                    role, file, "a different name for each result",
                    f"the same name for the results of {str(first)!r} and {str(second)!r}",
                    "rename one of them, or use a separate output folder for each",
                )  # fmt: skip


def check_inputs(items: Sequence[Item], inputs: Iterable[PathLike], role: str, folders: Folders) -> None:
    read = [*(source for item in items for source in item.sources), *map(Path, inputs)]
    names = {folders.real(path): path for path in read}
    whole = {place for place, path in names.items() if os.path.isdir(path)}
    numbers = {number: path for path in read if (number := _number(path))}
    for file in (file for item in items for file in item.files):
        if os.path.dirname(folders.place(file)) in whole:
            raise FileError(
                role,
                file,
                "a file outside the input folders",
                "one in a folder that is itself an input",
                "name another",
            )
        source = names.get(folders.real(file)) or numbers.get(_number(file) or (0, 0))
        if source is not None:
            raise FileError(
                role, file, "the name of a new file",
                f"one that would overwrite the input {str(source)!r}", "name another",
            )  # fmt: skip


def _number(path: PathLike) -> tuple[int, int] | None:
    """Device and inode of a file, equal for all its names; None for a folder and for a missing file."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return None if os.path.isdir(path) or not found.st_ino else (found.st_dev, found.st_ino)


def ignores_case(folder: Path) -> bool:
    """Whether names that differ only in case denote the same file there."""
    name = folder / f"{temporary_name()}.a"
    name.touch()
    try:
        return name.with_suffix(".A").exists()
    finally:
        name.unlink()
