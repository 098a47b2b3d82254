# SPDX-License-Identifier: MIT
"""WebDataset shards: tar files in which the members of a sample share a key and are adjacent.

The key of ``train/0001.seg.png`` is ``train/0001``, and the member's name in the sample is ``seg.png``, the
part after the first dot of the file name. Shards are untrusted: members that are not plain files, names that
lead out of the shard, inconsistent sizes and truncated shards are rejected.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

from crfrnn.bulk.places import LARGEST, opened
from crfrnn.io import FileError
from crfrnn.io.files import atomic

MEMBERS = 100  # limit per sample
_REMEDY = "write it again with WebDataset's ShardWriter"


class Member(NamedTuple):
    """The position of a member of a sample in the shard."""

    offset: int
    size: int


class Sample(NamedTuple):
    """The members with the same key, by their lower-case names in the sample."""

    key: str
    members: dict[str, Member]


def samples(place: str) -> list[Sample]:
    """The samples of a shard, read from its headers alone.

    Raises: FileError for a shard that is damaged, hostile, or without samples.
    """
    out: list[Sample] = []
    keys: set[str] = set()
    with opened(place) as stream:
        for info in _headers(place, stream):
            key, name = _split(place, info.name)
            if not name:
                continue
            if not out or out[-1].key != key:
                if key in keys:
                    raise _refused(place, "the members of a sample together", f"those of {key!r} apart")
                keys.add(key)
                out.append(Sample(key, {}))
            members = out[-1].members
            if name in members or len(members) >= MEMBERS:
                got = f"{name!r} twice in {key!r}" if name in members else f"more than {MEMBERS} in {key!r}"
                raise _refused(place, "a name for each member", got)
            members[name] = Member(info.offset_data, info.size)
    if not out:
        raise _refused(place, "samples", "none")
    return out


def _headers(place: str, stream: BinaryIO) -> Iterator[tarfile.TarInfo]:
    try:
        size = stream.seek(0, io.SEEK_END)
        stream.seek(0)
        with tarfile.open(fileobj=stream, mode="r:") as tar:
            while (info := tar.next()) is not None:
                if info.isdir():
                    continue
                if not info.isreg() or info.issparse():
                    raise _refused(place, "plain files", f"{info.name!r}, a link, a device or a sparse file")
                if info.size > LARGEST or info.offset_data + info.size > size:
                    raise _refused(place, "members of at most 1 GiB that end in it", f"{info.name!r}")
                yield info
            # tarfile treats a damaged header as the end.
            stream.seek(tar.offset)
            if stream.read(tarfile.BLOCKSIZE) not in _END:
                raise _refused(place, "headers up to its end", f"a damaged one at byte {tar.offset}")
            if tar.offset >= size:
                raise _refused(place, "an end mark", "none: it is truncated")
    except (tarfile.TarError, ValueError, EOFError, OverflowError) as error:
        if isinstance(error, FileError):
            raise
        raise _refused(place, "a tar file", f"{type(error).__name__}: {error}") from error


_END = (b"", b"\0" * tarfile.BLOCKSIZE)


def _split(place: str, name: str) -> tuple[str, str]:
    """Key and name in the sample; the latter "" for a file without ending, which belongs to no sample."""
    path = PurePosixPath(name)
    parts = [part for part in path.parts if part != "."]
    hostile = path.is_absolute() or ".." in parts or not parts or "\0" in name or "\\" in name
    stem, _, ending = (parts[-1] if parts else "").partition(".")
    if hostile or not stem or not name.isprintable():
        raise _refused(place, "names such as train/0001.jpg", repr(name))
    return "/".join([*parts[:-1], stem]), ending.lower()


def _refused(place: str, expected: str, got: str) -> FileError:
    return FileError("shard", place, expected, got, _REMEDY)


@contextmanager
def new_shard(path: Path) -> Iterator[ShardWriter]:
    """Write a shard atomically when the block ends without an error; equal samples give equal bytes."""
    with atomic(path) as temporary, tarfile.open(temporary, "w", format=tarfile.PAX_FORMAT) as tar:
        yield ShardWriter(tar)


class ShardWriter:
    """Writes samples one by one."""

    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar

    def add(self, key: str, members: Mapping[str, bytes]) -> None:
        """Args: members by their names in the sample, ``png``."""
        for name, content in members.items():
            info = tarfile.TarInfo(f"{key}.{name}")  # without time and owner
            info.size = len(content)
            self._tar.addfile(info, io.BytesIO(content))
