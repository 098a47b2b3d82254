# SPDX-License-Identifier: MIT
"""Validation for the filters. Errors state the argument, the expected and the given value, and the remedy."""

from __future__ import annotations

import math
import os
import sys
import warnings
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

MAX_DIMENSION = 32
DENSE_DIMENSION = 8  # in higher dimensions most points are alone in their simplices
# Features whose own rounding error exceeds this share of a bandwidth can no longer be told apart.
RESOLUTION = 1 / 16


# The folders of this package and of torch.
_INSIDE = tuple(
    os.path.join(folder, "") for folder in (os.path.dirname(os.path.dirname(__file__)), *torch.__path__)
)


class InputWarning(UserWarning):
    """An input that is valid but most likely a mistake."""


def warn(message: str, category: type[Warning] = InputWarning) -> None:
    """Issue a Python warning at the line that called the package, once per line.

    The user can change that line, unlike lines in the package or in torch.
    """
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_INSIDE):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)


def readable(tensor: Tensor) -> bool:
    """True if Python can read the values of `tensor`: not while tracing, transforming or capturing."""
    if torch.compiler.is_compiling() or tensor.is_meta or in_functorch():
        return False
    return not (tensor.is_cuda and torch.cuda.is_current_stream_capturing())


def in_functorch() -> bool:
    """True inside torch.func.vmap, grad, jvp and so on (torch has no public function for it)."""
    functorch = getattr(torch._C, "_functorch", None)
    peek = getattr(functorch, "peek_interpreter_stack", None)
    # By type: under torch.compile `is not None` is true for the result of peek() even if it is None.
    return peek is not None and type(peek()) is not type(None)


def exporting() -> bool:
    """True inside torch.export and tools based on it; not detectable before torch 2.7."""
    ask = getattr(torch.compiler, "is_exporting", None)
    return ask is not None and ask()


def refuse_torchscript(name: str, scripting: bool = False) -> None:
    """NotImplementedError for torch.jit.script, and while torch.jit.trace runs.

    A trace would keep the lattice of the example's pixels and apply it to every other picture.
    """
    if scripting or torch._C._get_tracing_state() is not None:
        raise NotImplementedError(
            f"{name}: expected torch.export or torch.compile, got TorchScript "
            f"(torch.jit.{'script' if scripting else 'trace'}), which cannot hold a lattice that depends on "
            "the picture; use torch.export.export(module, inputs), for ONNX "
            "torch.onnx.export(module, inputs, dynamo=True)"
        )


def in_forward_mode() -> bool:
    """True inside torch.autograd.forward_ad.dual_level (torch has no public function for it)."""
    return getattr(torch.autograd.forward_ad, "_current_level", -1) >= 0


def refuse_forward_over_forward() -> None:
    """NotImplementedError inside torch.func.jvp of torch.func.jvp (or jacfwd).

    There torch drops the outer tangent in the rule of an autograd function, so results would be wrong.
    """
    functorch = getattr(torch._C, "_functorch", None)
    levels = getattr(functorch, "get_interpreter_stack", lambda: None)() if in_functorch() else None
    if sum(level.key() == functorch.TransformType.Jvp for level in levels or ()) > 1:  # pyright: ignore[reportOptionalMemberAccess]
        raise NotImplementedError(
            "filter: expected forward mode at most once, got jvp or jacfwd inside another, which torch "
            "does not support for custom autograd functions; use reverse mode inside, such as "
            "jacfwd(jacrev(f)), hessian(f), or jvp of grad(f)"
        )


def transformed() -> bool:
    """True if the running code may be differentiated other than by `backward`."""
    return in_functorch() or in_forward_mode()


def needs_graph(grad: Tensor) -> bool:
    """True if a backward pass must consist of torch operations.

    This is the case for create_graph=True and for is_grads_batched=True (many gradients at once), which
    torch.autograd.functional.jacobian(vectorize=True) uses.
    """
    if torch.compiler.is_compiling():
        return False
    batched = getattr(getattr(torch._C, "_functorch", None), "is_legacy_batchedtensor", lambda _: False)
    return torch.is_grad_enabled() or batched(grad)


def fit_for_a_bandwidth(numbers: Tensor) -> bool:
    """True if all are positive and finite, or cannot be read.

    The few values are read once and compared in Python, because on a GPU every operation is a launch.
    """
    if not readable(numbers):
        return True
    return all(0 < number < math.inf for number in numbers.detach().reshape(-1).tolist())


def describe(value: Any) -> str:
    """A tensor as `float32 (2, 21, 5)`, anything else as its type and value."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    return f"{type(value).__name__} {value!r}"


def check_choice(name: str, value: Any, options: Collection[str]) -> str:
    if value not in options:
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, options))}, got {value!r}")
    return value


def check_dense(name: str, tensor: Tensor) -> None:
    """Reject tensors that do not have an entry in memory for each element."""
    if tensor.is_nested:
        raise TypeError(
            f"{name}: expected a dense tensor, got a nested one; pad it with "
            f"torch.nested.to_padded_tensor({name}, 0.0) and leave the padding out with mask="
        )
    if tensor.layout != torch.strided:
        kind = str(tensor.layout).removeprefix("torch.")
        raise TypeError(
            f"{name}: expected a dense tensor, got one of layout {kind}; convert it with {name}.to_dense()"
        )


def check_features(features: Any, mask: Any = None, max_dimension: int | None = MAX_DIMENSION) -> Tensor:
    """Float[B, N, d] in float32 or float64, finite, masked points set to zero; `mask` as in `check_mask`."""
    if not isinstance(features, Tensor):
        raise TypeError(
            f"features: expected a floating-point tensor [B, N, d], got {type(features).__name__}; "
            "convert it with torch.as_tensor(...)"
        )
    check_dense("features", features)
    if not features.is_floating_point():
        raise TypeError(
            f"features: expected floating-point values in units of the bandwidths, got {describe(features)}; "
            "convert with features.float() / theta"
        )
    if features.ndim != 3:
        raise ValueError(
            f"features: expected three axes [B, N, d], got {describe(features)}; "
            "add a missing batch axis with features.unsqueeze(0), flatten pixels to one axis"
        )
    dimension = features.shape[2]
    if dimension < 1 or (max_dimension is not None and dimension > max_dimension):
        span = f"1 to {max_dimension}" if max_dimension is not None else "at least 1"
        raise ValueError(
            f"features: expected {span} numbers per point on the last axis, got {describe(features)}; "
            "reduce them first (a linear projection, principal components), or use method='exact'"
        )
    features = features if features.dtype == torch.float64 else features.float()
    mask = check_mask(mask, features)
    if mask is not None:
        features = torch.where(mask.unsqueeze(-1), features, 0)
    _check_range(features)
    return features


def check_mask(mask: Any, features: Tensor) -> Tensor | None:
    """Bool[B, N], True = valid, or None."""
    if mask is None:
        return None
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        raise TypeError(
            f"mask: expected a bool tensor [B, N], True = valid, got {describe(mask)}; "
            "compare first, for example mask > 0"
        )
    check_dense("mask", mask)
    if mask.shape != features.shape[:2]:
        raise ValueError(
            f"mask: expected {tuple(features.shape[:2])} as features {tuple(features.shape)} has it, "
            f"got {describe(mask)}; one entry per point"
        )
    check_device("mask", mask, features.device)
    return mask


def check_values(values: Any, batch: int, points: int, device: torch.device) -> Tensor:
    """Float[B, N, C] on the operator's device; an operator of batch 1 applies to any batch."""
    if not isinstance(values, Tensor):
        raise TypeError(
            f"values: expected a floating-point tensor [B, N, C], got {type(values).__name__}; "
            "convert it with torch.as_tensor(...)"
        )
    check_dense("values", values)
    if not values.is_floating_point():
        raise TypeError(
            f"values: expected floating-point numbers, got {describe(values)}; convert with values.float()"
        )
    if values.ndim != 3 or values.shape[1] != points or (batch != 1 and values.shape[0] != batch):
        wanted = f"[{'B' if batch == 1 else batch}, {points}, C]"
        raise ValueError(
            f"values: expected {wanted} as the filter was built for, got {describe(values)}; "
            "pixels are flattened in row-major order, channels are the last axis"
        )
    check_device("values", values, device)
    return values


def check_device(name: str, tensor: Tensor, device: torch.device) -> None:
    if tensor.device != device:
        raise ValueError(
            f"{name}: expected a tensor on {device}, got one on {tensor.device}; "
            f"move it with {name}.to({str(device)!r})"
        )


def compute_dtype(*tensors: Tensor) -> torch.dtype:
    """float64 if any tensor is, else float32, also for half-precision inputs."""
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32


def _check_range(features: Tensor) -> None:
    if not readable(features) or features.numel() == 0:
        return
    low, high = torch.stack(torch.aminmax(features.detach())).tolist()  # one GPU synchronisation
    if not (math.isfinite(low) and math.isfinite(high)):  # aminmax propagates NaN
        bad = int((~torch.isfinite(features.detach())).sum())
        raise ValueError(
            f"features: expected finite values, got {bad} that are NaN or infinite; "
            "replace them, or leave such points out with mask="
        )
    limit = RESOLUTION / torch.finfo(features.dtype).eps
    if max(-low, high) > limit:
        remedy = "use float64 features, " if features.dtype == torch.float32 else ""
        raise ValueError(
            f"features: expected magnitudes up to {limit:.2g} bandwidths, which {features.dtype} "
            f"still resolves to a fraction of one, got {max(-low, high):.3g}; "
            f"{remedy}subtract a common offset or enlarge the bandwidth"
        )
