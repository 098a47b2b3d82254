# SPDX-License-Identifier: MIT
"""scripts/same_bits.py: a dump equals its repetition, and any change of a number is named."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import crfrnn

ROOT = next(p for p in Path(__file__).resolve().parents if (p / "pyproject.toml").is_file())
Command = Callable[..., int]


@pytest.fixture
def same_bits(monkeypatch: pytest.MonkeyPatch) -> Command:
    """The script's main function."""
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):  # set by the script, restored afterwards
        monkeypatch.setenv(variable, "1")
    spec = importlib.util.spec_from_file_location("same_bits", ROOT / "scripts" / "same_bits.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return lambda *words: module.main([str(word) for word in words])


@pytest.mark.slow
def test_a_change_of_the_last_bit_is_named(
    same_bits: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before, again, off = (tmp_path / f"{name}.json" for name in ("before", "again", "off"))
    assert same_bits("dump", before, "--only", "losses,lattices") == 0
    assert same_bits("dump", again, "--only", "losses") == 0
    assert same_bits("compare", before, again) == 0
    right = crfrnn.dense_crf_loss

    def wrong(*words: Any, **options: Any) -> torch.Tensor:
        loss = right(*words, **options)
        return torch.nextafter(loss.detach(), loss.detach() + 1) + (loss - loss.detach())

    monkeypatch.setattr(crfrnn, "dense_crf_loss", wrong)
    assert same_bits("dump", off, "--only", "losses") == 0
    capsys.readouterr()
    assert same_bits("compare", before, off) == 1
    *lines, total = capsys.readouterr().out.splitlines()
    assert all(line.startswith("losses/") and "/out: " in line for line in lines)
    assert any(
        line.startswith("losses/5 labels, torch.float32, mean, mask True, cut False") for line in lines
    )
    assert total == "96 differences"  # 4 label counts, 2 dtypes, 3 reductions, masks, cuts


@pytest.mark.slow
def test_missing_results_and_those_of_another_machine_are_named(
    same_bits: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, after = tmp_path / "before.json", tmp_path / "after.json"
    assert same_bits("dump", before, "--only", "lattices") == 0
    content = json.loads(before.read_text())
    gone = next(iter(content["hashes"]))
    del content["hashes"][gone]
    content["where"]["torch"] = "0.1"
    after.write_text(json.dumps(content))
    capsys.readouterr()
    assert same_bits("compare", before, after) == 1
    first, second, total = capsys.readouterr().out.splitlines()
    assert first.startswith("not comparable: torch ") and second.startswith(f"{gone}: ")
    assert second.endswith("-> absent") and total == "2 differences"
