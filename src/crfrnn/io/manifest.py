# SPDX-License-Identifier: MIT
"""The record of a folder of results, ``.crfrnn.json``: its settings, and a line for every file written."""

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
_SAMPLES, _SAMPLE = 16, 4096  # number and size in bytes of the pieces of a large file that are hashed
Stamp = tuple[int, int]  # bytes, time of the last change in ns


@dataclass(frozen=True)
class Run:
    """A command and the settings that its results depend on.

    Attributes: whole: the folder belongs to this command; False for single files in any folder.
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
        sources: `identity` of the files that it is made from.
        stamp, content: of the finished file; None while the run is in progress, or if it was killed.
        replaced: stamp of the file that existed before; while the file still has it, it is not yet rewritten.
        before: the entry of that earlier file, if this program had written it.
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
        """Read a folder's manifest, empty if there is none; FileError for a file of another format."""
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
        """Write it atomically, or remove it if it lists no files."""
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
        """The entry of a file that is unchanged since this program wrote it; None for any other file."""
        entry, now = self.files.get(name), stamp(self.folder / name)
        if entry is None or now is None:
            return None
        if entry.replaced == now:  # a run was killed before it wrote this file
            entry = entry.before
            if entry is None:
                return None
        if now[0] == 0 or entry.stamp in (None, now) or entry.content == identity(self.folder / name):
            return entry
        return None


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock the manifest, so that one process at a time updates it, if the file system supports locks."""
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
    """Size and modification time, of a link itself and not its target; None if there is no such file."""
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def identity(path: PathLike) -> str:
    """16 digits that identify a file's content: its size and all of it or, if it is large, samples of it.

    The file's own name does not count, so a folder can be moved. For a folder, the names and contents of its
    files count. "" if there is no such file.
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
    """16 digits that identify the content."""
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
        "name another folder, or remove this file and pass --overwrite",
    )  # fmt: skip
