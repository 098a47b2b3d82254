# SPDX-License-Identifier: MIT
"""`crfrnn train` and `crfrnn experiment` from the command line, Ctrl-C included."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from crfrnn.models import Segmenter
from test_cli_refine import names, run
from toy import make_pictures
from toy_training import content, one_stage

HERE = Path(__file__).resolve().parent


def recipe_file(root: Path, **changes: object) -> Path:
    make_pictures(root / "train", 6, seed=1)
    make_pictures(root / "val", 2, seed=2)
    path = root / "recipe.yaml"
    path.write_text(yaml.safe_dump(content(root, **changes)))
    return path


pytestmark = pytest.mark.usefixtures("one_thread")


def test_train_writes_a_segmenter_that_loads(tmp_path: Path) -> None:
    path, out = recipe_file(tmp_path), tmp_path / "out"
    words = ("train", "-r", path, "-o", out, "--accelerator", "cpu")
    code, said, _ = run(*words, "-s", "stages.*.epochs=1", "-s", "crf.iterations=3")
    assert code == 0 and "stage joint" in said and str(out) in said
    wanted = {"config.json", "log.csv", "model.safetensors", "recipe.yaml", "plain", "crf", "joint"}
    assert set(names(out)) == wanted
    segmenter = Segmenter.from_pretrained(out)
    assert segmenter.crf is not None and segmenter.crf.iterations == 3
    code, _, error = run(*words, "-s", "seed=4")
    assert code == 2 and "recipe.yaml differs" in error
    code, said, _ = run(*words, "-s", "seed=4", "--show")
    assert code == 0 and yaml.safe_load(said)["seed"] == 4
    code, _, error = run(*words, "-s", "sed=4")
    assert code == 2 and "expected keys among" in error


def test_ctrl_c_leaves_a_checkpoint_and_says_where(tmp_path: Path) -> None:
    path, out = recipe_file(tmp_path, stages=one_stage(epochs=2000)), tmp_path / "out"
    script = "import toy_training; from crfrnn.cli import main; main()"
    words = ["train", "-r", str(path), "-o", str(out), "--accelerator", "cpu"]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": f"{HERE}{os.pathsep}{HERE.parent / 'src'}",
    }
    with subprocess.Popen(
        [sys.executable, "-c", script, *words], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        until = time.monotonic() + 60
        while not (out / "only" / "log.csv").is_file() and time.monotonic() < until:
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Interrupted" in said and str(out / "only" / "last.ckpt") in said
    assert (out / "only" / "last.ckpt").stat().st_size > 1000


def test_experiment_writes_its_report(tmp_path: Path) -> None:
    path, out = recipe_file(tmp_path), tmp_path / "out"
    words = ["-r", path, "-o", out, "--accelerator", "cpu", "--trials", "0", "--hold-out", "0.5"]
    words += ["-s", "stages.*.epochs=1"]
    code, said, _ = run("experiment", "table1", *words)
    assert code == 0 and "Report:" in said
    text = (out / "table1.md").read_text()
    assert all(f"| {row} |" in text for row in ("plain", "post-processing", "end-to-end", "frozen-crf"))
    short = ["--train-iterations", "2", "--test-iterations", "1,3", "--no-keep-networks"]
    code, said, _ = run("experiment", "ablations", *words, *short)
    assert code == 0 and "train plain" not in said  # the same network serves both
    assert {"train2-test1", "train2-test3", "potts", "relu", "robust"} <= set(names(out / "rows"))
    assert not list(out.rglob("model.safetensors")) and list(out.rglob("crf.safetensors"))
    code, _, error = run("experiment", "table2", *words)
    assert code == 2 and "No such command 'table2'" in error
