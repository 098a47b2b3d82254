# SPDX-License-Identifier: MIT
"""Temporary names that distinguish the remains of a killed run from the files of a live one."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ELSEWHERE_SECONDS = 24 * 3600  # a file from another machine, untouched for this long, counts as left over
_in_work: set[Path] = set()
_NAME = re.compile(r"\.crfrnn-([0-9a-f]{8})-(\d+)-(\d+)-[0-9a-f]{12}\.tmp(\..*)?")  # GDAL appends endings


def temporary_name() -> str:
    """A new name of at most 60 bytes that contains the machine and the process."""
    pid = os.getpid()
    return f".crfrnn-{_place()}-{pid}-{_started(pid) or 0}-{secrets.token_hex(6)}.tmp"


@contextmanager
def in_work(path: Path) -> Iterator[None]:
    """Register the file for `remove_own` while the block runs."""
    _in_work.add(path)
    try:
        yield
    finally:
        _in_work.discard(path)


def remove_own() -> None:
    """Remove the files that this process is writing, for a process that exits without unwinding."""
    for path in list(_in_work):
        with suppress(OSError):
            path.unlink()


def sweep(folder: Path) -> None:
    """Remove files that killed runs left in a folder; once per process, as listing a large folder takes time.

    A file of a process on this machine is removed once that process has ended. Processes on other machines
    are not visible: their files are removed when untouched for a day. Files that cannot be removed are kept.
    """
    with suppress(OSError):
        _sweep(os.path.realpath(folder))


@functools.cache
def _sweep(folder: str) -> None:
    with os.scandir(folder) as entries:
        for entry in entries:
            found = _NAME.fullmatch(entry.name)
            if found:
                with suppress(OSError):
                    if _left_over(found, entry.stat(follow_symlinks=False).st_mtime):
                        if entry.is_dir(follow_symlinks=False):
                            shutil.rmtree(entry.path, ignore_errors=True)
                        else:
                            os.unlink(entry.path)


def _left_over(name: re.Match[str], touched: float) -> bool:
    place, pid, started = name[1], int(name[2]), int(name[3])
    if place != _place() or os.name == "nt":
        return time.time() - touched > ELSEWHERE_SECONDS
    if Path("/proc/self/stat").is_file():
        return _started(pid) != started  # the process number alone may have been reused
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass
    return False


@functools.cache
def _place() -> str:
    """Identifies the scope of process numbers: one boot of one machine, and one container on it."""
    parts = [platform.node()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text())
    with suppress(OSError):
        parts.append(str(os.stat("/proc/self/ns/pid").st_ino))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]


def _started(pid: int) -> int | None:
    """When a process started, in ticks since boot; None if it has ended or there is no /proc."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    state, *fields = text.rpartition(")")[2].split()  # the command's name before it may contain any character
    return None if state in "ZX" else int(fields[18])
