# SPDX-License-Identifier: MIT
"""Checks of an array's header: the type of its numbers, and axes that fit a picture or a volume."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crfrnn.io.arrays import MAX_BYTES, read_array
from crfrnn.io.files import FileError, PathLike, refusal
from crfrnn.lattice.validate import warn

# The remedy for a wrong number of labels, whether it comes from the caller or from a parameter file.
OTHER_LABELS = "correct num_labels, or give the scores, or the parameters, that belong to it"
MAP = ("hw", "wh")  # h = rows, w = columns
PICTURE = ("lhw", "lwh", "hwl", "whl", "hlw", "wlh")  # l = labels
VOLUME_MAP = ("xyz", "zyx")  # x, y, z is nibabel's order; z, y, x is SimpleITK's
VOLUME = ("lxyz", "lzyx", "xyzl", "zyxl")
BINARY = (1, 2)  # one score per pixel stands for two labels, as with a sigmoid


@dataclass(frozen=True)
class Axes:
    """The order of the axes of one file, determined from its header before any data is read.

    Leading batch axes of size 1 are allowed.

    Attributes:
        path, role: the file, and what the caller uses it for.
        known: the permitted orders; `read` converts each of them to the first.
        said: the order that the caller states; None: taken from the shape, if only one order fits.
        sizes: sizes of the spatial axes, by their letters; empty: unknown.
        place: the sizes in words, such as "9 rows × 7 columns as the picture has".
        num_labels: size of the axis l, if known; one score per pixel stands for two labels.
        documented: the order to assume, with a warning, if several fit.
        remedy: the remedy for wrong sizes.
        turned: function from the shape and the stated order to a better remedy, or to "".
    """

    path: PathLike
    role: str
    known: tuple[str, ...]
    said: str | None = None
    sizes: Mapping[str, int] = field(default_factory=dict)
    place: str = ""
    num_labels: int | None = None
    documented: str | None = None
    remedy: str = "save it at the size of the picture"
    turned: Callable[[tuple[int, ...], str], str] = lambda shape, order: ""

    def order(self, shape: tuple[int, ...]) -> str:
        """The order of the axes of an array of this shape; FileError if none fits, or several do."""
        most = len(self.said or max(self.known, key=len))
        bare = shape
        while len(bare) > most and bare[0] == 1:
            bare = bare[1:]
        if 0 in shape or len(bare) > most or (self.said and len(bare) != most):
            raise self._refused_axes(shape)
        fits = [order for order in self.known if self._fits(order, bare)]
        if self.said is not None:
            if self.said not in fits:
                raise self._refused_sizes(shape, bare, fits)
            return self.said
        if len(fits) == 1:
            return fits[0]
        if not fits:
            labels = " and an axis of labels" if any("l" in order for order in self.known) else ""
            raise FileError(self.role, self.path, f"{self.place}{labels}", f"shape {shape}", self.remedy)
        if self.documented in fits:
            warn(
                f"{self.role} {str(self.path)!r}: {shape} fits in more than one order; read as "
                f"{_named(self.documented)}, as nnU-Net writes it; if another program wrote it, say "
                f"axes={next(order for order in fits if order != self.documented)!r}"
            )
            return self.documented
        raise FileError(
            self.role, self.path, f"an order of the axes, since {shape} fits in {len(fits)}", "none",
            f"pass {_options(fits)}: x, y, z is nibabel's order, z, y, x SimpleITK's",
        )  # fmt: skip

    def read(self, kind: str, key: str | None = None, max_bytes: int = MAX_BYTES) -> NDArray[Any]:
        """The file's array of logits, probabilities or labels, [L, *space] in the first of the known orders.

        L = 1 where the array has no axis l. See `read_array` for `key` and `max_bytes`.
        """

        found: list[str] = []

        def check(shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
            check_type(dtype, kind, self.role, self.path)
            found.append(self.order(shape))

        values = read_array(self.path, self.role, key=key, max_bytes=max_bytes, check=check)
        (order,) = found
        values = values.reshape(values.shape[-len(order) :])
        if "l" not in order:
            values, order = values[None], f"l{order}"
        return values.transpose([order.index(a) for a in f"l{self.known[0].replace('l', '')}"])

    def _fits(self, order: str, shape: tuple[int, ...]) -> bool:
        found = dict(zip(order, shape, strict=False))
        space = all(self.sizes.get(axis, size) == size for axis, size in found.items() if axis != "l")
        return len(order) == len(shape) and space and self._fits_labels(found.get("l", 1))

    def _fits_labels(self, labels: int) -> bool:
        return self.num_labels in (None, labels) or (labels, self.num_labels) == BINARY

    def _refused_axes(self, shape: tuple[int, ...]) -> FileError:
        order = self.said or max(self.known, key=len)
        named = _named(order)
        remedy = "save one file for each picture"
        if "l" not in order and len(shape) > len(order):
            remedy += "; for scores pass kind='logits' or kind='probabilities'"
        elif "l" in order and len(shape) == len(order) - 1:
            remedy = f"pass axes={order.replace('l', '')!r} for one score per pixel"
        return FileError(
            self.role, self.path, f"the axes {named} or [1, {named[1:]}, none empty", f"shape {shape}", remedy
        )

    def _refused_sizes(self, shape: tuple[int, ...], bare: tuple[int, ...], fits: list[str]) -> FileError:
        assert self.said is not None
        labels = dict(zip(self.said, bare, strict=True)).get("l", 1)
        got = f"shape {shape} read as {_named(self.said)}"
        would = f"{_options(fits)} would fit" if fits else ""
        if not self._fits_labels(labels):
            return FileError(
                self.role, self.path, f"{self.num_labels} labels", f"{labels} in {got}",
                would or OTHER_LABELS,
            )  # fmt: skip
        remedy = self.turned(shape, self.said) or would or self.remedy
        return FileError(self.role, self.path, self.place, got, remedy)


def check_type(dtype: np.dtype[Any], kind: str, role: str, path: PathLike | None = None) -> None:
    """ValueError unless this type of number is possible for `kind`."""
    if dtype.kind not in ("iufb" if kind == "labels" else "f"):
        raise refusal(
            role, path, f"floating-point {kind}" if kind != "labels" else "whole numbers", f"dtype {dtype}",
            "convert to float32 (bytes: values / 255), or for a label map pass kind='labels'",
        )  # fmt: skip


def check_axes(axes: str | None, known: tuple[str, ...]) -> None:
    """ValueError unless it is one of the permitted orders."""
    if axes not in known:
        raise ValueError(
            f"axes: expected the order of the file's axes, one of {', '.join(map(repr, known))} "
            f"(l = labels, {'x, y, z = voxels' if 'x' in known[0] else 'h = rows, w = columns'}), "
            f"got {axes!r}; a file does not state it"
        )


def _named(order: str) -> str:
    return f"[{', '.join(order.upper())}]"


def _options(orders: list[str]) -> str:
    return " or ".join(f"axes={order!r}" for order in orders)
