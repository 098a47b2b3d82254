# SPDX-License-Identifier: MIT
"""The pictures that a command line names, and those of them that failed."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from crfrnn.commands import common

Pictures = Annotated[
    list[str], typer.Argument(help="Pictures, folders of them, or globs.", show_default=False)
]
Recursive = Annotated[
    bool, typer.Option("--recursive", help="Search folders below folders, too; OUTPUT gets the same ones.")
]


def find_pictures(given: Sequence[str], recursive: bool = False) -> dict[Path, Path]:
    """Each picture with the name of its results below the output folder, without ending.

    Args:
        given: files, folders whose pictures are taken, and globs; an unquoted glob, which the shell has made
            into many files, means the same as a quoted one.
        recursive: also what lies in folders below a folder, without hidden ones; the names keep the folders.

    Raises: FileError for what is not there, or holds no pictures.
    """
    from PIL import Image

    from crfrnn.io import FileError
    from crfrnn.io.images import FORMATS
    from crfrnn.io.outputs import result_names, without_results

    endings = {ending for ending, form in Image.registered_extensions().items() if form in FORMATS}
    found: dict[str, Path] = {}
    folders: list[str] = []
    for word in given:
        path = Path(word)
        if path.is_file():
            here = [path]
        elif path.is_dir():
            folders.append(os.path.abspath(path))
            here = [p for p in _files(path, recursive) if p.suffix.lower() in endings]
        elif glob.has_magic(word):
            here = [p for p in map(Path, glob.glob(word, recursive=True)) if p.is_file()]
        else:
            raise FileError(
                "IMAGE", word, "a picture, a folder or a glob", "nothing there", "check the spelling"
            )
        if not here:
            hint = (
                "" if recursive or not path.is_dir() else "; folders below it are searched with --recursive"
            )
            raise FileError(
                "IMAGE", word, "pictures", "none", f"endings are {', '.join(sorted(endings))}{hint}"
            )
        found |= {os.path.abspath(p): p for p in here if os.path.abspath(p) not in found}
    pictures = sorted(found.values())
    if len(given) > 1 or not Path(given[0]).is_file():
        pictures = without_results(pictures)
    if not pictures:
        raise FileError(
            "IMAGE", given[0], "pictures", "results of this program alone", "name the folder of photographs"
        )
    base = os.path.commonpath(folders) if recursive and folders else None
    return dict(zip(pictures, result_names(pictures, base), strict=True))


def _files(folder: Path, recursive: bool) -> list[Path]:
    if not recursive:
        return [p for p in folder.iterdir() if p.is_file()]
    out, seen = [], set()
    for place, below, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        below[:] = [] if real in seen else sorted(name for name in below if not name.startswith("."))
        out += [] if real in seen else [Path(place) / name for name in names]
        seen.add(real)
    return out


class Failures:
    """Pictures that failed while the others are done; `show` says them by kind at the end."""

    def __init__(self) -> None:
        self._reasons: list[tuple[str, str]] = []

    def __len__(self) -> int:
        return len(self._reasons)

    def add(self, name: str, reason: str) -> None:
        self._reasons.append((name, reason))

    @contextmanager
    def caught(self, name: str) -> Iterator[None]:
        """What goes wrong inside belongs to the picture `name`; with --debug it ends the command."""
        try:
            yield
        # RuntimeError is what torch raises where memory ends.
        except (ValueError, TypeError, OSError, MemoryError, RuntimeError) as error:
            if common.state.debug:
                raise
            self.add(name, str(error).strip() or type(error).__name__)

    def show(self, total: int) -> None:
        """One line per kind of problem, and how many of `total` pictures failed."""
        from crfrnn.io.problems import by_kind

        if not self._reasons:
            return
        lines = [f"{name}: {reason}" for name, reason in self._reasons]
        for line in by_kind(lines, [name for name, _ in self._reasons]):
            common.show_error(line)
        common.show_error(f"{len(self)} of {total} pictures failed")
