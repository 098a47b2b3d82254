# SPDX-License-Identifier: MIT
"""A training run that is killed or runs out of disk space keeps all previous files."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from crfrnn.io.files import OutputError
from crfrnn.training.run_files import Interrupted
from crfrnn.training.train import train
from toy_training import make, one_stage

KILL = Path(__file__).resolve().parents[2] / "scripts/kill_training.py"
CPU = {"accelerator": "cpu"}
posix = pytest.mark.skipif(sys.platform == "win32", reason="signals and limits of POSIX")


@posix
@pytest.mark.slow
def test_a_killed_training_resumes_to_the_same_weights() -> None:
    """Each kill method is scheduled once; if the run ends before the kill, the next method follows."""
    command = [sys.executable, str(KILL), "--kills", "6"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(r"^6 kills \((.*)\) in \d+ runs: 22 files equal", done.stdout, re.M)
    assert found and found[1].count(",") >= 3, done.stdout  # at least four methods


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@posix
@pytest.mark.slow
def test_on_a_full_disk_the_earlier_checkpoint_is_kept(tmp_path: Path) -> None:
    recipe = make(tmp_path, stages=one_stage(epochs=2), checkpoint_minutes=1e-9)
    whole = train(recipe, tmp_path / "whole", trainer=CPU).segmenter.state_dict()
    with pytest.raises(Interrupted):
        train(recipe, tmp_path / "parts", trainer=CPU, stop_after=2)
    home = tmp_path / "parts" / "only"
    before = (home / "last.ckpt").read_bytes()
    with (
        files_of_at_most(len(before) // 2),
        pytest.raises(
            OutputError, match=r"last\.ckpt': expected enough space, got .*; .* name another place"
        ),
    ):
        train(recipe, tmp_path / "parts", trainer=CPU)
    assert [p.name for p in home.iterdir()] == ["last.ckpt"]
    assert (home / "last.ckpt").read_bytes() == before
    after = train(recipe, tmp_path / "parts", trainer=CPU).segmenter.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in whole.items())


def test_an_unwritable_folder_is_named_before_the_first_step(tmp_path: Path) -> None:
    recipe = make(tmp_path, stages=one_stage(epochs=1))
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OutputError, match="expected a folder, got a file of that name; name another"):
        train(recipe, tmp_path / "file", trainer=CPU)
    (tmp_path / "run").mkdir()
    if sys.platform != "win32" and os.geteuid():  # root bypasses permissions
        (tmp_path / "run").chmod(0o500)
        with pytest.raises(OutputError, match="expected a folder that can be written to, got no permission"):
            train(recipe, tmp_path / "run", trainer=CPU)
        (tmp_path / "run").chmod(0o700)
    (tmp_path / "run" / "only").write_text("no folder")
    with pytest.raises(ValueError, match=r"'only' from elsewhere; name another"):
        train(recipe, tmp_path / "run", trainer=CPU)
