# SPDX-License-Identifier: MIT
"""The file with the trials of `tune`: checked before anything is written to it, with clear errors."""

from __future__ import annotations

import json
import os
import sqlite3
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from crfrnn.io.files import FileError, OutputError, check_target

STUDY = "crfrnn"  # the name of our study in a file that may hold several
_SQLITE = (".db", ".sqlite", ".sqlite3")
_ANEW = "name a new file"


def open_storage(optuna: Any, path: Path) -> Any:
    """Optuna's storage of a new or existing file; SQLite or a journal, depending on its ending.

    If the last line of a journal was truncated by a kill or a full disk, it is dropped with a warning.

    Raises: FileError for a file that is damaged or not a study of this program; nothing is written to it.
    """
    check_target(path)
    if path.suffix in _SQLITE:
        _check_sqlite(path)
        return f"sqlite:///{path.resolve()}"
    from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

    if path.is_file():
        _check_journal(path)
    # Use the full name: Optuna's lock is a link that contains the name as given.
    full = str(path.resolve())
    backend = JournalFileBackend(full)
    lock = JournalFileSymlinkLock(full)
    lock.acquire()  # so that no other process is writing that line
    try:
        _drop_cut_line(path)
    finally:
        lock.release()
    return optuna.storages.JournalStorage(backend)


@contextmanager
def worded(optuna: Any, path: Path | None, *, opening: bool = False) -> Iterator[None]:
    """Convert errors of Optuna's storage and of its database to a one-line FileError.

    Args: opening: records are only read, so that any error is due to the file.
    """
    try:
        yield
    except (optuna.exceptions.StorageInternalError, optuna.exceptions.DuplicatedStudyError) as error:
        raise _broken(path, error) from error
    except (ValueError, OSError):
        raise
    except Exception as error:
        module = type(error).__module__.split(".")[0]
        if path is not None and (opening or module in ("sqlalchemy", "alembic", "optuna")):
            raise _broken(path, error) from error
        raise


def _broken(path: Path | None, error: Exception) -> FileError:
    said = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
    return OutputError("study", path or "(in memory)", "a file that can be read and written", said[0], _ANEW)


def _check_journal(path: Path) -> None:
    """Check that every line, except a truncated last one, is a record, and the first creates our study."""
    with path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            if not line.endswith(b"\n") and number > 1:
                return
            try:
                record = json.loads(line)
                whole = isinstance(record["op_code"], int) and isinstance(record["worker_id"], str)
            except (ValueError, TypeError, KeyError, RecursionError):
                whole, record = False, {}
            if number == 1 and not (whole and record["op_code"] == 0 and record.get("study_name") == STUDY):
                shown = line[:40].decode("utf-8", "backslashreplace").strip()
                raise FileError(
                    "study", path, "trials that crfrnn tune wrote", f"a file of {shown!r} …", _ANEW
                )
            if not whole:
                raise FileError("study", path, "whole records", f"a damaged line {number}", _ANEW)


def _drop_cut_line(path: Path) -> None:
    content = path.read_bytes()
    if content and not content.endswith(b"\n"):
        kept = content.rfind(b"\n") + 1
        os.truncate(path, kept)
        warnings.warn(f"study {os.fspath(path)!r}: the last line was truncated and is dropped", stacklevel=2)


def _check_sqlite(path: Path) -> None:
    """Check for a database with our study, or an empty file."""
    if not path.is_file() or path.stat().st_size == 0:
        return
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as database:
            found = database.execute("SELECT study_name FROM studies").fetchall()
    except sqlite3.Error as error:
        raise FileError("study", path, "trials that crfrnn tune wrote", f"{error}", _ANEW) from None
    if (STUDY,) not in found:
        names = ", ".join(repr(name) for (name,) in found[:3]) or "none"
        raise FileError("study", path, "the study that crfrnn tune wrote", f"the studies {names}", _ANEW)
