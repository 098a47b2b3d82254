# SPDX-License-Identifier: MIT
"""Ctrl-C, SIGTERM and SIGHUP: one line, an exit status, and nothing half written."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from command_line import ended, started, wait_for
from crfrnn import signals

COMMAND = """
import sys, time
from pathlib import Path
from crfrnn.cli import main
from crfrnn.commands import common
from crfrnn.commands.parser import app
from crfrnn.io import atomic

@app.command()
@common.reported
def wait():
    with atomic(Path(sys.argv[1])) as temporary:
        temporary.write_text("half")
        print("ready", flush=True)
        time.sleep(100)

main(["wait"])
"""

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")


@pytest.mark.slow
@pytest.mark.parametrize(("number", "name"), [(signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "SIGTERM")])
def test_a_signal_while_modules_are_imported_gives_one_line(
    tmp_path: Path, number: signal.Signals, name: str
) -> None:
    (tmp_path / "torch.py").write_text("import time; print('torch', flush=True); time.sleep(100)")
    process = started(
        "import sys; sys.argv[0] = 'crfrnn'; from crfrnn.cli import main; main(['doctor'])", path=tmp_path
    )
    wait_for(process, "torch")
    process.send_signal(number)
    assert ended(process) == (128 + number, "", f"stopped by {name}; every existing file is complete\n")


@pytest.mark.slow
def test_a_signal_while_a_command_runs_unwinds_it(tmp_path: Path) -> None:
    process = started(COMMAND, tmp_path / "result.txt")
    wait_for(process, "ready")
    assert [p.suffix for p in tmp_path.iterdir()] == [".tmp"]
    process.send_signal(signal.SIGTERM)  # as `timeout` does: the process, then its group
    os.killpg(process.pid, signal.SIGTERM)
    assert ended(process) == (143, "", "stopped by SIGTERM; every existing file is complete\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("number", signals.NUMBERS)
def test_every_signal_unwinds_as_ctrl_c_does_and_has_its_status(number: int) -> None:
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt) as caught, signals.answered(signals.unwind):
        os.kill(os.getpid(), number)
        time.sleep(10)
    assert isinstance(caught.value, signals.Stopped) and caught.value.number == number
    assert signals.status() == 128 + number
    assert signal.getsignal(number) == before


def test_a_second_signal_during_the_exit_is_the_same_request() -> None:
    before = signal.getsignal(signal.SIGTERM)
    try:
        with signals.answered(lambda number: None, ending=True):
            os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)  # while modules are finalised: no effect
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    finally:
        for number in signals.NUMBERS:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else before)


def test_an_immediately_repeated_signal_is_the_same_request() -> None:
    seen: list[int] = []
    with signals.answered(seen.append):
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), number)
        with signals.answered(seen.append):
            os.kill(os.getpid(), signal.SIGINT)
    assert seen == [signal.SIGTERM, signal.SIGINT]


def test_signals_ignored_by_the_environment_stay_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals.answered(signals.unwind):
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0.01)
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.slow
def test_the_command_imports_names_of_the_package_lazily() -> None:
    script = (
        "import sys; sys.argv[0] = 'crfrnn'; import crfrnn, crfrnn.cli;"
        "assert not {'torch', 'numpy', 'typer'} & set(sys.modules);"
        "assert set(crfrnn.__all__) <= set(dir(crfrnn));"
        "assert all(getattr(crfrnn, name) is not None for name in crfrnn.__all__);"
        "from crfrnn import *; assert CRFRNN is crfrnn.crf.CRFRNN and crfrnn.io.VOID == 255;"
        "print(hasattr(crfrnn, 'nothing'))"
    )
    assert ended(started(script)) == (0, "False\n", "")
