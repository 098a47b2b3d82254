# SPDX-License-Identifier: MIT
"""Errors that name the file at fault, and atomic writing: no file is ever left half written."""

from __future__ import annotations

import codecs
import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from crfrnn.io.temporary import in_work, sweep, temporary_name

PathLike = str | os.PathLike[str]
_MARKS = (  # the longer first: UTF-32's mark starts with UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"), (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip


class FileError(ValueError):
    """A file that is missing, damaged, hostile or of the wrong kind; the message names file and remedy."""

    def __init__(self, role: str, path: PathLike, expected: str, got: str, remedy: str) -> None:
        super().__init__(f"{role} {os.fspath(path)!r}: expected {expected}, got {got}; {remedy}")

    def __reduce__(self) -> tuple[object, ...]:  # so that it survives pickling by a worker process
        return _rebuild, (type(self), str(self))


def _rebuild(kind: type[FileError], message: str) -> FileError:
    error = kind("", "", "", "", "")
    error.args = (message,)
    return error


class OutputError(FileError, OSError):
    """A file that cannot be written; the message names the file, the reason and the remedy."""


def refusal(role: str, path: PathLike | None, expected: str, got: str, remedy: str) -> ValueError:
    """A `FileError` about the content of a file, or a ValueError in the same words about data in memory."""
    if path is not None:
        return FileError(role, path, expected, got, remedy)
    return ValueError(f"{role}: expected {expected}, got {got}; {remedy}")


def existing(path: PathLike, role: str) -> Path:
    """The path of a file, checked to exist and not to be empty."""
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
    """A temporary name in the folder of `path`, renamed to `path` at the end and removed after an error.

    A reader therefore sees either the complete old file or the complete new one. The folder must exist.
    Temporary files that killed runs left in it are removed.

    Raises: OutputError (a ValueError and an OSError) if it cannot be written: no such folder, a folder or
        device of that name, a name that is too long, no permission, a full disk.

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
    """OutputError unless a file can have that name: its folder exists, and it is no folder or device."""
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
    """Create a folder for results and its parents; OutputError if that is impossible."""
    folder = Path(path)
    store = _URL.match(os.fspath(path))
    if store and not os.path.lexists(folder.parts[0]):
        where = f"{store[1]}://{os.fspath(path)[store.end() :]}"
        raise OutputError(
            role, where, "a local folder", "a URL",
            "name a local folder and copy it when the run has ended, for example by `aws s3 sync`, "
            "`gsutil rsync` or `rclone copy`",
        )  # fmt: skip
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
    """`new_folder`, then write a file in it as a test; OutputError if that fails."""
    folder = new_folder(path, role)
    trial = folder / temporary_name()
    try:
        trial.touch()
        trial.unlink()
    except OSError as error:
        usual = ("a folder that can be written to", error.strerror or str(error), "name another place")
        raise OutputError(role, path, *_REASONS.get(error.errno or 0, usual)) from error
    return folder


_NAME_BYTES = 255  # the limit of common file systems; those that count characters allow at least as much
_FULL = ("enough space", "a full disk", "free some space, or name another place")
_REASONS = {
    getattr(errno, "EDQUOT", errno.ENOSPC): (
        "enough space",
        "an exceeded disk quota",
        "free some space, or name another place",
    ),
    errno.ENOSPC: _FULL,
    errno.EFBIG: ("enough space", "a file larger than allowed", "raise the limit, or name another place"),
    errno.EROFS: ("a folder that can be written to", "a read-only file system", "name another place"),
    errno.EACCES: ("a folder that can be written to", "no permission", "name another place"),
    errno.EPERM: ("a folder that can be written to", "no permission", "name another place"),
    errno.ENOENT: (
        "a folder that can be written to",
        "one in which no file can be created",
        "name another place",
    ),
    errno.EIO: ("a disk without errors", "an input/output error", "name another place"),
}
_FEW_BYTES = 2**16
_URL = re.compile(r"([a-z][a-z0-9+.-]+):/+")  # a Path has one slash; a drive of Windows has one letter


def _unwritable(path: PathLike, expected: str, got: str, remedy: str) -> OutputError:
    return OutputError("output", path, expected, got, remedy)


def _why_unwritable(error: BaseException, temporary: Path, target: Path) -> tuple[str, str, str] | None:
    """Expected, got, remedy, if the error is about writing this file; None if it is about something else."""
    names = (None, os.fspath(temporary), os.fspath(target))
    found: BaseException | None = error
    while found is not None:  # zipfile and others raise another error while closing
        if isinstance(found, OSError) and found.filename in names and found.errno in _REASONS:
            return _REASONS[found.errno]
        found = found.__context__
    if isinstance(error, AttributeError | LookupError | NameError | TypeError):
        return None
    with suppress(OSError, AttributeError):  # libraries wrap the error in their own types
        disk = os.statvfs(target.parent)
        if disk.f_bavail * disk.f_frsize < _FEW_BYTES:
            return _FULL
    return None


def read_text(path: PathLike, role: str) -> str:
    """The text of a file in UTF-8, or in UTF-16 or UTF-32 with its byte-order mark; the mark is removed.

    Editors and shells on Windows write these encodings. Every line ending becomes a newline.

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
        got = str(error) if isinstance(error, OSError) else f"bytes that are not text ({error})"
        raise FileError(
            role, path, "a text file in UTF-8", got, "check the name, or save it as UTF-8"
        ) from error
    if "\0" in text:
        raise FileError(role, path, "a text file in UTF-8", "zero bytes", "save it as UTF-8")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def prepared(path: PathLike) -> Path:
    """Before long work, create the folder of its result and test that it is writable; else OutputError.

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
    """Write UTF-8 atomically; undecodable bytes of file names are written as escapes."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
