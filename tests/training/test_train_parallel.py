# SPDX-License-Identifier: MIT
"""Two processes take the same steps as one process with twice the batch size, in every stage."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from crfrnn.models import Segmenter
from crfrnn.training.processes import is_first
from crfrnn.training.recipe import Recipe, recipe_from, save_recipe
from crfrnn.training.train import build_segmenter, train
from toy_training import content, make

HELPERS = Path(__file__).resolve().parents[1] / "helpers"
STAGES = ("plain", "crf", "joint")
LEARNT = {  # trained parameters of each stage
    "plain": {"network.0.weight", "network.4.weight", "network.4.bias"},
    "crf": {"crf.spatial_weights", "crf.bilateral_weights", "crf.compatibility"},
    "joint": {"network.0.weight", "network.4.weight", "crf.spatial_weights", "crf.compatibility"},
}
# Lightning starts the second process itself; torchrun starts two processes that run the command.
LAUNCHERS = {
    "lightning": [],
    "torchrun": ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"],
}
SCRIPT = """
import os
import sys
from pathlib import Path
import torch
import toy_training
from crfrnn.cli import main
from threads import thread_names
torch.set_num_threads(1)
try:
    main()
finally:  # the command ends with SystemExit
    Path(sys.argv[0]).with_name(f"threads-{os.environ['LOCAL_RANK']}").write_text(" ".join(thread_names()))
"""


def recipe(root: Path, batch: int) -> Recipe:
    """No dropout, no running means, and the summed loss, so that the gradient of a step is one sum."""
    rates = {"network": 1e-4, "head": 1e-4, "crf_weights": 1e-5, "crf_compatibility": 1e-5, "crf_theta": 1e-6}
    common = {"batch": batch, "loss": "sum", "optimiser": "sgd", "rates": rates, "freeze_norms": True}
    stages = [
        {"name": "plain", "crf": False, "learn": ["network", "head"], "epochs": 1},
        {"name": "crf", "learn": ["crf"], "epochs": 2},
        {"name": "joint", "epochs": 1, "accumulate": 2, "auxiliary": 0.5, "workers": 1},
    ]
    network = {"name": "tiny-for-tests", "arguments": {"dropout": 0.0}, "backbone": ["0", "1"]}
    return recipe_from(content(root, network=network, stages=[{**common, **stage} for stage in stages]))


@dataclass
class Alone:
    """The single-process run, the reference for both launchers."""

    root: Path
    start: dict[str, Tensor]
    states: dict[str, dict[str, Tensor]]


def states(run: Path) -> dict[str, dict[str, Tensor]]:
    return {stage: Segmenter.from_pretrained(run / stage / "segmenter").state_dict() for stage in STAGES}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Alone:
    root = tmp_path_factory.mktemp("alone")
    make(root, 6)
    one = recipe(root, batch=2)
    train(one, root / "run", trainer={"accelerator": "cpu"})
    return Alone(root, build_segmenter(one, 3).state_dict(), states(root / "run"))


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_processes_equal_one_with_twice_the_batch(alone: Alone, launcher: str, tmp_path: Path) -> None:
    save_recipe(recipe(alone.root, batch=1), tmp_path / "two.yaml")
    (tmp_path / "run.py").write_text(SCRIPT)
    words = ["train", "--recipe", tmp_path / "two.yaml", "-o", tmp_path / "run"]
    words += ["--accelerator", "cpu", "--devices", "2", "--strategy", "ddp"]
    path = os.pathsep.join([str(HELPERS), str(HELPERS.parents[1] / "src")])
    done = subprocess.run(
        [sys.executable, *LAUNCHERS[launcher], tmp_path / "run.py", *words],
        capture_output=True, text=True, timeout=240, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    before = alone.start
    for stage, together in states(tmp_path / "run").items():
        expected = alone.states[stage]
        for name, value in expected.items():
            torch.testing.assert_close(together[name], value, rtol=1e-5, atol=1e-6, msg=f"{stage}: {name}")
        moved = {name for name, value in expected.items() if (value - before[name]).abs().max() > 1e-4}
        assert moved >= LEARNT[stage], stage
        before = expected
    logs = [(run / "log.csv").read_text().splitlines() for run in (alone.root / "run", tmp_path / "run")]
    rows = [[line.split(",") for line in log[1:]] for log in logs]
    assert len(rows[0]) == len(rows[1]) == 4
    for ours, theirs in zip(*rows, strict=True):
        assert ours[3:6] == theirs[3:6] and theirs[5] == "6"  # both mean IUs, pictures
        assert 2 * float(theirs[2]) == pytest.approx(float(ours[2]), rel=1e-4)  # batches of half the size
    assert done.stdout.count("stage plain") == 1  # only one process prints
    for rank in range(2):  # gloo threads can outlive the interpreter and abort the process
        assert "gloo" not in (tmp_path / f"threads-{rank}").read_text()


@pytest.mark.parametrize(
    ("said", "first"),
    [
        ({}, True),
        ({"LOCAL_RANK": "0"}, True),
        ({"LOCAL_RANK": "1"}, False),
        ({"LOCAL_RANK": "0", "NODE_RANK": "1"}, False),
        ({"RANK": "2", "LOCAL_RANK": "0"}, False),
        ({"RANK": "0", "LOCAL_RANK": "0"}, True),
        ({"SLURM_PROCID": "3"}, False),
    ],
)
def test_the_first_of_all_processes_writes(
    said: dict[str, str], first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    assert is_first() is first
