# SPDX-License-Identifier: MIT
"""Shared by all tests: one thread, a fixed seed, the folder of real pictures, quiet hypothesis."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # also in processes that tests start: the cores are shared by workers

import pytest
import torch
from hypothesis import settings

if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):  # if started in the background, processes would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)
torch.set_num_threads(1)  # where a plugin imported torch before; tests of several threads set their number
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read once, when triton is first imported: before any test module

settings.register_profile("suite", deadline=None, max_examples=25, derandomize=True, print_blob=True)
settings.load_profile("suite")

SHARED = Path(os.environ.get("CRFRNN_SHARED") or Path(__file__).resolve().parents[1].parent / "shared")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "browser: drives the page in headless Chromium; skipped where it is not"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    interpreted = not torch.cuda.is_available()
    for item in items:
        if interpreted and "triton" in item.nodeid:  # in the name of the file or of the row
            item.add_marker(pytest.mark.interpreter)
        if item.get_closest_marker("real") and not SHARED.is_dir():
            item.add_marker(pytest.mark.skip(reason=f"no real pictures in {SHARED} (set $CRFRNN_SHARED)"))
    # Files with the most slow tests first, so that no process ends long after the others.
    long = Counter(
        item.path for item in items if {"slow", "interpreter"} & {m.name for m in item.iter_markers()}
    )
    items.sort(key=lambda item: -long[item.path])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Report for .ci/run whether the tests on real pictures and those in a browser ran."""

    def count(mark: str, *outcomes: str) -> int:
        reports = [report for outcome in outcomes for report in terminalreporter.getreports(outcome)]
        return sum(mark in getattr(report, "keywords", ()) for report in reports)

    for mark, what in (("real", "real pictures"), ("browser", "browser")):
        ran, skipped = count(mark, "passed", "failed"), count(mark, "skipped")
        terminalreporter.write_line(f"{what}: {ran} run, {skipped} skipped")


@pytest.fixture
def shared() -> Path:
    """The folder of real pictures; only for tests marked `real`."""
    return SHARED


@pytest.fixture(autouse=True, scope="session")
def _poison() -> None:
    """Fill the native core's memory with NaN, so that reads of uninitialised memory become visible."""
    with contextlib.suppress(ImportError):
        from crfrnn import _native

        _native.poison_memory(True)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _denormals() -> Iterator[None]:
    """Fail tests that leave the processor's mode changed, which would change later results of the process."""
    yield
    smallest = sys.float_info.min
    kept = smallest / 2 > 0
    torch.set_flush_denormal(False)
    assert kept, "the test left denormal numbers flushed to 0"


@pytest.fixture
def on_chip() -> Iterator[None]:
    """Create tensors on the GPU if there is one: Triton's kernels run there, else in its interpreter."""
    if torch.cuda.is_available():
        torch.set_default_device("cuda")
    yield
    torch.set_default_device(None)
