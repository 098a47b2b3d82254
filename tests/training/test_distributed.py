# SPDX-License-Identifier: MIT
"""Training under DistributedDataParallel: two processes compute the gradients of one with the whole batch."""

from __future__ import annotations

import gc
import multiprocessing
from pathlib import Path

import pytest
import torch
import torch.distributed.nn.functional  # see `train`
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from crfrnn import CRFRNN, GaussianKernel, dense_crf_loss
from threads import thread_names

SIZE, LABELS = (14, 17), 3


class Model(nn.Module):
    """A small network followed by the CRF layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.network = nn.Conv2d(3, LABELS, 3, padding=1)
        self.crf = CRFRNN(LABELS, 12.0, 40.0, 2.0, label_weights="matrix", iterations=3)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.network(image / 255)
        return logits, self.crf(logits, image)


def batch() -> tuple[Tensor, Tensor]:
    """Pictures Float[4, 3, H, W] and scribbles Int[4, H, W]; equally many per picture, so means agree."""
    generator = torch.Generator().manual_seed(5)
    image = torch.rand(4, 3, *SIZE, generator=generator) * 255
    target = torch.full((4, *SIZE), 255)
    target[:, 3, 2:9], target[:, 10, 4:11], target[:, 6:9, 15] = 0, 1, 2
    return image, target


def loss(model: nn.Module, image: Tensor, target: Tensor) -> Tensor:
    """Scribble losses before and after the CRF, plus the dense-CRF loss."""
    logits, refined = model(image)
    kernel = GaussianKernel.bilateral(image, 12.0, 40.0, normalization="none")
    supervised = sum(cross_entropy(scores, target, ignore_index=255) for scores in (logits, refined))
    return supervised + 0.05 * dense_crf_loss(logits, [kernel], [1.0])


def train(rank: int, store: str, output: str) -> None:
    """Run one of the two processes: two steps, the gradients of the first and the weights after both.

    gloo's threads must end before the interpreter does: a thread that drops the last reference to a tensor
    during interpreter shutdown aborts the process ("terminate called without an active exception",
    https://github.com/pytorch/pytorch/issues/190489). They end when the group is
    destroyed. The functions of torch.distributed.nn.functional bind the current group as a default argument
    at import, so importing them after the group is created, as DistributedDataParallel does, keeps it alive.
    """
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    model = DistributedDataParallel(Model())
    image, target = batch()
    own = slice(2 * rank, 2 * rank + 2)
    steps(model, image[own], target[own], f"{output}.{rank}")
    del model  # it also holds a reference to the group
    gc.collect()
    dist.barrier()  # wait, so that no process closes the group too early
    dist.destroy_process_group()
    assert not [name for name in thread_names() if "gloo" in name]


def steps(model: nn.Module, image: Tensor, target: Tensor, output: str) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    gradients: dict[str, Tensor] = {}
    for _ in range(2):
        optimizer.zero_grad()
        loss(model, image, target).backward()
        gradients = gradients or {
            name.removeprefix("module."): p.grad.clone()
            for name, p in model.named_parameters()
            if p.grad is not None
        }
        optimizer.step()
    weights = {name.removeprefix("module."): p.detach() for name, p in model.named_parameters()}
    torch.save({"gradients": gradients, "weights": weights}, output)


@pytest.mark.slow
def test_two_processes_have_the_gradients_of_one(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    store, output = str(tmp_path / "store"), str(tmp_path / "result")
    processes = [context.Process(target=train, args=(rank, store, output)) for rank in range(2)]
    for process in processes:
        process.start()
    steps(Model(), *batch(), f"{output}.all")
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    alone = torch.load(f"{output}.all")
    assert len(alone["gradients"]) == 8 and all(g.abs().max() > 0 for g in alone["gradients"].values())
    for rank in range(2):
        shared = torch.load(f"{output}.{rank}")
        for what in ("gradients", "weights"):
            for name, expected in alone[what].items():
                torch.testing.assert_close(shared[what][name], expected, rtol=2e-4, atol=2e-6)
    own = slice(0, 2)
    model = Model()
    loss(model, *(t[own] for t in batch())).backward()
    half = model.crf.compatibility.grad
    assert half is not None and not torch.allclose(half, alone["gradients"]["crf.compatibility"], rtol=1e-2)
