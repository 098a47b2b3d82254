# SPDX-License-Identifier: MIT
"""The order of pictures as a function of seed and epoch, so that a run can resume at any batch."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from crfrnn.datasets import collate

GRACE = 30  # seconds that a worker survives a signal; then SIGALRM ends it


class EpochBatches(Sampler[list[int]]):
    """Batches of indices of one epoch, starting at batch `first`.

    Args:
        pictures: the number of pictures.
        batch: pictures per batch; the last one may be smaller.
        seed, epoch: determine the order.
        first: number of finished batches to skip at the start.
        rank, world: this process and the number of processes; all get equally many pictures, some of them
        twice if the number is not divisible.

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
    """Batches, pinned if there is a GPU, so that copies overlap computation; `order` as for DataLoader."""
    pinned = torch.cuda.is_available()
    return DataLoader(
        data, collate_fn=collate, num_workers=workers, pin_memory=pinned, worker_init_fn=_stay, **order
    )


def _stay(_: int) -> None:
    """Ignore Ctrl-C and SIGTERM, which reach the whole process group: the run handles them and then ends its
    workers."""
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
