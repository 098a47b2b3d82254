# SPDX-License-Identifier: MIT
"""Argument checks of the interface: pydensecrf's error types, with messages that state the remedy."""

from __future__ import annotations

import math
import operator
import warnings
from enum import IntEnum
from numbers import Number
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Member = TypeVar("Member", bound=IntEnum)

# Replaces +inf, the -log of a probability of 0: finite in float32, and exp(-U) is exactly 0.
IMPOSSIBLE = 1e30
ASYMMETRY = 1e-6  # relative to the largest entry: asymmetry by rounding
_TO_USER = 4  # stack levels from a warning here to the line that called addPairwise…


class OutOfRange(ValueError, AssertionError):
    """A number outside a range that pydensecrf asserts."""


def describe(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape}"
    return f"{type(value).__name__} {value!r}"


def array(name: str, value: Any, dtype: type[np.generic], axes: int | tuple[int, ...]) -> NDArray[Any]:
    """A C-contiguous array with that dtype and number of axes, from any object with a buffer."""
    kind = np.dtype(dtype).name
    if not isinstance(value, np.ndarray):
        try:
            value = np.asarray(memoryview(value))
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"{name}: expected a NumPy array of {kind}, got {type(value).__name__}; "
                f"convert it with np.ascontiguousarray({name}, np.{kind})"
            ) from error
    allowed = (axes,) if isinstance(axes, int) else axes
    if value.ndim not in allowed:
        wanted = " or ".join(map(str, allowed))
        raise ValueError(f"{name}: expected an array with {wanted} axes, got {describe(value)}; reshape it")
    if value.dtype != dtype:
        raise ValueError(
            f"{name}: expected {kind}, got {describe(value)}; convert it with {name}.astype(np.{kind})"
        )
    if not value.flags.c_contiguous:
        raise ValueError(
            f"{name}: expected C-contiguous memory, got {describe(value)} with strides {value.strides}; "
            f"convert it with np.ascontiguousarray({name})"
        )
    return value


def float_array(name: str, value: Any, axes: int | tuple[int, ...]) -> NDArray[np.float32]:
    return array(name, value, np.float32, axes)


def integer(name: str, value: Any, least: int | None = None) -> int:
    """An integer as in C: floats are truncated."""
    try:
        real = isinstance(value, Number) and not isinstance(value, complex | np.complexfloating)
        number = int(value) if real else operator.index(value)  # pyright: ignore[reportArgumentType]
    except TypeError as error:
        raise TypeError(f"{name}: expected an integer, got {describe(value)}") from error
    if least is not None and number < least:
        raise ValueError(f"{name}: expected at least {least}, got {number}")
    return number


def member(name: str, value: Any, kind: type[Member]) -> Member:
    number = integer(name, value)
    try:
        return kind(number)
    except ValueError as error:
        options = ", ".join(f"{m.name} = {int(m)}" for m in kind)
        raise ValueError(f"{name}: expected one of {options}, got {value!r}") from error


def widths(name: str, value: Any, count: int, unit: str) -> list[float]:
    """One positive number for all, or one each; surplus ones are ignored."""
    if isinstance(value, Number):
        value = [value] * count
    try:
        given = len(value)
        numbers = [float(value[i]) for i in range(min(count, given))]
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{name}: expected a positive number or {count} of them, got {describe(value)}"
        ) from error
    if given < count:
        raise IndexError(f"{name}: expected a number or {count} of them, got {given}")
    if not all(math.isfinite(n) and n > 0 for n in numbers):
        raise ValueError(f"{name}: expected positive finite bandwidths in {unit}, got {numbers}")
    return numbers


def compatibility(compat: Any, labels: int) -> Tensor:
    """The cost of neighbouring labels: [] or [L] on the diagonal (a number w is the cost -w), or [L, L]."""
    if isinstance(compat, Number):
        try:
            number = float(compat)  # pyright: ignore[reportArgumentType]
        except TypeError as error:
            raise TypeError(f"compat: expected a real number, got {describe(compat)}") from error
        cost = torch.tensor(-number, dtype=torch.float32)
    else:
        values = float_array("compat", compat, (1, 2))
        if values.shape not in ((labels,), (labels, labels)):
            raise ValueError(
                f"compat: expected a number, ({labels},) or ({labels}, {labels}) for {labels} labels, "
                f"got {describe(values)}"
            )
        cost = torch.from_numpy(values.copy())
    if not bool(torch.isfinite(cost).all()):
        raise ValueError(f"compat: expected finite numbers, got {describe(compat)}")
    if cost.ndim < 2:
        return cost
    if float((cost - cost.T).abs().max()) > ASYMMETRY * float(cost.abs().max()):
        warnings.warn(
            "compat: an asymmetric matrix is replaced by (M + Mᵀ) / 2, as pydensecrf does silently; "
            "crfrnn.mean_field and crfrnn.CRFRNN use it unchanged",
            UserWarning,
            stacklevel=_TO_USER,
        )
    return 0.5 * (cost + cost.T)


def logits(energy: NDArray[np.float32], labels: int, pixels: int) -> Tensor:
    """Energies Float32[L, N] to logits [1, L, N], a copy; +inf becomes an equivalent finite energy."""
    if energy.shape != (labels, pixels):
        raise ValueError(
            f"u: expected unary energies of shape {(labels, pixels)}, got {describe(energy)}; "
            "reshape it to (labels, -1), rows are labels and columns pixels in row-major order"
        )
    source = energy if energy.flags.writeable else energy.copy()  # torch warns of read-only memory
    x = torch.from_numpy(source).neg()[None]
    if math.isfinite(float(x.sum())):
        return x
    bad = int((x.isnan() | (x == math.inf)).sum())
    if bad:
        raise ValueError(
            f"u: expected energies that are finite or +inf, got {bad} that are NaN or -inf; "
            "energies are -log of probabilities"
        )
    empty = int((x == -math.inf).all(1).sum())
    if empty:
        raise ValueError(
            f"u: expected a label of finite energy at every pixel, got {empty} pixels with +inf for all; "
            "limit the probabilities before the logarithm, for example np.clip(p, 1e-5, 1)"
        )
    return x.clamp_(min=-IMPOSSIBLE)
