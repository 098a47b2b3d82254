# SPDX-License-Identifier: MIT
"""The check for a GPU, without one: every phase in Triton's interpreter, and the handling of a fault."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("triton")
import gpu_smoke

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here: no interpreter")


@pytest.mark.slow
def test_a_dry_run_goes_through_every_phase(tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", str(ROOT / "scripts" / "gpu_check.sh"), "--dry-run"],
        env={**os.environ, "OUT": str(tmp_path), "PYTHON": sys.executable},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    summary = (tmp_path / "summary.txt").read_text()
    assert done.returncode == 0, done.stdout + done.stderr
    for phase in ("build", "smoke", "tests", "bench", "train"):
        assert f"{phase}: exit status 0," in summary
    smoke = (tmp_path / "smoke.log").read_text()
    assert "never launched: none" in smoke and "5 cases, 0 failed" in smoke
    with (tmp_path / "gpu.csv").open(newline="") as file:
        whats = [row["what"] for row in csv.DictReader(file)]
    assert {"bandwidth", "build and filter", "sweep, blur", "sweep, iterations T = 10"} <= set(whats)
    assert not {"copy", "points", "sweep", "sweep, failed"} & set(
        whats
    )  # parts that failed or were not begun
    with (tmp_path / "table1.csv").open(newline="") as file:
        rows = [row["row"] for row in csv.DictReader(file)]
    assert rows == ["plain", "crf", "frozen-crf", "plain-further", "end-to-end"]
    assert "1 passed" in (tmp_path / "tests.log").read_text()
    assert len(list(tmp_path.iterdir())) <= 8


def test_no_phase_begins_when_the_time_is_up(tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", str(ROOT / "scripts" / "gpu_check.sh"), "--dry-run", "--seconds", "12", "smoke", "bench"],
        env={**os.environ, "OUT": str(tmp_path), "PYTHON": "true"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0
    assert "smoke: not begun" in done.stdout and "bench: not begun" in done.stdout
    assert "train" not in done.stdout


@pytest.mark.slow
def test_a_fault_ends_its_own_case_and_is_kept_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    def raises(device: str) -> Iterator[Any]:
        raise RuntimeError("what the compiler said")
        yield

    def dies(device: str) -> Iterator[Any]:
        os.write(2, b"what the chip said")
        os.kill(os.getpid(), signal.SIGKILL)
        yield

    def hangs(device: str) -> Iterator[Any]:
        time.sleep(60)
        yield

    def differs(device: str) -> Iterator[Any]:
        yield "sum", torch.tensor([1.0, float("nan")]), torch.ones(2), 1e-3

    def agrees(device: str) -> Iterator[Any]:
        yield "sum", torch.ones(2), torch.ones(2), 0

    cases = {"raises": raises, "dies": dies, "hangs": hangs, "differs": differs, "agrees": agrees}
    monkeypatch.setattr(gpu_smoke, "CASES", cases)
    found = {r.name: r for r in gpu_smoke.all_cases("cpu", 3, 8.0, list(cases))}
    assert [name for name, result in found.items() if result.passed] == ["agrees"]
    assert "RuntimeError: what the compiler said" in found["raises"].message
    assert found["dies"].message == "what the chip said" and "exit status -9" in found["dies"].worst
    assert found["hangs"].worst == "no end after 8 s"
    assert found["differs"].worst.startswith("sum: nan")
