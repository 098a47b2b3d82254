# SPDX-License-Identifier: MIT
"""Validation of arguments. Every error names the argument, what was expected, what was given and the remedy.

Shapes, dtypes and devices are always checked; values (NaN, infinity, label range) only if they can be read,
that is, not while ``torch.compile`` or ``torch.func`` trace with placeholder tensors.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from crfrnn.lattice.validate import check_dense, fit_for_a_bandwidth, readable, warn
from crfrnn.lattice.validate import describe as describe
from crfrnn.lattice.validate import transformed as transformed

FREE = -1  # a pixel of `clamp` whose label is not known
FINITE_UNARY = (
    "for a known label pass clamp= (the label per pixel, -1 where free) instead of an infinite unary, "
    "or limit the logits with unary.clamp(-50, 50); for NaN look at the network's output"
)
FINITE_WEIGHT = "training that gives NaN needs a smaller learning rate"


def check_tensor(name: str, value: Any, expected: str) -> Tensor:
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{name}: expected {expected}, got {type(value).__name__}; convert it with torch.as_tensor(...)"
        )
    check_dense(name, value)
    return value


def check_finite(name: str, value: Tensor, remedy: str, mask: Tensor | None = None) -> None:
    """Reject NaN and infinity; `mask` (broadcastable to `value`) excludes pixels from the check."""
    # One pass without a temporary in the usual case: if the sum is finite, so is every term.
    if not readable(value) or value.numel() == 0 or math.isfinite(float(value.detach().sum())):
        return
    bad = ~torch.isfinite(value.detach())
    if mask is not None:
        bad &= mask
    count = int(bad.sum())
    if count:
        kind = "infinite or NaN" if bool(torch.isnan(value.detach()[bad]).any()) else "infinite"
        raise ValueError(f"{name}: expected finite values, got {count} {kind}; {remedy}")


def check_unary(unary: Any, name: str = "unary") -> Tensor:
    """Float[B, L, *spatial] with at least one label and one pixel."""
    unary = check_tensor(name, unary, "a floating-point tensor [B, L, *spatial] of logits")
    if not unary.is_floating_point():
        raise TypeError(
            f"{name}: expected floating-point logits, got {describe(unary)}; "
            f"convert with {name}.float(), or make logits of a label map first"
        )
    if unary.ndim < 3:
        raise ValueError(
            f"{name}: expected [B, L, *spatial] with at least 3 axes, got {describe(unary)}; "
            f"add the missing batch axis with {name}.unsqueeze(0)"
        )
    if unary.shape[1] < 1:
        raise ValueError(f"{name}: expected at least one label on axis 1, got {describe(unary)}")
    if 0 in unary.shape[2:]:
        raise ValueError(
            f"{name}: expected at least one pixel, got {describe(unary)}; "
            "leave empty pictures out of the batch"
        )
    return unary


def warn_of_one_label(unary: Tensor) -> None:
    """Warn about a single label: its marginal is always 1, rarely the intent of a one-channel network."""
    if unary.shape[1] == 1 and not torch.compiler.is_compiling():
        warn(
            f"unary: expected two labels or more, got {describe(unary)}, whose only marginal is 1 "
            "everywhere; for a single logit z per pixel use CRFRNN(1), or pass two labels, "
            "torch.cat([torch.zeros_like(unary), unary], 1)"
        )


def _check_grid(name: str, value: Tensor, unary: Tensor) -> None:
    expected = (unary.shape[0], *unary.shape[2:])
    if tuple(value.shape) != expected:
        raise ValueError(
            f"{name}: expected [B, *spatial] = {expected} as unary has it, got {describe(value)}; "
            "one entry per pixel and picture, without a label axis"
        )
    check_device(name, value, unary)


def check_device(name: str, value: Tensor, unary: Tensor) -> None:
    if value.device != unary.device:
        raise ValueError(
            f"{name}: expected a tensor on {unary.device} as unary is, got one on {value.device}; "
            f"move it with .to({str(unary.device)!r})"
        )


def check_mask(mask: Any, unary: Tensor) -> Tensor | None:
    """Bool[B, *spatial] or None."""
    if mask is None:
        return None
    mask = check_tensor("mask", mask, "a bool tensor [B, *spatial], True = valid")
    if mask.dtype != torch.bool:
        raise TypeError(
            f"mask: expected bool (True = valid), got {describe(mask)}; compare first, for example mask > 0"
        )
    _check_grid("mask", mask, unary)
    return mask


def check_clamp(clamp: Any, unary: Tensor, mask: Tensor | None) -> Tensor | None:
    """Int[B, *spatial] with labels 0..L-1 and -1 = free, or None."""
    return None if clamp is None else check_labels("clamp", clamp, unary, FREE, "-1 where it is free", mask)


def check_labels(
    name: str, labels: Any, unary: Tensor, free: int | None, remedy: str, mask: Tensor | None = None
) -> Tensor:
    """Int[B, *spatial] with labels 0..L-1 or `free`, as int64; values under the mask are ignored."""
    labels = check_tensor(name, labels, "an integer tensor [B, *spatial]")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"{name}: expected integer labels, got {describe(labels)}; convert with .long()")
    _check_grid(name, labels, unary)
    labels = labels.long()  # uint8 cannot represent -1, which it is compared with
    if readable(labels) and labels.numel():
        bad = (labels < 0) | (labels >= unary.shape[1])
        if free is not None:
            bad &= labels != free
        if mask is not None:
            bad &= mask
        if bool(bad.any()):
            also = "" if free is None else f" or {free}"
            raise ValueError(
                f"{name}: expected labels 0..{unary.shape[1] - 1}{also}, got {int(labels[bad][0])}; "
                f"give {remedy}"
            )
    return labels


def check_like_unary(name: str, logits: Any, unary: Tensor, remedy: str) -> Tensor:
    """Logits of the unary's shape and device."""
    logits = check_tensor(name, logits, "floating-point logits shaped as unary")
    if not logits.is_floating_point():
        raise TypeError(f"{name}: expected floating-point logits, got {describe(logits)}")
    if logits.shape != unary.shape:
        raise ValueError(
            f"{name}: expected the shape of unary {tuple(unary.shape)}, got {describe(logits)}; {remedy}"
        )
    check_device(name, logits, unary)
    return logits


def check_weight(name: str, weight: Any, unary: Tensor, matrix_only: bool = False) -> Tensor:
    """A number, [L] or [L, L] as a tensor of the unary's dtype and device; NaN may pass."""
    labels = unary.shape[1]
    shapes = [(labels, labels)] if matrix_only else [(), (labels,), (labels, labels)]
    if not isinstance(weight, Tensor):
        if not isinstance(weight, Real) or matrix_only:
            raise TypeError(
                f"{name}: expected a tensor of shape {_either(shapes)}, got {describe(weight)}; "
                "convert it with torch.as_tensor(...)"
            )
        try:
            weight = unary.new_full((), float(weight))  # no copy to the device, which would synchronise
        except (OverflowError, RuntimeError) as error:
            kind = str(unary.dtype).removeprefix("torch.")
            raise ValueError(f"{name}: expected a number that {kind} holds, got {weight}") from error
    check_dense(name, weight)
    # Number by number, not tuple by tuple: torch.compile can compare symbols only this way.
    if weight.ndim not in [len(shape) for shape in shapes] or any(n != labels for n in weight.shape):
        raise ValueError(
            f"{name}: expected shape {_either(shapes)} for {labels} labels, got {describe(weight)}; "
            "labels are those of the unary"
        )
    if weight.is_complex() or weight.dtype == torch.bool:
        raise TypeError(f"{name}: expected real numbers, got {describe(weight)}")
    check_device(name, weight, unary)
    return weight.to(unary.dtype)


def _either(shapes: Sequence[tuple[int, ...]]) -> str:
    return " or ".join(map(str, shapes))  # only for a message: torch.compile cannot trace str of a symbol


def check_kernels(
    kernels: Any, weights: Any, unary: Tensor, pixels: int | None
) -> tuple[tuple[Any, ...], tuple[Tensor, ...]]:
    """Require as many operators as weights, each over `pixels` pixels (None: any number) of the batch."""
    if isinstance(kernels, Tensor) or not isinstance(kernels, Sequence):
        raise TypeError(
            f"kernels: expected a sequence of kernels, got {type(kernels).__name__}; use [kernel]"
        )
    if not isinstance(weights, Sequence | Tensor) or (isinstance(weights, Tensor) and weights.ndim == 0):
        raise TypeError(
            f"weights: expected a sequence with one weight per kernel, got {describe(weights)}; use [weight]"
        )
    if len(kernels) != len(weights):
        raise ValueError(
            f"weights: expected one per kernel, {len(kernels)} in all, got {len(weights)}; "
            "give each kernel a number, [L] or [L, L]"
        )
    for index, kernel in enumerate(kernels):
        if not hasattr(kernel, "__matmul__"):
            raise TypeError(
                f"kernels[{index}]: expected an operator with kernel @ Float[B, N, L], got "
                f"{describe(kernel)}; build a GaussianKernel"
            )
        shape = getattr(kernel, "shape", None)
        if shape is None or pixels is None:
            continue
        if shape[1] != pixels or shape[0] not in (1, unary.shape[0]):
            raise ValueError(
                f"kernels[{index}]: expected one over B = {unary.shape[0]} pictures of N = {pixels} pixels "
                f"as unary {tuple(unary.shape)} has, got B = {shape[0]}, N = {shape[1]}; "
                "build it from the same grid"
            )
    return tuple(kernels), tuple(check_weight(f"weights[{m}]", w, unary) for m, w in enumerate(weights))


def check_count(name: str, value: Any, least: int, remedy: str) -> int:
    """An integer that is at least `least`; True and 5.0 are not integers."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name}: expected an integer, got {describe(value)}; {remedy}")
    if value < least:
        raise ValueError(f"{name}: expected at least {least}, got {value}; {remedy}")
    return int(value)


def check_damping(damping: Any) -> float:
    if isinstance(damping, bool) or not isinstance(damping, Real):
        raise TypeError(f"damping: expected a number in (0, 1], got {describe(damping)}; 1.0 means undamped")
    damping = float(damping)
    if not 0 < damping <= 1:
        raise ValueError(f"damping: expected a number in (0, 1], got {damping}; 1.0 means undamped")
    return damping


def check_in_play(in_play: Any, activation: str) -> float | None:
    if in_play is None:
        return None
    if isinstance(in_play, bool) or not isinstance(in_play, Real):
        raise TypeError(
            f"in_play: expected a number in [0, 1) or None, got {describe(in_play)}; with 0 all labels send"
        )
    in_play = float(in_play)
    if not 0 <= in_play < 1:
        raise ValueError(
            f"in_play: expected a number in [0, 1) or None, got {in_play}; with 0 all labels send"
        )
    if in_play and activation == "sigmoid":
        raise ValueError(
            "in_play: expected 0 or None with activation='sigmoid', whose absent labels send messages too, "
            f"got {in_play}; leave it at None"
        )
    return in_play


def check_tolerance(tolerance: Any) -> float | None:
    if tolerance is None:
        return None
    if isinstance(tolerance, bool) or not isinstance(tolerance, Real):
        raise TypeError(f"tolerance: expected a positive number or None, got {describe(tolerance)}")
    tolerance = float(tolerance)
    if not tolerance > 0 or math.isinf(tolerance):
        raise ValueError(f"tolerance: expected a positive number, got {tolerance}; None never stops early")
    return tolerance


def check_number(name: str, value: Any, remedy: str) -> float:
    """One finite number; a tensor or array of one element is accepted."""
    try:
        number = float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise TypeError(f"{name}: expected one finite number, got {describe(value)}; {remedy}") from error
    if isinstance(value, str) or not math.isfinite(number):
        kind = TypeError if isinstance(value, str) else ValueError
        raise kind(f"{name}: expected one finite number, got {describe(value)}; {remedy}")
    return number


def check_positive(name: str, value: Any, unit: str) -> Tensor:
    """A positive number or a vector of them, as a float tensor (bandwidths, temperature)."""
    try:
        tensor = torch.as_tensor(value, dtype=None if isinstance(value, Tensor) else torch.float64)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise TypeError(
            f"{name}: expected a positive number or one per axis, got {describe(value)}"
        ) from error
    if tensor.ndim > 1 or tensor.numel() == 0 or tensor.is_complex() or tensor.dtype == torch.bool:
        raise ValueError(f"{name}: expected a positive number or one per axis, got {describe(value)}")
    if not fit_for_a_bandwidth(tensor):
        raise ValueError(f"{name}: expected positive finite {unit}, got {tensor.tolist()}")
    return tensor.detach().to(torch.float32)


def check_image(image: Any, unary: Tensor, num_labels: int | None = None) -> Tensor:
    """Float or UInt8 [B, C, *spatial] over the unary's pixels; `unit.check_guide` checks its values."""
    image = check_tensor("image", image, "a float or uint8 tensor [B, C, *spatial] with values in 0..255")
    if not image.is_floating_point() and image.dtype != torch.uint8:
        raise TypeError(
            f"image: expected float or uint8 with values in 0..255, got {describe(image)}; "
            "convert with image.float()"
        )
    fits = image.ndim == unary.ndim and image.shape[0] == unary.shape[0]
    if not fits or image.shape[2:] != unary.shape[2:]:
        raise ValueError(
            f"image: expected [B, C, *spatial] with batch {unary.shape[0]} and size {tuple(unary.shape[2:])} "
            f"as unary has, got {describe(image)}; "
            + (axes_remedy(unary, image, num_labels) or (_resize(image) if fits else _one_for_each(unary)))
        )
    if image.shape[1] < 1:
        raise ValueError(f"image: expected at least one channel on axis 1, got {describe(image)}")
    check_device("image", image, unary)
    return image


def _one_for_each(unary: Tensor) -> str:
    batch = unary.shape[0]
    return f"give one picture for each of the {batch} unaries" if batch > 1 else "give one picture"


def _resize(image: Tensor) -> str:
    size = tuple(image.shape[2:])
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}.get(len(size), "nearest")
    return (
        "resize the unary to the picture: "
        f"torch.nn.functional.interpolate(unary, size={size}, mode={mode!r}), "
        "or give the picture that it was made from"
    )


Move = tuple[str, Callable[[Tensor], Tensor]]
_SAME: Move = ("{}", lambda x: x)
_MOVES: tuple[Move, ...] = (
    _SAME,
    ("{}.unsqueeze(0)", lambda x: x.unsqueeze(0)),
    ("{}.movedim(-1, 1)", lambda x: x.movedim(-1, 1)),
    ("{}.movedim(-1, 0).unsqueeze(0)", lambda x: x.movedim(-1, 0).unsqueeze(0)),
    ("{}.transpose(-2, -1)", lambda x: x.transpose(-2, -1)),
)
_GREY: Move = ("{}.unsqueeze(1)", lambda x: x.unsqueeze(1))
_LONE: Move = ("{}.unsqueeze(0).unsqueeze(0)", lambda x: x.unsqueeze(0).unsqueeze(0))
_MOST_CHANNELS = 64  # of a guide; a longer axis 1 is taken for rows or columns


def axes_remedy(unary: Tensor, image: Tensor, num_labels: int | None = None) -> str | None:
    """The shortest correction that makes the shapes of unary and image agree, or None.

    >>> import torch
    >>> axes_remedy(torch.zeros(2, 4, 5), torch.zeros(1, 3, 4, 5), 2)
    'use unary.unsqueeze(0)'
    """
    found: list[tuple[tuple[int, ...], list[str]]] = []
    for (first, (about, move)), (second, (about_image, move_image)) in itertools.product(
        enumerate(_MOVES), enumerate((*_MOVES, _GREY, _LONE, *_repeated(unary, image)))
    ):
        try:
            a, b = move(unary), move_image(image)
        except (IndexError, RuntimeError):  # too few axes
            continue
        if _fit(a, b, num_labels):
            used = [about.format("unary")] * (first > 0) + [about_image.format("image")] * (second > 0)
            # One-dimensional signals are rare; of two possible corrections, prefer to transpose the scores.
            found.append(((a.ndim == 3, len(used), second, first), used))
    if not found:
        return None
    told = f"use {' and '.join(min(found)[1])}"
    if "transpose" in told:
        told += " if its axes are [.., W, H], or undo the rotation of the picture"
    return told


def _repeated(unary: Tensor, image: Tensor) -> list[Move]:
    """One picture for a whole batch."""
    alone = image.ndim == unary.ndim - 1
    if not alone and (image.ndim < 3 or image.shape[0] != 1):
        return []
    shape = (unary.shape[0], *[-1] * (unary.ndim - 1 if alone else image.ndim - 1))
    return [("{}.expand(" + ", ".join(map(str, shape)) + ")", lambda x: x.expand(*shape))]


def _fit(unary: Tensor, image: Tensor, num_labels: int | None) -> bool:
    return (
        unary.ndim == image.ndim >= 3
        and unary.shape[0] == image.shape[0]
        and unary.shape[2:] == image.shape[2:]
        and (num_labels is None or unary.shape[1] == num_labels)
        and 1 <= image.shape[1] <= _MOST_CHANNELS
    )
