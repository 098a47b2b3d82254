# SPDX-License-Identifier: MIT
"""A process forked after parallel work can still compute; with two threads it would hang forever."""

from __future__ import annotations

import subprocess
import sys

import pytest

PARENT = """
import os, sys
import torch
import crfrnn

def work():
    torch.manual_seed(0)
    unary, image = torch.randn(1, 5, 150, 160), torch.rand(1, 3, 150, 160) * 255
    crf = crfrnn.CRFRNN(5)
    crf(unary, image).square().mean().backward()
    return crf.spatial_weights.grad.softmax(0), torch.randn(800, 900).exp().sum()

torch.set_num_threads(2)
first = work()
child = os.fork()
if child == 0:
    second = work()
    same = all(torch.equal(a, b) for a, b in zip(first[:1], second[:1]))
    os._exit(0 if same and torch.get_num_threads() == 1 else 3)
_, status = os.waitpid(child, 0)
assert torch.get_num_threads() == 2, "the parent keeps its threads"
sys.exit(os.waitstatus_to_exitcode(status))
"""
pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="libgomp is Linux's")


@pytest.mark.slow
def test_a_forked_child_computes_the_same_with_one_thread() -> None:
    # `timeout` ends the child too: both are in its process group.
    command = ["timeout", "-k", "1", "60", sys.executable, "-c", PARENT]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
