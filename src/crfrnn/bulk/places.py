# SPDX-License-Identifier: MIT
"""Locations of pictures: local files, URLs, members of shards."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple, cast

from crfrnn.extras import optional
from crfrnn.io import FileError
from crfrnn.io.files import read_text
from crfrnn.io.manifest import digest

SHARD = ".tar"
LARGEST = 2**30  # bytes, limit for copying one picture or unary
_COPY = 2**20
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
_STATES = ("ETag", "etag", "md5Hash", "sha", "blob_id", "mtime", "LastModified", "last_modified", "updated")


class Ref(NamedTuple):
    """A reference to the bytes of a file or of a part of it.

    Attributes:
        place: the path or URL of the file.
        name: the file name for the bytes, such as ``cat.jpg``.
        offset, size: the part; a size of None means the whole file.
    """

    place: str
    name: str
    offset: int = 0
    size: int | None = None

    @property
    def here(self) -> bool:
        """Whether it is a whole local file."""
        return self.size is None and not is_url(self.place)

    def copy(self, target: Path) -> None:
        """Write the bytes to a new file.

        Raises: FileError if they are missing, fewer than stated, or more than 1 GiB.
        """
        left = LARGEST if self.size is None else self.size
        with opened(self.place) as stream, target.open("xb") as out:
            if self.offset:
                stream.seek(self.offset)
            while left and (piece := stream.read(min(left, _COPY))):
                out.write(piece)
                left -= len(piece)
            more = self.size is None and not left and stream.read(1)
        if more or (self.size is not None and left):
            expected = "at most 1 GiB" if more else f"{self.size} bytes"
            got = "more" if more else f"{self.size - left if self.size else 0}"
            raise FileError("IMAGE", self.place, expected, got, "check the file, or write it again")


@dataclass
class Found:
    """The pictures named on a command line.

    Attributes:
        local: names of local files, folders and globs.
        remote: pictures at URLs.
        shards: paths and URLs of shards.
        states: by URL, a digest that changes with the file.
    """

    local: list[str] = field(default_factory=list)
    remote: list[Ref] = field(default_factory=list)
    shards: list[str] = field(default_factory=list)
    states: dict[str, str] = field(default_factory=dict)


def is_url(word: str) -> bool:
    return "://" in word


def is_special(word: str) -> bool:
    """Whether a word names something other than a local file, folder or glob of pictures.

    >>> [is_special(word) for word in ("photos/", "s3://bucket/a.jpg", "train-{000..009}.tar", "@list.txt")]
    [False, True, True, True]
    """
    return is_url(word) or word.endswith(SHARD) or word.startswith("@")


def find(words: Iterable[str], endings: Iterable[str], recursive: bool) -> Found:
    """Sort the words of a command line.

    Args:
        words: files, folders and globs; URLs of files, of folders and with globs; shards (``.tar``), also
            ``{000..123}`` for their numbers; ``@FILE``, a list of such words, one per line.
        endings: lower-case endings of pictures.
        recursive: also search subfolders of the folder of a URL.

    Raises:
        FileError: nothing found.
        ImportError: a package for this kind of URL is missing.
    """
    found, known = Found(), tuple(endings)
    for word in _listed(words):
        if not is_special(word):
            found.local.append(word)
            continue
        for one in _counted(word):
            if is_url(one):
                _find_remote(one, known, recursive, found)
            else:
                found.shards += _glob_shards(one)
    return found


def _listed(words: Iterable[str]) -> Iterator[str]:
    for word in words:
        if not word.startswith("@"):
            yield word
            continue
        lines = [line.strip() for line in read_text(word[1:], "IMAGE").splitlines()]
        named = [line for line in lines if line and not line.startswith("#")]
        if not named:
            raise FileError("IMAGE", word[1:], "one path or URL per line", "none", "write one per line")
        nested = next((line for line in named if line.startswith("@")), None)
        if nested:
            raise FileError("IMAGE", word[1:], "paths and URLs", f"the list {nested!r}", "pass it separately")
        yield from named


def _counted(word: str) -> Iterator[str]:
    """Expand ``a-{08..10}.tar`` to three words, keeping the number of digits."""
    match = _BRACES.search(word)
    if match is None:
        yield word
        return
    first, last = int(match[1]), int(match[2])
    for number in range(first, last + 1):
        yield from _counted(f"{word[: match.start()]}{number:0{len(match[1])}d}{word[match.end() :]}")


def _glob_shards(word: str) -> list[str]:
    import glob

    found = sorted(glob.glob(word, recursive=True)) if glob.has_magic(word) else [word]
    if not found or not all(Path(path).is_file() for path in found):
        raise FileError("IMAGE", word, "an existing shard", "none", "check the spelling")
    return found


def _find_remote(url: str, endings: tuple[str, ...], recursive: bool, found: Found) -> None:
    files, path = _file_system(url)
    try:
        if any(sign in path for sign in "*?["):
            listed = files.glob(path, detail=True)
        elif path.lower().endswith((*endings, SHARD)) or not files.isdir(path):
            listed = {path: files.info(path)}
        else:
            listed = files.find(path, maxdepth=None if recursive else 1, detail=True)
            listed = {name: info for name, info in listed.items() if name.lower().endswith(endings)}
    except (OSError, ValueError) as error:
        raise FileError(
            "IMAGE", url, "an accessible file or folder", f"{type(error).__name__}: {error}",
            "check the spelling, and the permissions",
        ) from error  # fmt: skip
    if not listed:
        raise FileError("IMAGE", url, "pictures", "none", "name a file, a folder or a glob of pictures")
    for name, info in sorted(listed.items()):
        full = files.unstrip_protocol(name) if not is_url(name) else name
        found.states[full] = state(full, info)
        if name.lower().endswith(SHARD):
            found.shards.append(full)
        else:
            found.remote.append(Ref(full, PurePosixPath(name).name))


def listing(folder: str, endings: Sequence[str]) -> dict[str, tuple[str, str]]:
    """The files of a local or remote folder and its subfolders: place and state by relative name.

    Raises: FileError if it is not a folder.
    """
    files, path = _file_system(folder)
    try:
        listed = files.find(path, detail=True) if files.isdir(path) else {}
    except OSError:
        listed = {}
    if not listed:
        raise FileError("folder", folder, "a folder with files", "none", "check the spelling")
    base = path.rstrip("/") + "/"
    out: dict[str, tuple[str, str]] = {}
    for name, info in listed.items():
        if name.lower().endswith(tuple(endings)) and name.startswith(base):
            full = files.unstrip_protocol(name) if is_url(folder) else name
            out[name[len(base) :]] = full, state(full, info)
    return out


def state(url: str, info: dict[str, Any]) -> str:
    """16 digits that change with the file: from its URL, size and the store's metadata of its content."""
    said = [f"{name}={info[name]}" for name in _STATES if info.get(name) is not None]
    return digest("\n".join([url, str(info.get("size")), *said]).encode())


@contextmanager
def opened(place: str) -> Iterator[BinaryIO]:
    """Open a local or remote file for reading.

    Raises: FileError if it cannot be opened or read.
    """
    try:
        if is_url(place):
            files, path = _file_system(place)
            with files.open(path, "rb") as stream:
                yield cast(BinaryIO, stream)
        else:
            with open(place, "rb") as stream:
                yield stream
    except FileError:
        raise
    except OSError as error:
        if getattr(error, "filename", place) not in (None, place):  # an error of another file
            raise
        got = error.strerror or f"{type(error).__name__}: {error}"
        raise FileError("IMAGE", place, "a file that can be read", got, "check name and access") from error


def _file_system(url: str) -> tuple[Any, str]:
    fsspec = optional("fsspec", "scale", "URLs")
    try:
        return fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise ImportError(f"{url}: expected the package for this kind of URL, got none; {error}") from error
    except ValueError as error:
        raise FileError(
            "IMAGE", url, "a URL of a kind that fsspec opens", str(error), "check the part before ://"
        ) from error
