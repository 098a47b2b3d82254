# SPDX-License-Identifier: MIT
"""`crfrnn train` and `crfrnn experiment` from the command line, Ctrl-C included."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from command_line import ended, names, run, started, wait_for
from crfrnn.models import Segmenter
from toy_training import one_stage, recipe_file


def test_train_writes_a_segmenter_that_loads(tmp_path: Path) -> None:
    path, out = recipe_file(tmp_path), tmp_path / "out"
    words = ("train", "-r", path, "-o", out, "--accelerator", "cpu")
    code, said, _ = run(*words, "-s", "stages.*.epochs=1", "-s", "crf.iterations=3")
    assert code == 0 and "stage joint" in said and str(out) in said
    wanted = {"best", "config.json", "data.json", "log.csv", "model.safetensors", "recipe.yaml"}
    wanted |= {"plain", "crf", "joint"}
    assert set(names(out)) - {"progress.log"} == wanted
    assert "Best epoch by validation: 1 of joint, mean IU" in said and "epoch 1 of 1: loss" in said
    segmenter = Segmenter.from_pretrained(out)
    assert segmenter.crf is not None and segmenter.crf.iterations == 3
    code, _, error = run(*words, "-s", "seed=4")
    assert code == 2 and "recipe.yaml differs" in error
    code, _, error = run("train", "--recipe", "default")
    assert code == 2 and "--output: expected" in error
    code, said, _ = run("train", "-r", path, "-s", "seed=4", "--show")
    assert code == 0 and yaml.safe_load(said)["seed"] == 4
    code, _, error = run(*words, "-s", "sed=4")
    assert code == 2 and "expected keys among" in error


SLOW = """
import time
import toy_training
from crfrnn.cli import main
from crfrnn.training.module import SegmentationModule

def slow(name):
    step = getattr(SegmentationModule, name)
    def run(self, batch, index):
        print(name, self.place.epoch, index, flush=True)
        time.sleep(0.3)
        return step(self, batch, index)
    setattr(SegmentationModule, name, run)

slow("training_step")
slow("validation_step")
main()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "send", "status", "name", "workers"),
    [
        ("training_step 1 0", lambda p: p.send_signal(signal.SIGINT), 130, "Ctrl-C", 0),
        ("validation_step 1 0", lambda p: os.killpg(p.pid, signal.SIGTERM), 143, "SIGTERM", 1),
    ],
    ids=["Ctrl-C", "group"],
)  # fmt: skip
def test_a_signal_leaves_a_checkpoint_and_prints_its_path(
    tmp_path: Path,
    place: str,
    send: Callable[[subprocess.Popen[str]], None],
    status: int,
    name: str,
    workers: int,
) -> None:
    stages = one_stage(epochs=2000, workers=workers)
    path, out = recipe_file(tmp_path, stages=stages), tmp_path / "out"
    process = started(SLOW, "train", "-r", path, "-o", out, "--accelerator", "cpu")
    wait_for(process, place)
    send(process)
    code, said, errors = ended(process)
    assert code == status, errors
    checkpoint = out / "only" / "last.ckpt"
    assert f"Interrupted ({name}); progress is saved in {checkpoint}. Repeat the command to resume" in said
    assert not errors
    saved = torch.load(checkpoint, weights_only=True)["crfrnn"]
    assert (saved["epoch"], saved["batches"]) == (1, 3 if "validation" in place else 1)


@pytest.mark.slow
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
    assert code == 0 and "train plain" not in said  # both use the same network
    assert {"train2-test1", "train2-test3", "potts", "relu", "robust"} <= set(names(out / "rows"))
    assert not list(out.rglob("model.safetensors")) and list(out.rglob("crf.safetensors"))
    code, _, error = run("experiment", "table2", *words)
    assert code == 2 and "No such command 'table2'" in error
