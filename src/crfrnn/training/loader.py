# SPDX-License-Identifier: MIT
"""The order of pictures as a function of seed and epoch, so that a run can go on anywhere."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from crfrnn.datasets import collate

GRACE = 30  # seconds that a worker stays after a signal; SIGALRM ends it then


class EpochBatches(Sampler[list[int]]):
    """Batches of indices of one epoch, from batch `first` on.

    Args:
        pictures: how many there are.
        batch: pictures a batch; the last one may be smaller.
        seed, epoch: they alone fix the order.
        first: batches left out at the start, those already done.
        rank, world: this process and how many there are; each gets as many pictures, some of them twice where
            their number does not divide.

    >>> [len(batch) for batch in EpochBatches(5, 2, seed=0, epoch=0)]
    [2, 2, 1]
    """

    def __init__(
        self, pictures: int, batch: int, *, seed: int, epoch: int, first: int = 0, rank: int = 0,
        world: int = 1,
    ) -> None:  # fmt: skip
        order = torch.randperm(pictures, generator=torch.Generator().manual_seed(mixed(seed, epoch)))
        each = math.ceil(pictures / world)
        own = order.repeat(2)[: each * world][rank::world].tolist()
        self._batches = [own[i : i + batch] for i in range(0, each, batch)][first:]

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self._batches)

    def __len__(self) -> int:
        return len(self._batches)


def batch_loader(
    data: Dataset, workers: int, collate: Callable[[Any], Any] = collate, **order: Any
) -> DataLoader:
    """Batches, pinned where a GPU is, which then copies while it computes; `order` as DataLoader has it."""
    pinned = torch.cuda.is_available()
    return DataLoader(
        data, collate_fn=collate, num_workers=workers, pin_memory=pinned, worker_init_fn=_stay, **order
    )


def _stay(_: int) -> None:
    """Ctrl-C and SIGTERM go to a whole group of processes, and the run answers them: its workers stay until
    it ends them, which it does before long."""
    if hasattr(signal, "alarm"):
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: signal.alarm(GRACE))


def mixed(*numbers: int) -> int:
    """One seed from several numbers.

    >>> mixed(0, 1) != mixed(1, 0)
    True
    """
    seed = 0
    for number in numbers:
        seed = (seed * 1_000_003 + number + 1) % 2**63
    return seed
