# SPDX-License-Identifier: MIT
"""Any set of pictures as a torch data set, and batches of pictures of different sizes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Generator, Tensor
from torch.utils.data import Dataset

from crfrnn.datasets.pictures import PictureSet
from crfrnn.datasets.transforms import PictureSample, Transform, pad, sample_of


class Batch(NamedTuple):
    """Several pictures at the top left of canvases of one size; see `collate`.

    Attributes:
        ids: their names.
        image: Float32[B, 3, H, W], RGB, 0..255; mean colour in the padding.
        labels: Int64[B, H, W], 255 = void, also in the padding.
        mask: Bool[B, H, W], True = picture, False = padding: the mask that `CRFRNN` takes.
    """

    ids: tuple[str, ...]
    image: Tensor
    labels: Tensor
    mask: Tensor


class SegmentationDataset(Dataset[PictureSample]):
    """Pictures with truths as samples for training, changed anew in every epoch.

    What happens to a picture depends on (seed, epoch, index) alone: not on the number of workers, nor on the
    order, nor on where a run was interrupted.

    Args:
        pictures: with masks.
        transform: called with a sample and a generator, e.g. `RandomTransform`; None leaves all as it is.
        seed: of the changes.

    Raises:
        ValueError: a picture without a truth.
    """

    def __init__(self, pictures: PictureSet, transform: Transform | None = None, *, seed: int = 0) -> None:
        bare = [item.id for item in pictures if not item.has_mask]
        if bare:
            raise ValueError(f"pictures: expected all with masks, got {bare[0]!r} without; pass masks=True")
        self.pictures, self.transform, self.seed = pictures, transform, seed
        # In shared memory: workers that outlive an epoch see the new number too.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return len(self.pictures)

    def set_epoch(self, epoch: int) -> None:
        """Call it at the start of every epoch, also after resuming; otherwise all epochs are alike."""
        self._epoch.fill_(epoch)

    def __getitem__(self, index: int) -> PictureSample:
        """Raises ValueError for a damaged file, labels out of range, sizes that differ."""
        item = self.pictures[index]
        sample = sample_of(item.id, *item.tensors())
        if self.transform is None:
            return sample
        # One number from three without collisions that matter; torch hashes it into its generator's state.
        seed = (self.seed * 1_000_003 + int(self._epoch)) * 1_000_003 + index % len(self)
        return self.transform(sample, Generator().manual_seed(seed % 2**63))


def collate(samples: Sequence[PictureSample], multiple: int = 1) -> Batch:
    """Pictures of different sizes as one batch: each at the top left, padded to the largest height and width.

    Args:
        samples: at least one.
        multiple: height and width of the batch are rounded up to it.

    >>> small = sample_of("a", torch.zeros(3, 2, 5).byte(), torch.zeros(2, 5).byte())
    >>> batch = collate([small, sample_of("b", torch.zeros(3, 4, 3).byte(), torch.zeros(4, 3).byte())])
    >>> batch.image.shape, batch.mask.sum((1, 2)).tolist()
    (torch.Size([2, 3, 4, 5]), [10, 12])
    """
    if not samples:
        raise ValueError("samples: expected at least one, got none")
    if multiple < 1:
        raise ValueError(f"multiple: expected at least 1, got {multiple}")
    height, width = (-(-max(s.labels.shape[a] for s in samples) // multiple) * multiple for a in (0, 1))
    padded = [pad(sample, (height, width)) for sample in samples]
    return Batch(
        tuple(s.id for s in padded),
        torch.stack([s.image for s in padded]),
        torch.stack([s.labels for s in padded]),
        torch.stack([s.mask for s in padded]),
    )
