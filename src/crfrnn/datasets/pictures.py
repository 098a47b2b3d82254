# SPDX-License-Identifier: MIT
"""Pictures with their label maps: the item and set types that all data sets are read into."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from crfrnn.io.files import FileError, PathLike, read_text
from crfrnn.io.images import read_image
from crfrnn.io.labels import check_labels, only_white, read_label_png
from crfrnn.io.palette import VOID
from crfrnn.io.problems import by_kind

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm")
MaskLoader = Callable[[], NDArray[np.uint8]]
T = TypeVar("T")
Progress = Callable[[int, int], None]  # (pictures done, total)
_SHOWN = 20
_THREADS = 4  # decoding releases the GIL; more than a few threads would only wait for the disk


@dataclass(frozen=True)
class LabelledPicture:
    """One picture and its truth, read from disk at every access of `image` or `mask`.

    Attributes:
        id: the name, the same for picture and mask.
        image_path, mask_path: their files; no mask path in a set without truths, or with truths made from
            annotations.
        num_labels: the upper limit for the labels of the mask, or None.
        mask_loader: returns the mask, UInt8[H, W], if it is not an indexed PNG.
        long_side: larger pictures are scaled down to it, bilinearly with antialiasing, and labels by the
            nearest pixel.
    """

    id: str
    image_path: Path
    mask_path: Path | None
    num_labels: int | None = None
    mask_loader: MaskLoader | None = field(default=None, repr=False)
    long_side: int | None = None

    @property
    def image(self) -> NDArray[np.uint8]:
        """The picture, UInt8[H, W, 3], read from disk at each call."""
        return _reduce(read_image(self.image_path), self.long_side, Image.Resampling.BILINEAR)

    @property
    def has_mask(self) -> bool:
        return self.mask_path is not None or self.mask_loader is not None

    @property
    def mask(self) -> NDArray[np.uint8]:
        """The labels, UInt8[H, W], 255 = void, read from disk or made at each call."""
        if self.mask_loader is not None:
            mask = self.mask_loader()
            check_labels(mask, self.num_labels, self.mask_path or self.id, "mask")
        elif self.mask_path is not None:
            mask = read_label_png(self.mask_path, self.num_labels, role="mask")
        else:
            raise ValueError(
                f"mask: expected a picture with a truth, got {self.id!r} without; pass masks=True"
            )
        return _reduce(mask, self.long_side, Image.Resampling.NEAREST)

    def tensors(self) -> tuple[Tensor, Tensor]:
        """Picture and mask as UInt8[3, H, W] and UInt8[H, W].

        Raises:
            ValueError: a file that cannot be read, labels out of range, or two sizes that differ.
        """
        image, mask = self.image, self.mask
        if mask.shape != image.shape[:2]:
            raise FileError(
                "mask", self.mask_path or self.id, f"{image.shape[:2]} as picture {self.id!r} has",
                f"{mask.shape}", "pair each picture with the mask that was drawn on it",
            )  # fmt: skip
        return torch.from_numpy(image).permute(2, 0, 1).contiguous(), torch.from_numpy(mask.copy())

    def problems(self) -> tuple[list[str], NDArray[np.bool_]]:
        """All problems of the files, found by decoding them fully, and the mask's values as Bool[256]."""
        said: list[str] = []
        sizes: list[tuple[int, ...]] = []
        held = np.zeros(256, np.bool_)
        for part in ("image", "mask") if self.has_mask else ("image",):
            try:
                pixels = getattr(self, part)
            except (ValueError, OSError, ImportError) as error:
                said.append(str(error))
                continue
            sizes.append(pixels.shape[:2])
            if part == "mask":
                held[np.unique(pixels)] = True
        if len(sizes) == 2 and sizes[0] != sizes[1]:
            said.append(f"{self.id!r}: picture {sizes[0]} and mask {sizes[1]} differ in size")
        return said, held


@dataclass(frozen=True)
class PictureSet:
    """Pictures in a fixed order: ``len``, index and iteration.

    The readers `voc_pictures`, `sbd_pictures`, `coco_pictures`, `context_pictures` and `folder_pictures`
    build it.

    Attributes:
        items: the pictures.
        class_names: a name per label, or empty.
    """

    items: tuple[LabelledPicture, ...]
    class_names: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, items: Sequence[LabelledPicture], where: PathLike, class_names: Sequence[str] = ()
    ) -> PictureSet:
        """A set of these items, after checking that all files exist.

        Raises:
            ValueError: no picture, duplicate ids, and all missing or empty files in one error.
        """
        _present(items, str(where))
        return cls(tuple(items), tuple(class_names))

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> LabelledPicture:
        return self.items[index]

    def __iter__(self) -> Iterator[LabelledPicture]:
        return iter(self.items)

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(item.id for item in self.items)

    def fingerprint(self) -> str:
        """16 digits that identify the set, from the ids in order and the pictures' sizes in bytes."""
        found = sha256()
        for item in self.items:
            with suppress(OSError):
                found.update(str(item.image_path.stat().st_size).encode())
            found.update(f" {item.id}\n".encode("utf-8", "surrogateescape"))
        return found.hexdigest()[:16]

    def some(self, limit: int | None) -> PictureSet:
        """At most `limit` pictures, spread evenly; None: all."""
        return self if limit is None or limit >= len(self) else self.select(spread(self.ids, limit))

    def select(self, ids: Iterable[str]) -> PictureSet:
        """The same set with only these pictures, in this order (a fold, a sample)."""
        by_id = {item.id: item for item in self.items}
        wanted = list(ids)
        missing = [i for i in wanted if i not in by_id]
        if missing:
            raise ValueError(f"ids: expected ids of this set of {len(self)}, got {some(missing)}; see .ids")
        return PictureSet(tuple(by_id[i] for i in wanted), self.class_names)

    def check(self, progress: Progress | None = None) -> list[str]:
        """Decode every file and list all problems, one per line.

        Problems are damaged and missing files, masks that differ in size from their picture, labels out of
        range, and, for the whole set, masks of only 0 and 255, since 255 means "unlabelled" and not "white".

        Args:
            progress: called after every picture with (done, total).
        """
        found: list[str] = []
        held = np.zeros(256, np.bool_)
        with ThreadPoolExecutor(_THREADS) as pool:
            for done, (problems, values) in enumerate(pool.map(LabelledPicture.problems, self.items), 1):
                found += problems
                held |= values
                if progress is not None:
                    progress(done, len(self))
        if not found and only_white(np.flatnonzero(held)):
            found.append(self._white)
        return found

    def ask_about_white(self) -> None:
        """Raise ValueError if all masks hold only 0 and 255; stops at the first other value.

        Masks that cannot be read are skipped: they are rejected when their pictures are read.
        """
        seen = np.zeros(0, np.int64)
        for item in self.items:
            with suppress(ValueError, OSError, ImportError):
                seen = np.union1d(seen, item.mask)
            if not np.isin(seen, (0, VOID)).all():
                return
        if only_white(seen):
            raise ValueError(self._white)

    @property
    def _white(self) -> str:
        return (
            f"masks: expected labels, got only 0 and {VOID} in all {len(self)}; {VOID} means unlabelled: "
            "save white as 1, or write '0: background' and '255: object' into labels.txt"
        )

    def verify(self, progress: Progress | None = None) -> None:
        """Raise one ValueError with all problems found by `check`, one line per kind."""
        problems = self.check(progress)
        if problems:
            lines = "\n  ".join(by_kind(problems))
            raise ValueError(
                f"pictures: expected {len(self)} valid ones, got {len(problems)} problems; "
                f"copy or correct these:\n  {lines}"
            )


def reduced(pictures: PictureSet, long_side: int) -> PictureSet:
    """The same set with every picture and truth scaled down to a longer side of at most `long_side` pixels.

    A network trained at 256 pixels must be evaluated at that size too.

    Raises: ValueError for a side below 8.
    """
    if long_side < 8:
        raise ValueError(f"long_side: expected at least 8 pixels, got {long_side}")
    return PictureSet(tuple(replace(item, long_side=long_side) for item in pictures), pictures.class_names)


def _reduce(values: NDArray[np.uint8], long_side: int | None, how: Image.Resampling) -> NDArray[np.uint8]:
    height, width = values.shape[:2]
    share = 1.0 if long_side is None else long_side / max(height, width)
    if share >= 1:
        return values
    size = max(1, round(width * share)), max(1, round(height * share))
    # A copy, because Pillow's arrays are read-only, which torch does not accept.
    return np.array(Image.fromarray(values).resize(size, how))


def read_ids(listing: PathLike, role: str = "split") -> list[str]:
    """The ids of a list file, one per line.

    Raises:
        ValueError: no such file, no text, or an id that leads out of the folder.
    """
    ids = read_text(listing, role).split()
    strange = [i for i in ids if "/" in i or "\\" in i or "\0" in i or i in (".", "..")]
    if strange:
        raise ValueError(
            f"{role}: expected plain ids in {listing}, got {strange[0]!r}; one per line, no folders"
        )
    return ids


def spread(items: Sequence[T], limit: int | None) -> Sequence[T]:
    """At most `limit` items, spread evenly over the sequence; None: all.

    >>> spread("abcdef", 3)
    ['a', 'c', 'e']
    """
    count = len(items) if limit is None else min(limit, len(items))
    return [items[i * len(items) // count] for i in range(count)]


def some(names: Sequence[str]) -> str:
    """The first few of many names."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _present(items: Sequence[LabelledPicture], where: str) -> None:
    if not items:
        raise ValueError(f"pictures: expected at least one, got none in {where}")
    seen: set[str] = set()
    twice = sorted({i.id for i in items if i.id in seen or seen.add(i.id)})
    if twice:
        raise ValueError(f"pictures: expected each id once in {where}, got twice: {some(twice)}; remove one")
    paths = [p for item in items for p in (item.image_path, item.mask_path) if p is not None]
    missing = [
        f"{'empty' if p.is_file() else 'no file'} {str(p)!r}"
        for p in paths
        if not p.is_file() or p.stat().st_size == 0
    ]
    if missing:
        lines = "\n  ".join(by_kind(missing))
        raise ValueError(
            f"pictures: expected {len(paths)} files for {where}, got {len(missing)} missing or empty; "
            f"copy them or remove their ids:\n  {lines}"
        )
