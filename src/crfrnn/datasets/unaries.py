# SPDX-License-Identifier: MIT
"""Sources of unaries, and pictures with unaries as the training data of a CRF."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from crfrnn.datasets.pictures import PictureSet
from crfrnn.datasets.splits import held_fold
from crfrnn.io import FileError, read_unary
from crfrnn.io.arrays import read_arrays
from crfrnn.io.files import PathLike
from crfrnn.io.labels import check_labels

CACHE_BYTES = 2**31
CANVAS = 513  # DeepLab's input, with the picture in its top left corner at native size
_REMEDY = "the file should hold scale, zero_point and one grid per picture"
UNARY_ENDINGS = (".npy", ".npz", ".pt", ".pth", ".png")

T = TypeVar("T")
UnarySource = Callable[[str, tuple[int, int]], Tensor]  # (id, (height, width)) -> Float32[L, H, W]


class Sample(NamedTuple):
    """One picture: id, image UInt8[3, H, W], unary Float32[L, H, W], truth Int64[H, W] (255 = void)."""

    id: str
    image: Tensor
    unary: Tensor
    truth: Tensor


def file_of(folder: Path, name: str, role: str = "unary") -> Path:
    """The only file in a folder for the picture of this name.

    Raises: ValueError if there is none, or more than one.
    """
    found = [p for p in (folder / f"{name}{ending}" for ending in UNARY_ENDINGS) if p.is_file()]
    if len(found) != 1:
        got = " and ".join(p.name for p in found) or "none"
        raise FileError(
            role, folder, f"one file for {name!r} ({', '.join(UNARY_ENDINGS)})", got,
            "name the files like the pictures",
        )  # fmt: skip
    return found[0]


@dataclass(frozen=True)
class FolderUnaries:
    """The unaries of a folder, ``<folder>/<id>.npy`` or another format, read by `crfrnn.io.read_unary`.

    Args:
        folder: their folder.
        options: arguments of `read_unary` (kind, axes, num_labels, gt_prob, key).
    """

    folder: Path
    options: dict[str, Any]

    def find(self, name: str) -> Path:
        """The file of a picture; ValueError if there is none, or more than one."""
        return file_of(self.folder, name)

    def __call__(self, name: str, size: tuple[int, int]) -> Tensor:
        return read_unary(self.find(name), size=size, **self.options).logits


@dataclass(frozen=True)
class DeepLabUnaries:
    """The logits of many pictures, stored as quantised grids (23 kB per picture); see `load`.

    ``logit = scale · (q - zero_point)`` on a grid that spans the 513 × 513 canvas with aligned corners: pixel
    (y, x) of the picture lies at (y, x) · (grid - 1) / 512, and between grid points the logits are bilinear.

    Attributes:
        grids: UInt8[grid, grid, L] by the picture's id.
        scale, zero_point: parameters of the quantisation.
    """

    grids: dict[str, NDArray[np.uint8]] = field(repr=False)
    scale: float
    zero_point: float

    @classmethod
    def load(cls, path: PathLike) -> DeepLabUnaries:
        """Read an .npz with ``scale``, ``zero_point`` and a UInt8[grid, grid, L] per picture, under its id.

        Raises:
            ValueError: no such file, damaged, entries missing or malformed.
        """
        arrays = read_arrays(path, "unaries")
        numbers = []
        for name in ("scale", "zero_point"):
            value = arrays.pop(name, np.empty(0))
            if value.size != 1 or not np.isfinite(value).all():
                raise FileError("unaries", path, f"a finite number {name!r}", f"shape {value.shape}", _REMEDY)
            numbers.append(float(value.reshape(())))
        forms = sorted({f"{a.dtype} {a.shape}" for a in arrays.values()})
        first = next(iter(arrays.values()), np.empty(0))
        if len(forms) != 1 or first.dtype != np.uint8 or first.ndim != 3 or 0 in first.shape:
            expected = "uint8 [grid, grid, L], the same for every id"
            raise FileError("unaries", path, expected, ", ".join(forms) or "no entry", _REMEDY)
        return cls(arrays, *numbers)

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(self.grids)

    def __len__(self) -> int:
        return len(self.grids)

    def logits(self, name: str, size: tuple[int, int]) -> Tensor:
        """The logits of one picture at its size (height, width), each at most 513: Float32[L, H, W]."""
        if name not in self.grids:
            raise ValueError(f"name: expected one of {len(self)} ids, got {name!r}; see .ids")
        height, width = size
        if not (1 <= height <= CANVAS and 1 <= width <= CANVAS):
            raise ValueError(
                f"size: expected (height, width) in 1..{CANVAS} each, got {tuple(size)}; "
                "these logits are for pictures that fit the canvas unscaled"
            )
        grid = torch.from_numpy(self.grids[name]).permute(2, 0, 1).to(torch.float32)
        # Bilinear interpolation is a hat function along each axis: two small matrix products are four times
        # as fast as interpolating the whole canvas and cropping. Integers in sixteenths are exact in float32
        # for any order of summation, so labels that tie on the grid also tie here, on every machine.
        quantised = _hat(height, grid.shape[1]) @ (grid @ _hat(width, grid.shape[2]).T)
        return quantised.sub_(self.zero_point).mul_(self.scale)

    __call__ = logits  # to be a `UnarySource`


def _hat(pixels: int, points: int) -> Tensor:
    place = torch.arange(pixels, dtype=torch.float32) * ((points - 1) / (CANVAS - 1))
    return (1 - (place[:, None] - torch.arange(points)).abs()).clamp(min=0)


@dataclass(frozen=True)
class ReducedUnaries:
    """Unaries at the pictures' original size, scaled down with the pictures.

    Call it with an id and a size: Float32[L, H, W]. Scaled bilinearly with antialiasing, as the pictures.

    Args:
        source: (id, (height, width)) -> Float32[L, height, width], at the picture's original size.
        pictures: at their original size.
    """

    source: UnarySource
    pictures: PictureSet

    def __call__(self, name: str, size: tuple[int, int]) -> Tensor:
        (item,) = self.pictures.select([name])
        height, width = item.image.shape[:2]
        logits = self.source(name, (height, width))
        if (height, width) == tuple(size):
            return logits
        return torch.nn.functional.interpolate(logits[None], size, mode="bilinear", antialias=True)[0]


@dataclass
class _Cache:
    """The cache, shared by all selections of one data set."""

    room: int
    pictures: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    unaries: dict[str, Tensor] = field(default_factory=dict)
    derived: dict[Hashable, Any] = field(default_factory=dict)

    def fits(self, *tensors: Tensor) -> bool:
        size = sum(t.numel() * t.element_size() for t in tensors)
        if size > self.room:
            return False
        self.room -= size
        return True


class UnaryDataset(Dataset[Sample]):
    """Pictures with truths and unaries, by index; up to `cache_bytes` of them are cached in memory.

    Args:
        pictures: with masks.
        unaries: the source of the unaries: `FolderUnaries`, `DeepLabUnaries`, or any function of an id and a
            size.
        num_labels: L, checked against unary and mask.
        cache_bytes: total for pictures, masks and unaries; the rest is read again each time.
    """

    def __init__(
        self,
        pictures: PictureSet,
        unaries: UnarySource,
        num_labels: int,
        *,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self.pictures, self.num_labels = pictures, num_labels
        # DeepLab's grids are already in memory and grow a hundredfold at full size, so do not cache them.
        self._keep_unaries = not isinstance(unaries, DeepLabUnaries)
        self._unaries = unaries
        self._cache = _Cache(cache_bytes)

    @property
    def ids(self) -> tuple[str, ...]:
        return self.pictures.ids

    @property
    def unaries(self) -> UnarySource:
        """The source of the unaries."""
        return self._unaries

    def __len__(self) -> int:
        return len(self.pictures)

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Sample:
        """Raises ValueError for a damaged file, or sizes and label counts that do not fit."""
        name = self.pictures[index].id
        image, truth = self._picture(index, name)
        return Sample(name, image, self._unary(name, truth), truth)

    def without_unary(self, index: int) -> Sample:
        """The picture and its truth with an empty unary."""
        name = self.pictures[index].id
        image, truth = self._picture(index, name)
        return Sample(name, image, torch.empty(0), truth)

    def truth(self, index: int) -> Tensor:
        """Only the mask of one picture: Int64[H, W]."""
        return self._picture(index, self.pictures[index].id)[1]

    def kept(self, key: Hashable, make: Callable[[], T]) -> T:
        """The result of `make`, computed once per key for all selections of this data set.

        For expensive results that depend only on a truth, such as distances to a border.
        """
        if key not in self._cache.derived:
            self._cache.derived[key] = make()
        return self._cache.derived[key]

    def digest(self) -> str:
        """16 digits that identify the data set, from the ids and from three samples spread over it."""
        found = sha256("\n".join(self.ids).encode("utf-8", "surrogateescape"))
        for index in sorted({0, len(self) // 2, len(self) - 1}):
            sample = self[index]
            for part in (sample.image, sample.truth, sample.unary):
                found.update(part.numpy().tobytes())
        return found.hexdigest()[:16]

    def select(self, ids: Iterable[str]) -> UnaryDataset:
        """The same data with only these pictures, in this order; it shares the cache."""
        part = object.__new__(UnaryDataset)
        part.__dict__.update(self.__dict__)
        part.pictures = self.pictures.select(ids)
        return part

    def hold_out(self, share: float, seed: int = 0) -> tuple[UnaryDataset, UnaryDataset]:
        """The data without a fold of about this share, and that fold; see `held_fold`."""
        held = held_fold(self.ids, share, seed)
        return self.select(i for i in self.ids if i not in held), self.select(
            i for i in self.ids if i in held
        )

    def _picture(self, index: int, name: str) -> tuple[Tensor, Tensor]:
        if name not in self._cache.pictures:
            item = self.pictures[index]
            image, mask = item.tensors()
            check_labels(mask.numpy(), self.num_labels, item.mask_path or name, "mask")
            if not self._cache.fits(image, mask):
                return image, mask.long()
            self._cache.pictures[name] = image, mask
        image, mask = self._cache.pictures[name]
        return image, mask.long()

    def _unary(self, name: str, truth: Tensor) -> Tensor:
        if name in self._cache.unaries:
            return self._cache.unaries[name]
        unary = self._unaries(name, (truth.shape[0], truth.shape[1]))
        if tuple(unary.shape) != (self.num_labels, *truth.shape):
            raise ValueError(
                f"unary: expected {(self.num_labels, *truth.shape)} for {name!r}, got {tuple(unary.shape)}; "
                "check the number of labels and the order of the axes"
            )
        if self._keep_unaries and self._cache.fits(unary):
            self._cache.unaries[name] = unary
        return unary
