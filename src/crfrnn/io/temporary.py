# SPDX-License-Identifier: MIT
"""Names of files and folders in work, by which what a killed run left is told from a live run's work."""

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

ELSEWHERE_SECONDS = 24 * 3600  # a file that a run on another machine has not touched for so long is left over
_in_work: set[Path] = set()
_NAME = re.compile(r"\.crfrnn-([0-9a-f]{8})-(\d+)-(\d+)-[0-9a-f]{12}\.tmp(\..*)?")  # GDAL appends endings


def temporary_name() -> str:
    """A new name of 60 bytes or less; it says which process of which machine is at work."""
    pid = os.getpid()
    return f".crfrnn-{_place()}-{pid}-{_started(pid) or 0}-{secrets.token_hex(6)}.tmp"


@contextmanager
def in_work(path: Path) -> Iterator[None]:
    """While it is entered, `remove_own` removes the file."""
    _in_work.add(path)
    try:
        yield
    finally:
        _in_work.discard(path)


def remove_own() -> None:
    """Remove the files that this process is writing: for a process that ends without unwinding."""
    for path in list(_in_work):
        with suppress(OSError):
            path.unlink()


def sweep(folder: Path) -> None:
    """Remove what killed runs left in a folder; once per process, as listing a large folder takes time.

    A file of a process of this machine goes when that process is gone. Processes elsewhere cannot be seen:
    their files go when they have not been touched for a day. What cannot be removed stays.
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
        return _started(pid) != started  # the number alone may be another process's by now
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass
    return False


@functools.cache
def _place() -> str:
    """Where process numbers mean the same: one start of one machine, and one container on it."""
    parts = [platform.node()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text())
    with suppress(OSError):
        parts.append(str(os.stat("/proc/self/ns/pid").st_ino))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]


def _started(pid: int) -> int | None:
    """When a process started, in ticks since the machine did; None if it has ended or /proc is not there."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    state, *fields = text.rpartition(")")[2].split()  # the command's name before it may hold anything
    return None if state in "ZX" else int(fields[18])
