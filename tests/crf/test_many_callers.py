# SPDX-License-Identifier: MIT
"""One layer called from threads and processes, and running out of memory; scripts/soak.py runs longer."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from crfrnn import CRFRNN

LABELS = 5
linux = pytest.mark.skipif(sys.platform != "linux", reason="limits and fork of Linux")


def inputs(number: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(number)
    size = (20 + 3 * number, 50 - 2 * number)
    unary = torch.randn(1, LABELS, *size, generator=generator)
    return unary, torch.rand(1, 3, *size, generator=generator) * 255


def answer(crf: CRFRNN, number: int) -> list[Tensor]:
    """The logits of one picture, and the gradients of its unary and of the layer's parameters."""
    unary, image = inputs(number)
    out = crf(unary.requires_grad_(), image)
    return [out.detach(), *torch.autograd.grad(out.square().mean(), [unary, *crf.parameters()])]


@pytest.mark.slow
def test_eight_threads_on_one_layer_equal_one_thread() -> None:
    crf = CRFRNN(LABELS, label_weights="matrix")
    numbers = list(range(8)) * 3
    expected = [answer(crf, number) for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda number: answer(crf, number), numbers))
    for number, tensors in zip(numbers, found, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(tensors, expected[number], strict=True)), number


class Refined(Dataset):
    """Pictures that a layer refines in the data loader."""

    def __init__(self) -> None:
        self.crf = CRFRNN(LABELS).eval()

    def __len__(self) -> int:
        return 6

    def __getitem__(self, number: int) -> Tensor:
        with torch.no_grad():
            return self.crf(*inputs(number))[0]


@linux
@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_of_a_data_loader_call_the_layer(method: str) -> None:
    data = Refined()
    expected = [data[number] for number in range(len(data))]  # before the fork, too
    loader = DataLoader(data, batch_size=None, num_workers=2, multiprocessing_context=method)
    found = list(loader)
    assert len(found) == len(expected)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


EXHAUSTED = """
import os, resource, sys, threading
import torch
from crfrnn import CRFRNN

torch.set_num_threads(2)
crf = CRFRNN(21, iterations=2)
small = torch.randn(1, 21, 40, 50), torch.rand(1, 3, 40, 50) * 255
large = torch.randn(1, 21, 300, 300), torch.rand(1, 3, 300, 300) * 255

def work(given):
    loss = crf(given[0].requires_grad_(), given[1]).square().sum()
    return torch.autograd.grad(loss, list(crf.parameters()))

expected = work(small)
with open("/proc/self/statm") as stream:
    now = int(stream.read().split()[0]) * resource.getpagesize()
for spare in (4, 12, 30, 60, 100, 4000):  # MiB
    resource.setrlimit(resource.RLIMIT_AS, (now + spare * 2**20, resource.RLIM_INFINITY))
    try:
        work(large)
        outcome = "done"
    except MemoryError as error:
        outcome = "MemoryError"
    except RuntimeError as error:  # torch's own tensors
        if "allocate memory" not in str(error):
            raise
        outcome = "torch"
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert all(torch.equal(a, b) for a, b in zip(work(small), expected)), "the next call is right"
    print(spare, outcome, flush=True)
"""


@linux
@pytest.mark.slow
def test_running_out_of_memory_is_an_error_and_no_abort() -> None:
    """At any moment: MemoryError of the core, or the error of torch for its own tensors."""
    command = [sys.executable, "-c", EXHAUSTED]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    outcomes = dict(line.split() for line in done.stdout.splitlines())
    assert outcomes["4000"] == "done" and "MemoryError" in outcomes.values(), outcomes
