# SPDX-License-Identifier: MIT
"""Class activation maps: one map for each class that a picture is known to contain, and their files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crfrnn.io.arrays import read_arrays
from crfrnn.io.files import FileError, PathLike, existing

MAPS = ("high_res", "attn_highres", "scores")  # names of the full-size maps in IRN, CLIP-ES and here
_SLACK = 1e-3  # tolerance at 0 and 1 for the rounding of float16 and of resizing
_WRITE = "numpy.savez(name, keys=keys, high_res=maps)"


@dataclass(frozen=True)
class Cams:
    """The maps of one picture.

    Attributes:
        scores: Float32[K, H, W] in 0..1, one map per class in the picture; K may be 0.
        labels: Int64[K], the label of each map, 1 or larger: 0 is background, which has no map.
    """

    scores: Tensor
    labels: NDArray[np.int64]

    def __post_init__(self) -> None:
        scores, labels = self.scores, np.asarray(self.labels)
        if not isinstance(scores, Tensor) or scores.ndim != 3 or not scores.is_floating_point():
            got = (
                f"{scores.dtype} {tuple(scores.shape)}"
                if isinstance(scores, Tensor)
                else type(scores).__name__
            )
            raise ValueError(f"scores: expected a floating-point tensor [K, H, W], got {got}")
        if labels.shape != (len(scores),) or labels.dtype.kind not in "iu":
            raise ValueError(
                f"labels: expected {len(scores)} integers, one per map, got {labels.dtype} {labels.shape}"
            )
        if len(set(labels.tolist())) != len(labels) or (labels < 1).any() or (labels > 254).any():
            raise ValueError(
                "labels: expected different labels in 1..254 (0 is background, 255 void), "
                f"got {labels.tolist()}"
            )
        if scores.numel():
            low, high = (float(v) for v in torch.aminmax(scores.float()))
            if not (low >= -_SLACK and high <= 1 + _SLACK):  # NaN too
                raise ValueError(
                    f"scores: expected finite values in 0..1, got {low:.4g}..{high:.4g}; "
                    "divide each map by its maximum after negative values were set to 0"
                )
        object.__setattr__(self, "scores", scores.float().clamp(0, 1))
        object.__setattr__(self, "labels", labels.astype(np.int64))


def read_cams(path: PathLike, *, size: tuple[int, int] | None = None, key: str | None = None) -> Cams:
    """Read the maps of one picture from an .npz; pickles are never loaded.

    Two forms are read. In both, class numbers exclude the background, so label = number + 1:

    - `keys` Int[K] and the maps Float[K, H, W] as `high_res`, `attn_highres` or `scores` (or the name given
      as `key`): the entries of IRN's and CLIP-ES's dictionaries;
    - an entry Float[H, W] for each class, named by its number: AffinityNet's and SEAM's dictionaries.

    The ``.npy`` files that these projects write are pickled dictionaries. Loading a pickle can run any code,
    so they are refused; docs/weak-supervision.md shows how to write or convert them.

    Args:
        path: the .npz file.
        size: (height, width) of the picture; the maps must have this size.
        key: the entry that holds the maps.

    Raises:
        ValueError: an unusable file, entries missing, values outside 0..1, another size.

    >>> import os, tempfile
    >>> name = os.path.join(tempfile.mkdtemp(), "cat.npz")
    >>> np.savez(name, keys=np.array([7]), high_res=np.full((1, 4, 5), 0.5, np.float32))
    >>> read_cams(name).labels
    array([8])
    """
    found = existing(path, "cams")
    if found.suffix.lower() != ".npz":
        pickled = found.suffix.lower() == ".npy" and b"|O" in _start(found)
        got = "a pickled dictionary, which can run code when it is loaded" if pickled else repr(found.suffix)
        raise FileError(
            "cams", path, "an .npz with keys and maps", got,
            f"write it as {_WRITE} (docs/weak-supervision.md shows how to convert files that you trust)",
        )  # fmt: skip
    arrays = read_arrays(found, "cams")
    scores, keys = _named(arrays, key, path) if "keys" in arrays or key else _numbered(arrays, path)
    if scores.dtype.kind != "f" or scores.ndim != 3:
        raise FileError(
            "cams", path, "floating-point maps [K, H, W]", f"{scores.dtype} {scores.shape}", _WRITE
        )
    if size is not None and tuple(scores.shape[1:]) != tuple(size):
        raise FileError(
            "cams", path, f"{size[0]} rows × {size[1]} columns as the picture has",
            f"{scores.shape[1]} × {scores.shape[2]}", "resize the maps to the picture, then normalise them",
        )  # fmt: skip
    try:
        return Cams(torch.from_numpy(scores.astype(np.float32)), keys + 1)
    except ValueError as error:
        raise ValueError(f"cams {str(path)!r}: {error}") from None


def _named(arrays: dict[str, NDArray[Any]], key: str | None, path: PathLike) -> tuple[Any, Any]:
    names = (key,) if key else MAPS
    found = [name for name in names if name in arrays]
    if len(found) != 1 or "keys" not in arrays:
        raise FileError(
            "cams", path, f"keys and one of {', '.join(names)}",
            f"the entries {', '.join(arrays) or '(none)'}", "name the maps with key=",
        )  # fmt: skip
    keys = arrays["keys"]
    if keys.dtype.kind not in "iu" or keys.ndim != 1:
        raise FileError("cams", path, "integer keys [K]", f"{keys.dtype} {keys.shape}", _WRITE)
    return arrays[found[0]], keys.astype(np.int64)


def _numbered(arrays: dict[str, NDArray[Any]], path: PathLike) -> tuple[Any, Any]:
    shapes = {a.shape for a in arrays.values()}
    if (
        not arrays
        or not all(n.isdecimal() for n in arrays)
        or len(shapes) != 1
        or len(next(iter(shapes))) != 2
    ):
        shown = ", ".join(f"{n} {a.shape}" for n, a in list(arrays.items())[:6]) or "(none)"
        raise FileError(
            "cams", path, "keys and maps, or maps [H, W] called by their class numbers", shown, _WRITE
        )
    return np.stack(list(arrays.values())), np.array([int(n) for n in arrays])


def _start(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(128)
