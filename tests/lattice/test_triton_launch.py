# SPDX-License-Identifier: MIT
"""Launches that skip Triton's lookup equal those of the lookup; the input of the GPU's benchmark."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from conformance import LATTICES
from crfrnn import GaussianKernel, Lattice

pytest.importorskip("triton")
import gpu_bench

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"

UNLIKE = """
import torch, gpu_host, triton
from crfrnn.lattice.triton import kernels
from crfrnn.lattice.triton.launch import Launcher
triton.runtime.driver.set_active(gpu_host.Counting())
rows, table = torch.zeros(9, 64), torch.zeros(2, 2, 10, dtype=torch.int32)
blur = Launcher(kernels.blur_axis, SECTOR=4, BLOCK=16, COLUMNS=64)
def twice(second):
    for sectors in (3, second):
        blur(1, 1, rows, rows, table, 0, 9, sectors)
gpu_host.check({"alike": lambda: twice(5)})
gpu_host.check({"a multiple of 16": lambda: twice(16)})
"""


def without_interpreter(cache: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    path = os.pathsep.join([str(BENCHMARKS), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment |= {"TRITON_CACHE_DIR": str(cache), "PYTHONPATH": path}
    return subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True)


def test_every_known_launch_is_what_a_lookup_gives(tmp_path: Path) -> None:
    """Mean field forward and backward, filters of every type, compiled for an H100; no GPU is needed."""
    done = without_interpreter(tmp_path, str(BENCHMARKS / "gpu_host.py"), "--check")
    assert done.returncode == 0, done.stderr
    found = re.fullmatch(r"(\d+) launches of (\d+) known kernels are alike\n", done.stdout)
    assert found is not None and int(found[1]) > 5 * int(found[2]) > 1000


def test_launches_that_differ_are_distinguished(tmp_path: Path) -> None:
    done = without_interpreter(tmp_path, "-c", UNLIKE)
    assert done.stdout == "2 launches of 1 known kernels are alike\n"
    assert "AssertionError: blur_axis: launches that are not alike" in done.stderr


@pytest.mark.skipif("triton" not in LATTICES, reason="a GPU is here: no interpreter")
def test_a_launcher_launches_what_it_is_given() -> None:
    from crfrnn.lattice.triton import kernels
    from crfrnn.lattice.triton.launch import Launcher

    nobody = torch.full((1, 2, 4), 3, dtype=torch.int32)  # no neighbours
    blur = Launcher(kernels.blur_axis, SECTOR=8, BLOCK=4, COLUMNS=8)
    for rows in (torch.rand(3, 8), torch.rand(3, 8)):
        out = torch.empty_like(rows)
        blur(1, 1, rows, out, nobody, 0, 3, 1)
        assert torch.equal(out, rows)


def test_the_benchmarks_picture_fills_its_lattice_like_a_photograph() -> None:
    """scikit-image's astronaut makes 150,340 and 19,630 vertices; noise alone would make a million."""
    _, image = gpu_bench.Bench("cpu", 500).picture(labels=2)
    for case, expected in (("demo", 150_340), ("readme", 19_630)):
        alpha, beta, *_ = gpu_bench.PARAMETERS[case]
        lattice = GaussianKernel.bilateral(image, alpha, beta).operator
        assert isinstance(lattice, Lattice)
        assert lattice.num_vertices == pytest.approx(expected, rel=0.05)
