# SPDX-License-Identifier: MIT
"""The compiled module (native/bindings.cpp): dtype, shape and contiguity of arrays are checked there."""

from typing import Any

def build(
    features: Any, mask: Any, scale: float, rings: int, ring_support: int, threads: int
) -> tuple[Any, Any]: ...
def filter(values: Any, weights: Any, table: Any, reverse: bool, threads: int, out: Any) -> None: ...
def weight_gradient(x: Any, g: Any, weights: Any, table: Any, threads: int, out: Any) -> None: ...
def feature_gradient(grad_weights: Any, table: Any, threads: int, out: Any) -> None: ...
def mean_field(
    unary: Any,
    initial: Any,
    transform: Any,
    kernels: list[tuple[Any, ...]],
    grid: list[int],
    mask: Any,
    clamp: Any,
    iterations: int,
    damping: float,
    threads: int,
    logits: Any,
    marginals: Any,
) -> None: ...
def mean_field_backward(
    grad_logits: Any,
    marginals: Any,
    transform: Any,
    kernels: list[tuple[Any, ...]],
    grid: list[int],
    mask: Any,
    clamp: Any,
    iterations: int,
    damping: float,
    threads: int,
    grad_unary: Any,
    grad_initial: Any,
    grad_transform: Any,
    grads: list[tuple[Any, ...]],
) -> None: ...
def update(
    unary: Any,
    marginals: Any,
    transform: Any,
    kernels: list[tuple[Any, ...]],
    normalize: bool,
    threads: int,
    out: Any,
) -> None: ...
def verify(table: Any, points: int, corners: int) -> None: ...
def rows(numbers: int) -> Any: ...
def instruction_sets() -> list[str]: ...
def instruction_set() -> str: ...
def use_instruction_set(name: str) -> None: ...
def release_kept_memory() -> None: ...
def poison_memory(on: bool) -> None: ...
def refuse_memory(count: int) -> None: ...
def memory_in_use() -> int: ...
