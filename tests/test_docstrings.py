# SPDX-License-Identifier: MIT
"""The examples in the docstrings of every module give the stated results."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import numpy as np
import pytest

SOURCES = Path(__file__).resolve().parents[1] / "src"
MODULES = sorted(
    ".".join(path.relative_to(SOURCES).with_suffix("").parts)
    for path in (SOURCES / "crfrnn").rglob("*.py")
    if ">>>" in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where an example writes files
    np.random.seed(0)  # noqa: NPY002 - of what an example draws without a generator of its own
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted > 0 and found.failed == 0
