# SPDX-License-Identifier: MIT
"""Lazy imports: help and usage errors load nothing heavy, the package loads the layer immediately."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import typer

from crfrnn.commands.parser import app
from crfrnn.crf.presets import PRESETS
from crfrnn.evaluation.submission import COMPETITIONS, TARGETS
from crfrnn.inference.pseudo import CAM_CRFS
from crfrnn.io.scores import KINDS
from crfrnn.io.unaries import PICTURE_KINDS
from crfrnn.models.importers import READERS
from crfrnn.training.recipe import recipe_names

HEAVY = ("torch", "numpy", "PIL", "scipy", "safetensors", "lightning", "optuna", "triton", "matplotlib")

COMMAND_LINE = """
import contextlib, io, json, sys
(first, *rest), heavy = map(json.loads, sys.argv[1:])
sys.argv = ["/usr/local/bin/crfrnn", *first]
from crfrnn.cli import main
loaded = {}
for words in (first, *rest):
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), contextlib.suppress(SystemExit):
        main(words)
    assert said.getvalue()
    loaded[" ".join(words)] = sorted({name.split(".")[0] for name in sys.modules} & set(heavy))
print(json.dumps(loaded))
"""


def _python(code: str, *arguments: str) -> Any:
    """The JSON output of a fresh interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def _words() -> list[list[str]]:
    """Command lines that end before any work."""
    root = typer.main.get_command(app)
    names = [[name] for name in root.commands if name != "experiment"]  # type: ignore[attr-defined]
    names += [["experiment", name] for name in root.commands["experiment"].commands]  # type: ignore[attr-defined]
    return [
        ["--help"], ["--version"], ["refin"], ["refine", "--nope"], ["refine"], ["experiment", "--help"],
        *([*name, "--help"] for name in names),
    ]  # fmt: skip


@pytest.mark.slow
def test_help_version_and_usage_errors_load_nothing_heavy() -> None:

    loaded = _python(COMMAND_LINE, json.dumps(_words()), json.dumps(HEAVY))
    assert len(loaded) >= 20 and not {words: found for words, found in loaded.items() if found}


@pytest.mark.slow
def test_the_package_loads_the_layer_and_its_operators_and_the_rest_on_demand() -> None:
    code = """
import json, sys
import crfrnn
at_once = set(sys.modules)
import torch
operators = [str(torch.ops.crfrnn.mean_field.default), str(torch.ops.crfrnn.lattice_filter.default)]
from crfrnn import *
print(json.dumps([sorted(at_once), operators, [name for name in crfrnn.__all__ if name not in globals()]]))
"""
    at_once, operators, missing = _python(code)
    absent = ["PIL", "safetensors", "scipy", "torch._dynamo", "crfrnn.io", "crfrnn.datasets", "crfrnn.models"]
    if torch.version.cuda is None:  # a CUDA build of torch imports its backend immediately
        absent.append("triton")
    assert not set(absent) & set(at_once) and {"torch", "crfrnn.crf.layer"} <= set(at_once)
    assert operators and not missing


@pytest.mark.slow
def test_the_package_imports_little_besides_torch() -> None:
    """A stable substitute for "under 1.3 times torch's import time": the imported modules, mostly torch's."""
    code = """
import json, sys
import torch
before = set(sys.modules)
import crfrnn
print(json.dumps(sorted(set(sys.modules) - before)))
"""
    added = _python(code)
    own = [name for name in added if name.split(".")[0] == "crfrnn"]
    assert {"crfrnn.crf.layer", "crfrnn._native"} <= set(added)
    assert len(own) <= 60 and len(added) - len(own) <= 20, added


@pytest.mark.slow
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_completes_commands_and_options(tmp_path: Path, shell: str) -> None:
    """The script for a shell calls the program, which returns commands and options."""

    def said(*words: str, **environment: str) -> str:
        code = "import sys; sys.argv[0] = 'crfrnn'; from crfrnn.cli import main; main(sys.argv[1:])"
        done = subprocess.run(
            [sys.executable, "-c", code, *words], capture_output=True, text=True, check=False, timeout=120,
            env={**os.environ, "HOME": str(tmp_path), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1",
                 **environment},
        )  # fmt: skip
        return done.stdout

    assert "_CRFRNN_COMPLETE" in said("--show-completion", shell)
    asked = {"_CRFRNN_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    for words, wanted in (("crfrnn ref", "refine"), ("crfrnn refine --theta-a", "--theta-alpha")):
        found = said(**asked, _TYPER_COMPLETE_ARGS=words, COMP_WORDS=words, COMP_CWORD=str(words.count(" ")))
        assert wanted in found


@pytest.mark.parametrize(
    ("command", "option", "choices"),
    [
        ("refine", "--preset", PRESETS),
        ("refine", "--kind", PICTURE_KINDS),
        ("tiles", "--kind", KINDS),
        ("volume", "--kind", KINDS),
        ("convert", "--from", READERS),
        ("pseudo-labels", "--recipe", CAM_CRFS),
        ("submit", "--target", TARGETS),
        ("submit", "--competition", COMPETITIONS),
        ("train", "--recipe", recipe_names()),
    ],
)
def test_a_help_text_names_every_choice(command: str, option: str, choices: Any) -> None:
    root = typer.main.get_command(app)
    (found,) = (p for p in root.commands[command].params if option in p.opts)  # type: ignore[attr-defined]
    assert [name for name in choices if name not in found.help] == []
