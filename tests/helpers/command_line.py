# SPDX-License-Identifier: MIT
"""The command `crfrnn` as tests run it: in this process, and in a separate process that receives signals."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner

from crfrnn.commands.parser import app
from crfrnn.io.manifest import MANIFEST

HERE = Path(__file__).resolve().parent


def run(*words: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def names(folder: Path) -> list[str]:
    """The results in a folder, without their manifest."""
    return sorted(p.name for p in folder.iterdir() if p.name != MANIFEST)


def started(script: str, *words: str | Path, path: Path | None = None) -> subprocess.Popen[str]:
    """A process in its own group that runs `script`; `path` comes first on its module path."""
    places = [str(p) for p in (path, HERE, HERE.parents[1] / "src") if p is not None]
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, words)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(places)},
    )  # fmt: skip


def wait_for(process: subprocess.Popen[str], word: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if word in line:
            return
    raise AssertionError(f"no {word!r}; {process.stderr.read() if process.stderr else ''}")


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    said, errors = process.communicate(timeout=120)
    return process.returncode, said, errors
