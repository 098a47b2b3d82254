# SPDX-License-Identifier: MIT
"""Two processes take the step that one process takes with twice the batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from crfrnn.models import Segmenter
from crfrnn.training.recipe import recipe_from, save_recipe
from crfrnn.training.train import build_segmenter, train
from toy_training import content, make, one_stage

HELPERS = Path(__file__).resolve().parents[1] / "helpers"
SCRIPT = """
import sys
import torch
import toy_training
from crfrnn.training.recipe import load_recipe
from crfrnn.training.train import train
torch.set_num_threads(1)
ddp = {"accelerator": "cpu", "devices": 2, "strategy": "ddp"}
train(load_recipe(sys.argv[1]), sys.argv[2], trainer=ddp)
"""


@pytest.mark.slow
def test_two_processes_equal_one_with_twice_the_batch(tmp_path: Path) -> None:
    """The summed loss of a frozen network's CRF: no dropout, no running means, one sum of gradients."""
    make(tmp_path, 6)
    rates = {"crf_weights": 1e-5, "crf_compatibility": 1e-5, "crf_theta": 1e-6}
    common = {"learn": ["crf"], "loss": "sum", "optimiser": "sgd", "rates": rates}
    one, two = (recipe_from(content(tmp_path, stages=one_stage(**common, batch=batch))) for batch in (2, 1))
    alone = train(one, tmp_path / "one", trainer={"accelerator": "cpu"})
    save_recipe(two, tmp_path / "two.yaml")
    (tmp_path / "run.py").write_text(SCRIPT)
    path = os.pathsep.join([str(HELPERS), str(HELPERS.parents[1] / "src")])
    subprocess.run(
        [sys.executable, str(tmp_path / "run.py"), str(tmp_path / "two.yaml"), str(tmp_path / "two")],
        check=True, timeout=120, env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
    )  # fmt: skip
    together = Segmenter.from_pretrained(tmp_path / "two").state_dict()
    start = build_segmenter(one, 3).state_dict()
    for name, value in alone.segmenter.state_dict().items():
        torch.testing.assert_close(together[name], value, rtol=1e-5, atol=1e-6)
        if name in ("crf.spatial_weights", "crf.bilateral_weights", "crf.compatibility"):
            assert (value - start[name]).abs().max() > 1e-3, name
    logs = [(tmp_path / run / "log.csv").read_text().splitlines() for run in ("one", "two")]
    assert len(logs[0]) == len(logs[1]) == 3
    rows = [[line.split(",") for line in log[1:]] for log in logs]
    for ours, theirs in zip(*rows, strict=True):
        assert ours[3] == theirs[3] and ours[5] == theirs[5] == "6"  # train mean IU, pictures
        assert 2 * float(theirs[2]) == pytest.approx(float(ours[2]), rel=1e-4)  # per batch of half the size
