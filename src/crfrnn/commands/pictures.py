# SPDX-License-Identifier: MIT
"""The pictures named on a command line, and the progress and summary of a run over them."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from crfrnn.commands import common

if TYPE_CHECKING:
    from crfrnn.inference.many import Progress, Tally
    from crfrnn.io import FileError

Pictures = Annotated[
    list[str], typer.Argument(help="Pictures, folders of them, or globs.", show_default=False)
]
Recursive = Annotated[
    bool, typer.Option("--recursive", help="Search subfolders too; OUTPUT gets the same subfolders.")
]


def picture_endings() -> set[str]:
    """The lower-case file endings of readable pictures."""
    from PIL import Image

    from crfrnn.io.images import FORMATS

    return {ending for ending, form in Image.registered_extensions().items() if form in FORMATS}


def find_pictures(given: Sequence[str], recursive: bool = False) -> dict[Path, Path]:
    """Each picture, with the name of its results relative to the output folder, without ending.

    Args:
        given: files, folders of pictures, and globs; an unquoted glob, expanded by the shell, has the same
            effect as a quoted one.
        recursive: include subfolders, except hidden ones; the names keep the subfolders.

    Raises: FileError for a name that does not exist, or contains no pictures.
    """
    from crfrnn.io import FileError
    from crfrnn.io.outputs import result_names, without_results

    endings = picture_endings()
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
                "IMAGE", word, "a picture, a folder or a glob", "no such file", "check the spelling"
            )
        if not here:
            hint = "" if recursive or not path.is_dir() else "; --recursive also searches its subfolders"
            raise FileError(
                "IMAGE", word, "pictures", "none", f"endings are {', '.join(sorted(endings))}{hint}"
            )
        found |= {os.path.abspath(p): p for p in here if os.path.abspath(p) not in found}
    pictures = sorted(found.values())
    if len(given) > 1 or not Path(given[0]).is_file():
        pictures = without_results(pictures)
    if not pictures:
        raise FileError(
            "IMAGE", given[0], "pictures", "only results of this program", "name the folder of photographs"
        )
    base = os.path.commonpath(folders) if recursive and folders else None
    return dict(zip(pictures, result_names(pictures, base), strict=True))


def check_partner(option: str, path: Path, single: bool) -> None:
    """ValueError unless `path` exists, and is a folder if there are several pictures."""
    if not path.exists():
        raise ValueError(f"{option}: expected a file or a folder, got {str(path)!r}, which does not exist")
    if not single and not path.is_dir():
        raise ValueError(f"{option}: expected a folder for several pictures, got {str(path)!r}")


def with_partners(
    pictures: Mapping[Path, Path], partner: Path, role: str, missing: dict[Path, FileError]
) -> dict[Path, tuple[Path, ...]]:
    """Every picture with its file: `partner`, or the file of the same name in that folder.

    If names contain folders, the file may lie outside them as long as its name is unique. A missing file is
    recorded in `missing` under a possible name and reported when its picture is processed.
    """
    from crfrnn.datasets.unaries import file_of
    from crfrnn.io import FileError

    if not partner.is_dir():
        return {path: (path, partner) for path in pictures}
    stems = Counter(name.name for name in pictures.values())
    found: dict[Path, tuple[Path, ...]] = {}
    for path, name in pictures.items():
        clear = len(name.parts) > 1 and stems[name.name] == 1
        try:
            try:
                file = file_of(partner, name.as_posix(), role)
            except FileError:
                if not clear:
                    raise
                file = file_of(partner, path.stem, role)
        except FileError as error:
            file = partner / f"{name}.npy"
            missing[file] = error
        found[path] = path, file
    return found


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


@contextmanager
def counted(description: str, total: int, log: Path | None = None) -> Iterator[tuple[Tally, Progress]]:
    """A tally and a bar for `crfrnn.inference.many`; a signal ends the block and is recorded in the tally.

    Args: log: a file that also gets the lines.
    """
    from crfrnn.inference.many import Tally

    tally = Tally(total)
    with common.progress(log) as bar:
        try:
            yield tally, bar.counter(description, total)
        except KeyboardInterrupt:
            tally.stopped = True


def conclude(tally: Tally, goes_on: str) -> None:
    """Print the failed pictures by kind, and exit with the run's code unless all are done.

    Args: goes_on: how to continue after a signal, as a phrase.
    """
    for line in tally.problems():
        common.show_error(line)
    if tally.stopped:
        raise common.stopped(goes_on)
    if tally.failed:
        raise typer.Exit(1)
