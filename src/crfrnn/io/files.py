# SPDX-License-Identifier: MIT
"""Files from elsewhere are refused by name, and nothing of ours is ever left half written."""

from __future__ import annotations

import codecs
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from crfrnn.io.temporary import in_work, sweep, temporary_name

PathLike = str | os.PathLike[str]
_MARKS = (  # the longer first: UTF-16's mark begins UTF-32's
    (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"), (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip


class FileError(ValueError):
    """A file that is missing, damaged, hostile or not what was asked for; it names file and remedy."""

    def __init__(self, role: str, path: PathLike, expected: str, got: str, remedy: str) -> None:
        super().__init__(f"{role} {os.fspath(path)!r}: expected {expected}, got {got}; {remedy}")

    def __reduce__(self) -> tuple[object, ...]:  # a worker process hands it back whole
        return _rebuild, (type(self), str(self))


def _rebuild(kind: type[FileError], message: str) -> FileError:
    error = kind("", "", "", "", "")
    error.args = (message,)
    return error


class OutputError(FileError, OSError):
    """A file that cannot be written: it names the file, the reason and the remedy."""


def refusal(role: str, path: PathLike | None, expected: str, got: str, remedy: str) -> ValueError:
    """The `FileError` of what a file holds, or the same words about what is held in memory."""
    if path is not None:
        return FileError(role, path, expected, got, remedy)
    return ValueError(f"{role}: expected {expected}, got {got}; {remedy}")


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

    A reader therefore sees the old file or the new one, whole. The folder must exist. What a killed run left
    in it is removed.

    Raises: OutputError (a ValueError and an OSError) where it cannot be written: no such folder, a folder or
        device of that name, a name that is too long, no permission, no room.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> with atomic(folder / "a.txt") as temporary:
    ...     _ = temporary.write_text("done")
    >>> [p.name for p in folder.iterdir()]
    ['a.txt']
    """
    target = Path(path)
    check_target(target)
    sweep(target.parent)
    temporary = target.parent / temporary_name()
    try:
        with in_work(temporary):
            yield temporary
            os.replace(temporary, target)
    except BaseException as error:
        ours = isinstance(error, Exception) and not isinstance(error, FileError)
        reason = _why_unwritable(error, temporary, target) if ours else None  # while the disk is still full
        with suppress(OSError):
            temporary.unlink()
        if reason:
            raise _unwritable(target, *reason) from error
        raise


def check_target(path: PathLike) -> None:
    """OutputError unless a file of that name can be: in a folder, and no folder or device itself."""
    target = Path(path)
    check_name(target)
    try:
        folder = target.parent.is_dir()
        is_folder, other = target.is_dir(), target.exists() and not target.is_file()
    except OSError as error:
        raise _unwritable(
            target, "a name that can be looked up", f"{error.strerror}", "name another"
        ) from None
    if not folder:
        raise _unwritable(target, "a name in an existing folder", "no such folder", "create it first")
    if is_folder:
        raise _unwritable(target, "the name of a file", "a folder", "add a file name")
    if other:
        raise _unwritable(target, "the name of a file", "a device", "name a file")


def check_name(path: PathLike) -> None:
    """OutputError for a name that no file can have."""
    name = Path(path).name
    if not name:
        raise _unwritable(path, "the name of a file", "none", "add a file name")
    length, limit = len(os.fsencode(name)), _NAME_BYTES
    if length > limit:
        raise _unwritable(path, f"a name of at most {limit} bytes", f"{length}", "shorten it")


def new_folder(path: PathLike, role: str = "output") -> Path:
    """Make a folder for results, its parents too; OutputError where that cannot be."""
    folder = Path(path)
    try:
        if folder.exists() and not folder.is_dir():
            raise OutputError(role, path, "a folder", "a file of that name", "name another")
        folder.mkdir(parents=True, exist_ok=True)
    except FileError:
        raise
    except OSError as error:
        raise OutputError(
            role, path, "a folder that can be made", error.strerror or str(error), "name another place"
        ) from error
    return folder


def writable_folder(path: PathLike, role: str = "output") -> Path:
    """`new_folder`, and a file tried in it; OutputError where it takes none."""
    folder = new_folder(path, role)
    trial = folder / temporary_name()
    try:
        trial.touch()
        trial.unlink()
    except OSError as error:
        usual = ("a folder that can be written to", error.strerror or str(error), "name another place")
        raise OutputError(role, path, *_REASONS.get(error.errno or 0, usual)) from error
    return folder


_NAME_BYTES = 255  # of every file system in use; some count characters, of which there are never more
_FULL = ("room for it", "a full disk", "free some, or name another place")
_REASONS = {
    getattr(errno, "EDQUOT", errno.ENOSPC): (
        "room for it",
        "a used-up quota",
        "free some, or name another place",
    ),
    errno.ENOSPC: _FULL,
    errno.EFBIG: ("room for it", "a file larger than allowed", "raise the limit, or name another place"),
    errno.EROFS: ("a folder that can be written to", "a read-only file system", "name another place"),
    errno.EACCES: ("a folder that can be written to", "no permission", "name another place"),
    errno.EPERM: ("a folder that can be written to", "no permission", "name another place"),
    errno.ENOENT: ("a folder that can be written to", "one that takes no files", "name another place"),
    errno.EIO: ("a disk that takes it", "an input/output error", "name another place"),
}
_FEW_BYTES = 2**16


def _unwritable(path: PathLike, expected: str, got: str, remedy: str) -> OutputError:
    return OutputError("output", path, expected, got, remedy)


def _why_unwritable(error: BaseException, temporary: Path, target: Path) -> tuple[str, str, str] | None:
    """Expected, got, remedy, if the error is about writing this file; None if it is about something else."""
    names = (None, os.fspath(temporary), os.fspath(target))
    found: BaseException | None = error
    while found is not None:  # zipfile and the like raise another error while they close
        if isinstance(found, OSError) and found.filename in names and found.errno in _REASONS:
            return _REASONS[found.errno]
        found = found.__context__
    if isinstance(error, AttributeError | LookupError | NameError | TypeError):
        return None
    with suppress(OSError, AttributeError):  # libraries with their own errors say it in many ways
        disk = os.statvfs(target.parent)
        if disk.f_bavail * disk.f_frsize < _FEW_BYTES:
            return _FULL
    return None


def read_text(path: PathLike, role: str) -> str:
    """The text of a file in UTF-8, or in UTF-16 or UTF-32 with its byte-order mark; the mark is no text.

    Editors and shells on Windows write these. Line ends become one newline each.

    Raises:
        ValueError: no such file, or another encoding.

    >>> import tempfile
    >>> name = Path(tempfile.mkdtemp()) / "list.txt"
    >>> _ = name.write_bytes("cat\\r\\n".encode("utf-16"))
    >>> read_text(name, "list")
    'cat\\n'
    """
    try:
        raw = Path(path).read_bytes()
        coding = next((name for mark, name in _MARKS if raw.startswith(mark)), "utf-8")
        text = raw.decode(coding)
    except (OSError, UnicodeDecodeError) as error:
        got = str(error) if isinstance(error, OSError) else f"bytes that are none ({error})"
        raise FileError(
            role, path, "a text file in UTF-8", got, "check the name, or save it as UTF-8"
        ) from error
    if "\0" in text:
        raise FileError(role, path, "a text file in UTF-8", "zero bytes", "save it as UTF-8")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def prepared(path: PathLike) -> Path:
    """Before long work: make the folder of its result, and try to write there; OutputError where it fails.

    >>> import tempfile
    >>> prepared(Path(tempfile.mkdtemp()) / "new" / "result.csv").parent.is_dir()
    True
    """
    target = Path(path)
    check_name(target)
    writable_folder(target.parent)
    check_target(target)
    return target


def write_text(path: PathLike, text: str) -> None:
    """Write UTF-8, whole or not at all; bytes of a file's name that are no UTF-8 become escapes."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
