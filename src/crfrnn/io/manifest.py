# SPDX-License-Identifier: MIT
"""What a folder of results was begun with: ``.crfrnn.json``, a line for every file that is written."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from crfrnn.io.files import FileError, PathLike, write_text

MANIFEST = ".crfrnn.json"
_FORMAT, _VERSION = "crfrnn-results", 1
_SAMPLES, _SAMPLE = 16, 4096  # of a large file so many pieces of so many bytes are looked at
Stamp = tuple[int, int]  # bytes, time of the last change in ns


@dataclass(frozen=True)
class Run:
    """A command with the settings that its results depend on.

    Attributes: whole: it fills a folder; otherwise its files only happen to lie in one.
    """

    command: str
    settings: Mapping[str, Any]
    whole: bool = True

    @property
    def name(self) -> str:
        return digest(json.dumps([self.command, self.settings], sort_keys=True).encode())


@dataclass(frozen=True)
class Entry:
    """One file.

    Attributes:
        run: the name of its `Run`.
        sources: `identity` of what it is made from.
        stamp, content: of the file when it was finished; None while the run is at work, or was killed.
        replaced: the stamp of the file that was there before; while it has that one, it is not written yet.
        before: the entry of that file, if the program had written it.
    """

    run: str
    sources: str
    stamp: Stamp | None = None
    content: str | None = None
    replaced: Stamp | None = None
    before: Entry | None = None


@dataclass
class Manifest:
    """The runs and the files of a folder; names are relative to it, with ``/``."""

    folder: Path
    runs: dict[str, Run] = field(default_factory=dict)
    files: dict[str, Entry] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: PathLike) -> Manifest:
        """An empty one where there is none; FileError for a file that is none."""
        path = Path(folder) / MANIFEST
        try:
            text = path.read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError):
            return cls(Path(folder))
        except (OSError, ValueError) as error:
            raise _damaged(path, error) from None
        try:
            held = json.loads(text)
            if held["format"] != _FORMAT or held["version"] != _VERSION:
                raise ValueError(f"format {held['format']!r}, version {held['version']!r}")
            runs = {name: Run(**run) for name, run in held["runs"].items()}
            return cls(Path(folder), runs, {name: _entry(entry) for name, entry in held["files"].items()})
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise _damaged(path, error) from None

    def write(self) -> None:
        """Whole or not at all; removed when no file is left in it."""
        path = self.folder / MANIFEST
        if not self.files:
            path.unlink(missing_ok=True)
            return
        used = {entry.run for one in self.files.values() for entry in (one, one.before) if entry}
        lines = [f"{json.dumps(name)}: {json.dumps(_plain(e))}" for name, e in sorted(self.files.items())]
        runs = {name: asdict(run) for name, run in self.runs.items() if name in used}
        write_text(
            path,
            f'{{"format": "{_FORMAT}", "version": {_VERSION},\n"runs": {json.dumps(runs, indent=1)},\n'
            '"files": {\n' + ",\n".join(lines) + "\n}}\n",
        )

    def own(self, name: str) -> Entry | None:
        """The entry of a file that is there as the program wrote it; None if it comes from elsewhere."""
        entry, now = self.files.get(name), stamp(self.folder / name)
        if entry is None or now is None:
            return None
        if entry.replaced == now:  # a run was killed before it came to this file
            entry = entry.before
            if entry is None:
                return None
        if now[0] == 0 or entry.stamp in (None, now) or entry.content == identity(self.folder / name):
            return entry
        return None


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Only one process at a time reads, changes and writes the manifest, where the file system can lock."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    handle = None
    try:
        with suppress(OSError):
            handle = os.open(folder, os.O_RDONLY)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        if handle is not None:
            os.close(handle)


def stamp(path: Path) -> Stamp | None:
    """Size and time of the last change, of a link itself; None if there is nothing."""
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def identity(path: PathLike) -> str:
    """What a file holds, in 16 digits: its size, and all of it or, if it is large, samples from end to end.

    The name does not count, so a folder can move. Of a folder the names and files count. "" for nothing.
    """
    found = Path(path)
    try:
        if found.is_dir():
            inside = sorted(p for p in found.rglob("*") if p.is_file())
            return digest("\n".join(f"{p.relative_to(found)} {identity(p)}" for p in inside).encode())
        with found.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            parts = [str(size).encode()]
            if size <= _SAMPLES * _SAMPLE:
                parts.append(stream.read())
            else:
                for k in range(_SAMPLES):
                    stream.seek(k * (size - _SAMPLE) // (_SAMPLES - 1))
                    parts.append(stream.read(_SAMPLE))
    except OSError:
        return ""
    return digest(b"\n".join(parts))


def digest(content: bytes) -> str:
    """16 digits that stand for the content."""
    return hashlib.sha256(content).hexdigest()[:16]


def _plain(entry: Entry) -> dict[str, Any]:
    kept = {name: value for name, value in vars(entry).items() if value is not None}
    return {**kept, "before": _plain(entry.before)} if entry.before else kept


def _entry(held: dict[str, Any]) -> Entry:
    stamps = {
        name: (int(held[name][0]), int(held[name][1])) for name in ("stamp", "replaced") if name in held
    }
    before = {"before": _entry(held["before"])} if "before" in held else {}
    return Entry(**{**held, **stamps, **before})


def _damaged(path: Path, error: Exception) -> FileError:
    return FileError(
        "manifest", path, "what crfrnn wrote", f"{type(error).__name__}: {error}",
        "name another folder, or remove this file and say --overwrite",
    )  # fmt: skip
