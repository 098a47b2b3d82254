# SPDX-License-Identifier: MIT
"""The backends of the filters: what each implements, and the one place that chooses between them.

"cpu" is the native core, "triton" the kernels for a GPU, "reference" plain torch for any device. A backend is
a module with the members of `Backend`.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, cast

import torch
from torch import Tensor

from crfrnn.lattice.reference import Simplices


class Backend(Protocol):
    """What a backend implements, over checked arguments and without gradients (`ops` and `exact` have them).

    A lattice has a row for each of its P points: barycentric weights Float[P, d+1], in an order of its own,
    and the structure, one tensor to seven. Values come and go in the caller's order, Float[B·N, C].
    """

    differentiable: bool  # True: of torch's operations, which differentiate a lattice by themselves

    def can(self, device: torch.device, method: str, dtype: torch.dtype, dimension: int) -> str | None:
        """Why it cannot filter points of `dimension` numbers by `method`, "lattice" or "exact"; None: it can.

        The reason is an error message: it names the argument and the remedy.
        """
        ...

    def build(
        self,
        features: Tensor,
        mask: Tensor | None,
        scale: float,
        rings: int,
        ring_support: int,
        together: int,
        padded: bool,
    ) -> list[Tensor]:
        """Float[B, N, d] -> [weights, *structure]; `padded`: where it can, of sizes that the shapes give."""
        ...

    def filter(self, values: Tensor, weights: Tensor, reverse: bool, *structure: Tensor) -> Tensor:
        """Splat, blur, slice; the adjoint with `reverse`."""
        ...

    def num_vertices(self, *structure: Tensor) -> int:
        """Vertices of the whole batch."""
        ...

    def simplices(self, *structure: Tensor, weights: Tensor | None = None) -> Simplices:
        """Where the points lie, for the diagonal and the tangent of the weights.

        `weights`, where given, are compared with the structure, should it be damaged.
        """
        ...

    def gaussian_sum(self, features: Tensor, values: Tensor, queries: Tensor) -> Tensor:
        """[B, N, d], [B, N, C], [B, M, d] -> Σ_j exp(-½ |q_i - f_j|²) v_j, [B, M, C]."""
        ...

    def gaussian_gradients(
        self, features: Tensor, values: Tensor, queries: Tensor, grad: Tensor, wanted: Sequence[bool]
    ) -> list[Tensor]:
        """Of <grad, gaussian_sum>, by features, values and queries; anything for what is not wanted."""
        ...


class Compiled(Backend, Protocol):
    """What `ops` needs besides to differentiate a lattice that torch cannot."""

    def fake_build(
        self,
        features: Tensor,
        mask: Tensor | None,
        scale: float,
        rings: int,
        ring_support: int,
        together: int,
        padded: bool,
    ) -> list[Tensor]:
        """Tensors of the sizes that `build` would return, without values."""
        ...

    def weight_gradient(self, x: Tensor, g: Tensor, weights: Tensor, *structure: Tensor) -> Tensor:
        """The gradient of <g, filter(x)> by the weights."""
        ...

    def feature_gradient(
        self, grad_weights: Tensor, features: Tensor, scale: float, *structure: Tensor
    ) -> Tensor:
        """From the gradient of the weights that of the features, whose shape alone counts."""
        ...


MODULES = {
    "cpu": "crfrnn.lattice.cpu",
    "triton": "crfrnn.lattice.triton.backend",
    "reference": "crfrnn.lattice.reference",
}
NEEDED = {"cpu": "crfrnn._native", "triton": "the package triton (pip install triton, Linux)"}
BY_DEVICE = {"cpu": "cpu", "cuda": "triton"}  # the default for tensors of a device

_imported: dict[str, Backend] = {}
_failed: dict[str, str] = {}  # why the import of a backend failed

if TYPE_CHECKING:  # compares every module with the protocol
    from crfrnn.lattice import cpu, reference
    from crfrnn.lattice.triton import backend as triton

    _compiled: tuple[Compiled, ...] = (cpu, triton)
    _all: tuple[Backend, ...] = (*_compiled, reference)


def find(name: str) -> Backend:
    """The backend called `name`, imported once; ValueError where there is none or its import fails.

    >>> find("numpy")
    Traceback (most recent call last):
    ValueError: backend: expected None or one of 'cpu', 'triton', 'reference', got 'numpy'
    """
    if name not in _imported:
        _raise(_why_not_imported(name))
    return _imported[name]


def is_imported(name: str) -> bool:
    """True where the backend's import was tried and went well, without trying it now."""
    return name in _imported


def why_not(
    name: str,
    device: torch.device,
    method: str = "lattice",
    dtype: torch.dtype = torch.float32,
    dimension: int = 1,
) -> str | None:
    """Why the backend called `name` cannot filter such points, as an error message; None: it can.

    >>> why_not("reference", torch.device("mps")) is None
    True
    """
    reason = _why_not_imported(name)
    return _imported[name].can(device, method, dtype, dimension) if reason is None else reason


def choose(
    device: torch.device, method: str, dtype: torch.dtype, dimension: int, name: str | None = None
) -> str:
    """The backend that filters such points: `name`, or what the device decides; ValueError if it cannot.

    Without a name an exact sum falls back to plain torch, which gives the same sum. A lattice does not: the
    reference is too slow to be taken without notice.

    >>> choose(torch.device("mps"), "exact", torch.float32, 3)
    'reference'
    """
    if name is None:
        name = BY_DEVICE.get(device.type, "")
        if method == "exact":
            return "reference" if not name or why_not(name, device, method, dtype, dimension) else name
        if device.type == "meta":
            raise ValueError(
                "features: expected a tensor with values, which a lattice depends on, got one on meta; "
                "give shapes alone to CRFRNN or mean_field, or use method='exact'"
            )
        if not name:
            raise ValueError(
                f"backend: no compiled lattice for {device.type} tensors; "
                'pass backend="reference" or use .cpu()'
            )
    _raise(why_not(name, device, method, dtype, dimension))
    return name


def _raise(reason: str | None) -> None:
    if reason is not None:
        raise ValueError(reason)


def _why_not_imported(name: str) -> str | None:
    if name not in MODULES:
        return f"backend: expected None or one of {', '.join(map(repr, MODULES))}, got {name!r}"
    if name not in _imported and name not in _failed:
        _import(name)
    if name in _failed:
        return (
            f"backend: {name!r} needs {NEEDED[name]}, but its import failed ({_failed[name]}); "
            'reinstall it, or pass backend="reference"'
        )
    return None


def _import(name: str) -> None:
    try:
        _imported[name] = cast(Backend, importlib.import_module(MODULES[name]))
    except ImportError as error:
        _failed[name] = str(error)


# torch.compile cannot trace an import, so what the default may be is imported now. A torch for GPUs brings
# Triton along; any other imports it when it is named.
for _name in ("reference", "cpu", *(("triton",) if torch.version.cuda or torch.version.hip else ())):
    _import(_name)
