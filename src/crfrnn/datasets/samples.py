# SPDX-License-Identifier: MIT
"""Samples for training: a torch data set, joint augmentation of picture and labels, batches.

Augmentation (scale, flip, crop, colours) needs only torch and draws from a `torch.Generator`: the same seed
gives the same result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from torch.utils.data import Dataset

from crfrnn.datasets.pictures import PictureSet
from crfrnn.io.palette import VOID

MEAN_COLOUR = (123.68, 116.779, 103.939)  # ImageNet's mean, zero after its subtraction


class PictureSample(NamedTuple):
    """One picture for training.

    Attributes:
        id: its name.
        image: Float32[3, H, W], RGB, 0..255.
        labels: Int64[H, W], 255 = void.
        mask: Bool[H, W], False in the padding.
    """

    id: str
    image: Tensor
    labels: Tensor
    mask: Tensor


Transform = Callable[[PictureSample, Generator], PictureSample]


def sample_of(name: str, image: Tensor, labels: Tensor) -> PictureSample:
    """A sample from UInt8[3, H, W] and UInt8[H, W]; the values 0..255 are unchanged."""
    return PictureSample(
        name, image.to(torch.float32), labels.long(), torch.ones(labels.shape, dtype=torch.bool)
    )


def resize(sample: PictureSample, size: tuple[int, int]) -> PictureSample:
    """Resize to (height, width): bilinear and antialiased; labels and mask by the nearest pixel."""
    if min(size) < 1:
        raise ValueError(f"size: expected at least (1, 1), got {tuple(size)}")
    if tuple(sample.labels.shape) == tuple(size):
        return sample
    image = F.interpolate(sample.image[None], size, mode="bilinear", align_corners=False, antialias=True)[0]
    # The nearest pixel centre, aligned as in "bilinear"; integers need no interpolation.
    rows, columns = (
        ((torch.arange(new, dtype=torch.float64) + 0.5) * (old / new)).long().clamp(max=old - 1)
        for new, old in zip(size, sample.labels.shape, strict=True)
    )
    labels, mask = sample.labels[rows][:, columns], sample.mask[rows][:, columns]
    return PictureSample(sample.id, image.clamp(0, 255), labels, mask)


def random_scale(sample: PictureSample, low: float, high: float, generator: Generator) -> PictureSample:
    """Scale both sides by one log-uniform factor: half the size is as likely as twice."""
    if not 0 < low <= high < float("inf"):
        raise ValueError(f"scale: expected 0 < low <= high, got {low} and {high}")
    factor = low * (high / low) ** _uniform(generator)
    height, width = sample.labels.shape
    return resize(sample, (max(1, round(height * factor)), max(1, round(width * factor))))


def flip(sample: PictureSample) -> PictureSample:
    """Mirror left to right."""
    return PictureSample(sample.id, sample.image.flip(-1), sample.labels.flip(-1), sample.mask.flip(-1))


def random_flip(sample: PictureSample, probability: float, generator: Generator) -> PictureSample:
    """Flipped with this probability."""
    return flip(sample) if _uniform(generator) < probability else sample


def pad(sample: PictureSample, size: tuple[int, int], *, top: int = 0, left: int = 0) -> PictureSample:
    """Pad the sample to (height, width) with mean colour, void and mask False."""
    height, width = sample.labels.shape
    if (height, width) == tuple(size):
        return sample
    if not (0 <= top <= size[0] - height and 0 <= left <= size[1] - width):
        raise ValueError(
            f"size: expected room for {(height, width)} at row {top}, column {left}, got {tuple(size)}"
        )
    image = sample.image.new_tensor(MEAN_COLOUR)[:, None, None].repeat(1, *size)
    labels = sample.labels.new_full(size, VOID)
    mask = sample.mask.new_zeros(size)
    window = (slice(top, top + height), slice(left, left + width))
    image[:, window[0], window[1]], labels[window], mask[window] = sample.image, sample.labels, sample.mask
    return PictureSample(sample.id, image, labels, mask)


def random_crop(sample: PictureSample, size: tuple[int, int], generator: Generator) -> PictureSample:
    """A random window of (height, width); a smaller picture is padded at a random position."""
    if min(size) < 1:
        raise ValueError(f"crop: expected at least (1, 1), got {tuple(size)}")
    height, width = sample.labels.shape
    top = _integer(max(0, height - size[0]), generator)
    left = _integer(max(0, width - size[1]), generator)
    rows, columns = slice(top, top + size[0]), slice(left, left + size[1])
    part = PictureSample(
        sample.id, sample.image[:, rows, columns], sample.labels[rows, columns], sample.mask[rows, columns]
    )
    room = (size[0] - part.labels.shape[0], size[1] - part.labels.shape[1])
    return pad(part, size, top=_integer(room[0], generator), left=_integer(room[1], generator))


def colour_jitter(
    sample: PictureSample, brightness: float, contrast: float, saturation: float, generator: Generator
) -> PictureSample:
    """Multiply brightness, contrast and saturation by factors drawn from 1 ± the given number.

    The values stay in 0..255. Labels, mask and padding are unchanged.
    """
    for name, number in (("brightness", brightness), ("contrast", contrast), ("saturation", saturation)):
        if not 0 <= number <= 1:
            raise ValueError(f"{name}: expected 0..1, got {number}; 0.2 means factors from 0.8 to 1.2")
    bright, contrasted, saturated = (
        1 + amount * (2 * _uniform(generator) - 1) for amount in (brightness, contrast, saturation)
    )
    image = sample.image * bright
    grey = (image * image.new_tensor((0.299, 0.587, 0.114))[:, None, None]).sum(0)  # luma, ITU-R BT.601
    middle = grey[sample.mask].mean() if sample.mask.any() else grey.new_zeros(())
    image = (grey + saturated * (image - grey) - middle) * contrasted + middle
    return sample._replace(image=torch.where(sample.mask, image.clamp(0, 255), sample.image))


@dataclass(frozen=True)
class RandomTransform:
    """The usual augmentations in the usual order: scale, flip, crop, colours. Each is off by default.

    Attributes:
        scale: (low, high) factors of both sides.
        flip: probability.
        crop: (height, width), or None for the whole picture.
        brightness, contrast, saturation: see `colour_jitter`.

    >>> change = RandomTransform(scale=(0.5, 2.0), flip=0.5, crop=(8, 6))
    >>> sample = sample_of("a", torch.zeros(3, 5, 9, dtype=torch.uint8), torch.ones(5, 9, dtype=torch.uint8))
    >>> change(sample, Generator().manual_seed(0)).labels.shape
    torch.Size([8, 6])
    """

    scale: tuple[float, float] = (1.0, 1.0)
    flip: float = 0.0
    crop: tuple[int, int] | None = None
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.flip <= 1:
            raise ValueError(f"flip: expected a probability 0..1, got {self.flip}")
        if not 0 < self.scale[0] <= self.scale[1] < float("inf"):
            raise ValueError(f"scale: expected 0 < low <= high, got {self.scale}")

    def __call__(self, sample: PictureSample, generator: Generator) -> PictureSample:
        if self.scale != (1.0, 1.0):
            sample = random_scale(sample, *self.scale, generator)
        sample = random_flip(sample, self.flip, generator)
        if self.crop is not None:
            sample = random_crop(sample, self.crop, generator)
        if not (self.brightness or self.contrast or self.saturation):
            return sample
        return colour_jitter(sample, self.brightness, self.contrast, self.saturation, generator)


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
    """Pictures with truths as samples for training, augmented differently in every epoch.

    The augmentation of a picture depends only on (seed, epoch, index): not on the number of workers, the
    order, or the point at which a run was interrupted.

    Args:
        pictures: with masks.
        transform: called with a sample and a generator, e.g. `RandomTransform`; None changes nothing.
        seed: seed of the augmentation.

    Raises:
        ValueError: a picture without a truth.
    """

    def __init__(self, pictures: PictureSet, transform: Transform | None = None, *, seed: int = 0) -> None:
        bare = [item.id for item in pictures if not item.has_mask]
        if bare:
            raise ValueError(f"pictures: expected all with masks, got {bare[0]!r} without; pass masks=True")
        self.pictures, self.transform, self.seed = pictures, transform, seed
        # In shared memory, so that persistent workers see the new number.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return len(self.pictures)

    def set_epoch(self, epoch: int) -> None:
        """Call at the start of every epoch, also after resuming; otherwise all epochs are identical."""
        self._epoch.fill_(epoch)

    def __getitem__(self, index: int) -> PictureSample:
        """Raises ValueError for a damaged file, labels out of range, sizes that differ."""
        item = self.pictures[index]
        sample = sample_of(item.id, *item.tensors())
        if self.transform is None:
            return sample
        # One number from three, with negligible collisions; torch hashes it into its generator's state.
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


def _uniform(generator: Generator) -> float:
    return float(torch.rand((), generator=generator))


def _integer(largest: int, generator: Generator) -> int:
    return int(torch.randint(largest + 1, (), generator=generator))
