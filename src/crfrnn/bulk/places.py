# SPDX-License-Identifier: MIT
"""Where pictures are: files here, files behind URLs, members of shards."""

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
LARGEST = 2**30  # bytes of one picture or unary that is copied
_COPY = 2**20
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
_STATES = ("ETag", "etag", "md5Hash", "sha", "blob_id", "mtime", "LastModified", "last_modified", "updated")


class Ref(NamedTuple):
    """Bytes: of a whole file, or of a part of it.

    Attributes:
        place: the path or URL of the file.
        name: what the bytes are called as a file, ``cat.jpg``.
        offset, size: of the part; a size of None means the whole file.
    """

    place: str
    name: str
    offset: int = 0
    size: int | None = None

    @property
    def here(self) -> bool:
        """Whether it is a whole file that can be opened by its name."""
        return self.size is None and not is_url(self.place)

    def copy(self, target: Path) -> None:
        """Write the bytes to a new file.

        Raises: FileError where they are not there, fewer, or more than 1 GiB.
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
            raise FileError("IMAGE", self.place, expected, got, "look at the file, or write it again")


@dataclass
class Found:
    """What the words of a command line name.

    Attributes:
        local: words for files, folders and globs here.
        remote: pictures behind URLs.
        shards: paths and URLs of shards.
        states: what tells whether a file behind a URL has changed, by the URL.
    """

    local: list[str] = field(default_factory=list)
    remote: list[Ref] = field(default_factory=list)
    shards: list[str] = field(default_factory=list)
    states: dict[str, str] = field(default_factory=dict)


def is_url(word: str) -> bool:
    return "://" in word


def is_special(word: str) -> bool:
    """Whether a word names something else than a file, folder or glob of pictures here.

    >>> [is_special(word) for word in ("photos/", "s3://bucket/a.jpg", "train-{000..009}.tar", "@list.txt")]
    [False, True, True, True]
    """
    return is_url(word) or word.endswith(SHARD) or word.startswith("@")


def find(words: Iterable[str], endings: Iterable[str], recursive: bool) -> Found:
    """Sort the words of a command line.

    Args:
        words: files, folders and globs; URLs of files, of folders and with globs; shards (``.tar``), also
            ``{000..123}`` for their numbers; ``@FILE``, a list of such words, one a line.
        endings: of pictures, in small letters.
        recursive: also what lies in folders below the folder of a URL.

    Raises:
        FileError: nothing there.
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
            raise FileError("IMAGE", word[1:], "a path or URL a line", "none", "write one a line")
        nested = next((line for line in named if line.startswith("@")), None)
        if nested:
            raise FileError("IMAGE", word[1:], "paths and URLs", f"the list {nested!r}", "name it beside")
        yield from named


def _counted(word: str) -> Iterator[str]:
    """``a-{08..10}.tar`` as three words, with as many digits as were written."""
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
        raise FileError("IMAGE", word, "a shard that is there", "none", "check the spelling")
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
            "IMAGE", url, "a file or folder that can be looked at", f"{type(error).__name__}: {error}",
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
    """The files of a folder, here or behind a URL, and of those below: place and state by the name below it.

    Raises: FileError where it is no folder.
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
    """16 digits that change when the file does: of its URL, size and what the store says of its content."""
    said = [f"{name}={info[name]}" for name in _STATES if info.get(name) is not None]
    return digest("\n".join([url, str(info.get("size")), *said]).encode())


@contextmanager
def opened(place: str) -> Iterator[BinaryIO]:
    """A file here or behind a URL, for reading.

    Raises: FileError where it cannot be opened or read.
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
        if getattr(error, "filename", place) not in (None, place):  # about another file
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
