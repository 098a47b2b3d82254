# SPDX-License-Identifier: MIT
"""The unary of a picture from a file: what the numbers mean is said by the caller, never guessed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crfrnn.io.arrays import MAX_BYTES, read_array
from crfrnn.io.files import FileError, PathLike
from crfrnn.io.images import stored_form, upright
from crfrnn.io.palette import VOID
from crfrnn.io.scores import scores_to_logits
from crfrnn.io.scribbles import BLACK, FREE, read_label_map, read_scribbles

Kind = Literal["logits", "probabilities", "labels", "scribbles"]
KINDS: tuple[str, ...] = get_args(Kind)
BINARY = (1, 2)  # scores per pixel and the labels that they decide between, as a sigmoid has it
AXES = ("lhw", "lwh", "hwl", "whl", "hlw", "wlh")  # l = labels, h = rows, w = columns
LAYOUTS = (*AXES, "hw", "wh")  # without l: one score per pixel


@dataclass(frozen=True)
class Unary:
    """A unary as the CRF takes it, without the batch axis.

    Attributes:
        logits: Float32[L, H, W].
        clamp: Int64[H, W], the scribbled label or -1 where it is free; None for every kind but "scribbles".
    """

    logits: Tensor
    clamp: Tensor | None = None


def read_unary(
    path: PathLike,
    *,
    kind: Kind,
    axes: str | None = None,
    size: tuple[int, int] | None = None,
    picture: PathLike | None = None,
    num_labels: int | None = None,
    gt_prob: float = 0.7,
    unknown: int | None = None,
    unknown_colour: tuple[int, int, int] | None = BLACK,
    palette: NDArray[np.uint8] | None = None,
    key: str | None = None,
    max_bytes: int = MAX_BYTES,
) -> Unary:
    """Read the unary of one picture.

    Args:
        path: .npy, .npz, .pt or .pth; for labels and scribbles also .png.
        kind: "logits" (any real numbers, larger = likelier), "probabilities" (0..1, sum 1 over labels; the
            logits are ``log max(p, 1e-5)``), "labels" (see `unary_from_labels`) or "scribbles" (see
            `read_scribbles`). One score per pixel is a binary problem, see `crfrnn.io.scores`.
        axes: order of the axes of logits and probabilities, one of `LAYOUTS`, such as "lhw" (torch) or "hwl"
            (TensorFlow, images), or "hw" for one score per pixel; required there. A batch axis of 1 may
            stand in front.
        size: (height, width) of the picture, upright; the unary must have it.
        picture: its file, so that an error can say that the unary was made from pixels before EXIF turned
            them.
        num_labels: L; required for labels and scribbles, checked for the others.
        gt_prob: probability of the given label, for labels and scribbles.
        unknown, unknown_colour, palette: which pixels have no label, see `read_scribbles`.
        key: which entry of an .npz file or of a dict in a .pt file.
        max_bytes: what the array may take in memory; larger files are refused before anything is allocated.

    Raises:
        ValueError: an unusable file (missing, truncated, pickled, too large), another shape, dtype or size
            than said, NaN or infinity, numbers that are no probabilities, labels out of range.

    >>> import os, tempfile
    >>> name = os.path.join(tempfile.mkdtemp(), "p.npy")
    >>> np.save(name, np.full((4, 5, 2), 0.5, np.float32))
    >>> read_unary(name, kind="probabilities", axes="hwl", size=(4, 5)).logits.shape
    torch.Size([2, 4, 5])
    """
    if kind not in KINDS:
        raise ValueError(
            f"kind: expected one of {', '.join(map(repr, KINDS))}, got {kind!r}; say what it holds"
        )
    if kind in ("labels", "scribbles"):
        if num_labels is None:
            raise ValueError(
                f"num_labels: expected a number for kind={kind!r}, got None; a map may show only some"
            )
        if kind == "labels":
            labels = read_label_map(path, num_labels, unknown=unknown, key=key)
        else:
            labels = read_scribbles(
                path, num_labels, unknown=unknown, unknown_colour=unknown_colour, palette=palette, key=key
            )
        remedy = _turned(labels.shape, picture, "labels", 0, 1) or "save the labels at the picture's size"
        _check_size(labels.shape, size, path, remedy)
        known = torch.from_numpy(labels)
        logits = unary_from_labels(known, num_labels, gt_prob=gt_prob, unknown=FREE)
        return Unary(logits, known if kind == "scribbles" else None)
    if axes not in LAYOUTS:
        raise ValueError(
            f"axes: expected the order of the file's axes, one of {', '.join(map(repr, LAYOUTS))} "
            f"(l = labels, h = rows, w = columns), got {axes!r}; a file does not say it"
        )
    layout = _Layout(path, kind, axes, size, num_labels, picture)
    values = read_array(path, "unary", key=key, max_bytes=max_bytes, check=layout.check)
    return Unary(scores_to_logits(layout.arrange(values), kind, path=path))


def unary_from_labels(
    labels: Tensor, num_labels: int, *, gt_prob: float = 0.7, unknown: int = VOID
) -> Tensor:
    """Logits of a label map that is right with probability `gt_prob`.

    ``U(l) = log gt_prob`` for the given label, ``log((1 - gt_prob) / (L - 1))`` for every other, ``-log L``
    for all where the label is unknown: the negative of pydensecrf's ``unary_from_labels``.

    Args:
        labels: Int[\\*spatial] in 0..L-1 or `unknown`.
        num_labels: L ≥ 1.
        gt_prob: in (0, 1), exclusive: certainty itself is the CRF's ``clamp``.
        unknown: the value of pixels without a label.

    Returns:
        Float32[L, \\*spatial].

    >>> unary_from_labels(torch.tensor([[1, 255]]), 2, gt_prob=0.9).exp()[:, 0]
    tensor([[0.1000, 0.5000],
            [0.9000, 0.5000]])
    """
    if not 0 < gt_prob < 1:
        raise ValueError(f"gt_prob: expected a number in (0, 1), got {gt_prob}; for certainty use clamp")
    if num_labels < 1:
        raise ValueError(f"num_labels: expected at least 1, got {num_labels}")
    labels = labels.long()
    bad = ((labels < 0) | (labels >= num_labels)) & (labels != unknown)
    if bool(bad.any()):
        raise ValueError(
            f"labels: expected 0..{num_labels - 1} or {unknown}, got {int(labels[bad][0])}; check num_labels"
        )
    other = math.log((1 - gt_prob) / (num_labels - 1)) if num_labels > 1 else math.log(gt_prob)
    columns = torch.full((num_labels, num_labels + 1), other)  # the last column is an unknown pixel's
    columns.fill_diagonal_(math.log(gt_prob))
    columns[:, num_labels] = -math.log(num_labels)
    return columns[:, labels.masked_fill(labels == unknown, num_labels)]


@dataclass(frozen=True)
class _Layout:
    """The shape that was promised, checked on the header before any data is read."""

    path: PathLike
    kind: str
    axes: str
    size: tuple[int, int] | None
    num_labels: int | None
    picture: PathLike | None

    def check(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        if dtype.kind != "f":
            raise FileError(
                "unary", self.path, f"floating-point {self.kind}", f"dtype {dtype}",
                "convert to float32, or read a label map with kind='labels'",
            )  # fmt: skip
        named, count = ", ".join(self.axes.upper()), len(self.axes)
        if not (len(shape) == count or (len(shape) == count + 1 and shape[0] == 1)) or 0 in shape:
            one = "say axes='hw' for one score per pixel" if len(shape) == 2 else ""
            raise FileError(
                "unary", self.path, f"the axes [{named}] or [1, {named}], none empty", f"shape {shape}",
                one or "save one file for each picture",
            )  # fmt: skip
        sizes = {"l": 1, **dict(zip(self.axes, shape[-count:], strict=True))}
        if (
            self.num_labels is not None
            and sizes["l"] != self.num_labels
            and (sizes["l"], self.num_labels) != BINARY
        ):
            other = self._fitting(shape[-count:])
            raise FileError(
                "unary", self.path, f"{self.num_labels} labels",
                f"{sizes['l']} in shape {shape} read as [{named}]",
                other or "correct num_labels, or give the scores that belong to it",
            )  # fmt: skip
        found = (sizes["h"], sizes["w"])
        if self.size is None or found == tuple(self.size):
            return
        rows, columns = (self.axes.index(a) + len(shape) - count for a in "hw")
        remedy = (
            _turned(found, self.picture, "unary", rows, columns)
            or self._fitting(shape[-count:])
            or "resize the unary to the picture (bilinear, on logits), or give the picture it was made from"
        )
        _check_size(found, self.size, self.path, remedy, f" (shape {shape} read as [{named}])")

    def _fitting(self, given: tuple[int, ...]) -> str:
        """Which other order of the axes would fit, for a message; "" if none."""
        wanted = {"h": self.size[0], "w": self.size[1]} if self.size is not None else {}
        if self.num_labels is not None:
            wanted["l"] = self.num_labels
        fits = [
            axes
            for axes in LAYOUTS
            if len(axes) == len(given)
            and axes != self.axes
            and all(wanted.get(a, n) == n for a, n in zip(axes, given, strict=True))
        ]
        return f"{' or '.join(f'axes={a!r}' for a in fits)} would fit" if fits else ""

    def arrange(self, values: NDArray[Any]) -> Tensor:
        """Float32[L, H, W], contiguous."""
        axes = self.axes if "l" in self.axes else f"l{self.axes}"
        shape = values.shape[-3:] if axes == self.axes else (1, *values.shape[-2:])
        scores = values.reshape(shape).transpose([axes.index(a) for a in "lhw"])
        scores = np.array(scores, np.float32, order="C")  # a copy: labels of a .pt may share memory
        return torch.from_numpy(scores)


def _turned(found: tuple[int, ...], picture: PathLike | None, name: str, rows: int, columns: int) -> str:
    """What to do with an array made from pixels that EXIF turns for display; "" if that is not so."""
    if picture is None:
        return ""
    stored, orientation = stored_form(picture)
    if orientation == 1 or tuple(found) != stored:
        return ""
    return (
        f"the picture carries EXIF orientation {orientation}, and the unary has the size of the stored "
        f"pixels: rotate it, {upright(orientation, name, rows, columns)}, or save the picture upright and "
        "make the unary of that"
    )


def _check_size(
    found: tuple[int, ...], size: tuple[int, int] | None, path: PathLike, remedy: str, how: str = ""
) -> None:
    if size is not None and tuple(found) != tuple(size):
        raise FileError(
            "unary", path, f"{size[0]} rows × {size[1]} columns as the picture has",
            f"{found[0]} × {found[1]}{how}", remedy,
        )  # fmt: skip
