# SPDX-License-Identifier: MIT
"""The backends of the filters: their common interface, and the selection of a backend.

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
    """The interface of a backend: arguments are validated, gradients are defined in `ops` and `exact`.

    A lattice has a row for each of its P points: barycentric weights Float[P, d+1], in the backend's order,
    and the structure, one to seven tensors. Inputs and outputs are in the caller's order, Float[B·N, C].
    """

    differentiable: bool  # True: made of torch operations, so autograd differentiates the lattice

    def can(self, device: torch.device, method: str, dtype: torch.dtype, dimension: int) -> str | None:
        """Why it cannot filter `dimension`-d points by `method`, "lattice" or "exact"; None if it can.

        The reason is an error message with the argument and the remedy.
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
        """Float[B, N, d] -> [weights, *structure]; `padded`: if possible, sizes depend only on the shapes."""
        ...

    def filter(self, values: Tensor, weights: Tensor, reverse: bool, *structure: Tensor) -> Tensor:
        """Splat, blur, slice; the adjoint with `reverse`."""
        ...

    def num_vertices(self, *structure: Tensor) -> int:
        """Number of vertices of the whole batch."""
        ...

    def simplices(self, *structure: Tensor, weights: Tensor | None = None) -> Simplices:
        """Positions of the points in the lattice, for the diagonal and the tangent of the weights.

        If given, `weights` are checked against the structure, to detect corruption.
        """
        ...

    def gaussian_sum(self, features: Tensor, values: Tensor, queries: Tensor) -> Tensor:
        """[B, N, d], [B, N, C], [B, M, d] -> Σ_j exp(-½ |q_i - f_j|²) v_j, [B, M, C]."""
        ...

    def gaussian_gradients(
        self, features: Tensor, values: Tensor, queries: Tensor, grad: Tensor, wanted: Sequence[bool]
    ) -> list[Tensor]:
        """Gradients of <grad, gaussian_sum> by features, values and queries; arbitrary if not needed."""
        ...


class Compiled(Backend, Protocol):
    """What `ops` also needs to differentiate a lattice if autograd cannot."""

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
        """The gradient of <g, filter(x)> with respect to the weights."""
        ...

    def feature_gradient(
        self, grad_weights: Tensor, features: Tensor, scale: float, *structure: Tensor
    ) -> Tensor:
        """The gradient of the features from that of the weights; only the features' shape is used."""
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

if TYPE_CHECKING:  # checks every module against the protocol
    from crfrnn.lattice import cpu, reference
    from crfrnn.lattice.triton import backend as triton

    _compiled: tuple[Compiled, ...] = (cpu, triton)
    _all: tuple[Backend, ...] = (*_compiled, reference)


def find(name: str) -> Backend:
    """The backend called `name`, imported once; ValueError if it is unknown or its import fails.

    >>> find("numpy")
    Traceback (most recent call last):
    ValueError: backend: expected None or one of 'cpu', 'triton', 'reference', got 'numpy'
    """
    if name not in _imported:
        _raise(_why_not_imported(name))
    return _imported[name]


def is_imported(name: str) -> bool:
    """True if the backend has been imported successfully; does not import it."""
    return name in _imported


def why_not(
    name: str,
    device: torch.device,
    method: str = "lattice",
    dtype: torch.dtype = torch.float32,
    dimension: int = 1,
) -> str | None:
    """Why the backend called `name` cannot filter such points, as an error message; None if it can.

    >>> why_not("reference", torch.device("mps")) is None
    True
    """
    reason = _why_not_imported(name)
    return _imported[name].can(device, method, dtype, dimension) if reason is None else reason


def choose(
    device: torch.device, method: str, dtype: torch.dtype, dimension: int, name: str | None = None
) -> str:
    """The backend for such points: `name`, or the default of the device; ValueError if it cannot filter them.

    Without a name, an exact sum falls back to plain torch, which gives the same sum. A lattice does not,
    because the reference is too slow for a silent fallback.

    >>> choose(torch.device("mps"), "exact", torch.float32, 3)
    'reference'
    """
    if name is None:
        name = BY_DEVICE.get(device.type, "")
        if method == "exact":
            return "reference" if not name or why_not(name, device, method, dtype, dimension) else name
        if device.type == "meta":
            raise ValueError(
                "features: expected a tensor with values, which the size of a lattice depends on, got one on "
                "meta; for shapes alone call CRFRNN or mean_field, or use method='exact'"
            )
        if not name:
            raise ValueError(
                f"backend: expected tensors on {' or '.join(BY_DEVICE)}, got them on {device.type}; "
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


# torch.compile cannot trace an import, so possible default backends are imported now. GPU builds of torch
# include Triton; with other builds it is imported when requested by name.
for _name in ("reference", "cpu", *(("triton",) if torch.version.cuda or torch.version.hip else ())):
    _import(_name)
