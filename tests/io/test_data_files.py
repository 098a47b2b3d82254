# SPDX-License-Identifier: MIT
"""Files are complete or absent however a run ends; leftovers of killed runs are detected and removed."""

from __future__ import annotations

import errno
import os
import pickle
import re
import resource
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from crfrnn.io import atomic, temporary
from crfrnn.io.files import OutputError, new_folder, prepared, write_text

ROOT = Path(__file__).resolve().parents[2]


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def left_by(ending: signal.Signals | None, folder: Path) -> str:
    """Temporary file of a process that was killed while writing, or that is still running (None)."""
    code = f"""
        import os, sys
        from crfrnn.io.files import atomic
        with atomic({str(folder / "result")!r}) as part:
            part.write_bytes(b"half")
            print(part.name, flush=True)
            sys.stdin.read()
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin and process.stdout
    name = process.stdout.readline().strip()
    assert name in names(folder)
    if ending is None:
        temporary._sweep.cache_clear()
        with atomic(folder / "ours") as part:
            part.touch()
        assert name in names(folder)
        process.stdin.close()
    else:
        process.send_signal(ending)
    process.wait()
    return name


@pytest.mark.slow
def test_files_of_killed_runs_are_removed_and_those_of_running_ones_kept(tmp_path: Path) -> None:
    left_by(None, tmp_path)
    assert names(tmp_path) == ["ours", "result"]
    name = left_by(signal.SIGKILL, tmp_path)
    assert name in names(tmp_path)
    other = tmp_path / ".crfrnn-notes.tmp"  # written by another program
    other.write_text("mine")
    temporary._sweep.cache_clear()
    write_text(tmp_path / "ours", "done")
    assert names(tmp_path) == [other.name, "ours", "result"]


def test_files_of_other_machines_are_removed_after_a_day(tmp_path: Path) -> None:
    name = f".crfrnn-00000000-1-1-{'0' * 12}.tmp"
    for age, left in ((23, True), (25, False)):
        (tmp_path / name).touch()
        then = (tmp_path / name).stat().st_mtime - 3600 * age
        os.utime(tmp_path / name, (then, then))
        temporary._sweep.cache_clear()
        temporary.sweep(tmp_path)
        assert (tmp_path / name).exists() == left


def test_a_reused_process_id_is_not_the_same_process(tmp_path: Path) -> None:
    if not Path("/proc/self/stat").is_file():
        pytest.skip("no /proc")
    own = temporary.temporary_name()
    prefix, place, pid, started, rest = own.split("-", 4)
    reused = "-".join((prefix, place, pid, str(int(started) - 1), rest))
    for name in (own, reused):
        (tmp_path / name).touch()
    temporary.sweep(tmp_path)
    assert names(tmp_path) == [own]


def test_names_of_255_bytes_are_written_and_longer_ones_refused(tmp_path: Path) -> None:
    for name in ("x" * 255, "\u00e9" * 127):
        write_text(tmp_path / name, "whole")
        with pytest.raises(OutputError, match=r"at most 255 bytes, got 25[67]; shorten"):
            write_text(tmp_path / f"{name}xx"[: len(name) + (2 if name[0] == "\u00e9" else 1)], "")


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("no/a", "no such folder"),
        ("", "a folder"),
        ("/dev/null", "a device"),
        ("/proc/a", "no file can be created"),
    ],
)
def test_unwritable_places(tmp_path: Path, place: str, says: str) -> None:
    with pytest.raises(OutputError, match=says) as caught:
        write_text(tmp_path / place, "x")
    assert isinstance(caught.value, ValueError) and isinstance(caught.value, OSError)
    again = pickle.loads(pickle.dumps(caught.value))
    assert type(again) is OutputError and str(again) == str(caught.value)


def test_the_place_of_a_result_is_checked_before_the_work(tmp_path: Path) -> None:
    assert prepared(tmp_path / "new" / "deep" / "a.csv").parent.is_dir()
    assert names(tmp_path / "new" / "deep") == []
    for place, says in (
        ("/proc/a.csv", "'/proc'.*no file can be created"),
        ("/dev/null/a.csv", "'/dev/null'.*a folder"),
    ):
        with pytest.raises(OutputError, match=says):
            prepared(place)


def test_every_measurement_checks_its_output_first() -> None:
    scripts = [*ROOT.glob("benchmarks/*.py"), *ROOT.glob("experiments/*.py")]
    scripts = [p for p in scripts if re.search(r'"--(out|output|picture)"', p.read_text(encoding="utf-8"))]
    assert len(scripts) >= 11
    for script in scripts:
        text = script.read_text(encoding="utf-8")
        assert re.search(r"parse_args\(\)\n(.*\n){0,3} +(ready\(parser, |prepared\()", text), script.name


@pytest.mark.parametrize("place", ["/proc/a/b", "/dev/null", "file/a"])
def test_folders_that_cannot_be_made(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="expected a folder"):
        new_folder(tmp_path / place)


def test_a_full_disk_is_reported_and_leaves_no_partial_file(tmp_path: Path) -> None:
    """A file size limit simulates a full disk: the same calls fail in the same way."""
    write_text(tmp_path / "a.npz", "before")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with (
            pytest.raises(OutputError, match="a file larger than allowed") as caught,
            atomic(tmp_path / "a.npz") as part,
            part.open("wb") as stream,
        ):
            np.savez(stream, probabilities=np.random.default_rng(0).random(10**4))
        assert names(tmp_path) == ["a.npz"] and (tmp_path / "a.npz").read_text() == "before"
        assert caught.value.__cause__ is not None
        with pytest.raises(OutputError, match="enough space, got a full disk"), atomic(tmp_path / "a.npz"):
            raise OSError(errno.ENOSPC, "No space left on device")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, old)


def test_errors_of_the_work_are_not_changed(tmp_path: Path) -> None:
    for error in (ZeroDivisionError(), FileNotFoundError(errno.ENOENT, "No such file", "input.npy")):
        with pytest.raises(type(error)) as caught, atomic(tmp_path / "a"):
            raise error
        assert caught.value is error
    assert names(tmp_path) == []
