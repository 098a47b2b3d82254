# SPDX-License-Identifier: MIT
"""Lattice: a frozen value, built once per kernel and batch, filtered with many times."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor

from crfrnn.lattice import reference
from crfrnn.lattice.quality import Quality, get_quality
from crfrnn.lattice.validate import check_features, check_values, compute_dtype, refuse_torchscript

# A backend is a module with build(features, quality, mask) -> (weights, structure),
# filter(values, weights, structure, reverse), diagonal(weights, structure) and num_vertices(structure).
# Imported here and not at the first call: torch.compile cannot trace an import.
BACKENDS: dict[str, ModuleType | str] = {"reference": reference}
try:
    from crfrnn.lattice import cpu

    BACKENDS["cpu"] = cpu
except (
    ImportError
) as error:  # the compiled module is missing or belongs to another Python: said when it is needed
    BACKENDS["cpu"] = str(error)


def _load_triton() -> ModuleType | str:
    try:
        return importlib.import_module("crfrnn.lattice.triton.backend")
    except ImportError as error:
        return str(error)


# A torch for GPUs brings Triton along. Any other imports it when a backend is called "triton".
if torch.version.cuda is not None or torch.version.hip is not None:
    BACKENDS["triton"] = _load_triton()


@dataclass(frozen=True, eq=False)
class Lattice:
    """A Gaussian filter over scattered points, O(N): the permutohedral lattice.

    filter(v)_i ≈ Σ_j exp(-½ |f_i - f_j|²) v_j, unnormalised: S · B_d ⋯ B_0 · Sᵀ / (1 + 2^-d) with the
    barycentric weights S and the stencil v + ½(n₁ + n₂) along each axis. Its amplitude is the lattice's own
    (about half the exact sum's in five sparse dimensions): divide by the filter's answer to ones.

    Adams, Baek & Davis, Computer Graphics Forum 29(2), 2010, doi:10.1111/j.1467-8659.2009.01645.x.

    >>> lattice = Lattice.build(torch.rand(2, 30, 3), backend="reference")
    >>> lattice.filter(torch.ones(2, 30, 4)).shape
    torch.Size([2, 30, 4])
    """

    weights: Tensor  # barycentric, differentiable in the features; in the backend's own order
    structure: tuple[Tensor, ...]  # private to the backend
    backend: str
    shape: tuple[int, int]  # (B, N)

    is_symmetric = False  # where vertices are missing the axis blurs do not commute

    @staticmethod
    def build(
        features: Tensor,
        quality: str | Quality = "default",
        mask: Tensor | None = None,
        backend: str | None = None,
    ) -> Lattice:
        """Find the lattice of the points.

        features  Float[B, N, d], d = 1..32 (a GPU: 8), in units of the bandwidths; half precision: in float32
        quality   "classic" | "default" | "high", see `crfrnn.lattice.quality`
        mask      Bool[B, N], True = valid: a masked point makes no vertex, sends nothing and receives 0
        backend   None chooses by the device; "reference" is plain torch and works on every device
        """
        refuse_torchscript("Lattice.build")
        setting = get_quality(quality)
        features = check_features(features, mask)
        name = choose_backend(features.device) if backend is None else backend
        weights, structure = load_backend(name, features.device).build(features, setting, mask)
        return Lattice(weights, structure, name, (features.shape[0], features.shape[1]))

    def filter(self, values: Tensor, reverse: bool = False) -> Tensor:
        """Float[B, N, C] -> Float[B, N, C]; `reverse` gives the adjoint. A lattice of batch 1 serves any.

        In float64 where values or features are, else in float32. Differentiable in values and features.
        Bit-identical from run to run on the CPU.
        """
        batch, points = self.shape
        values = check_values(values, batch, points, self.weights.device)
        dtype = compute_dtype(values, self.weights)
        values, weights = values.to(dtype), self.weights.to(dtype)
        module = load_backend(self.backend, weights.device)
        if values.shape[0] == batch:
            return module.filter(values, weights, self.structure, reverse)
        pictures, _, channels = values.shape  # one lattice for the whole batch: pictures become channels
        joined = values.transpose(0, 1).reshape(1, points, pictures * channels)
        out = module.filter(joined, weights, self.structure, reverse)
        return out.view(points, pictures, channels).transpose(0, 1)

    def diagonal(self) -> Tensor:
        """What each point receives from itself, Float[B, N]: the diagonal of the operator that runs."""
        diagonal = load_backend(self.backend, self.weights.device).diagonal(self.weights, self.structure)
        return diagonal.view(self.shape)

    @property
    def num_vertices(self) -> int:
        """Vertices of the whole batch."""
        return load_backend(self.backend, self.weights.device).num_vertices(self.structure)

    def to(self, device: torch.device | str) -> Lattice:
        """The same lattice on another device; only the backend "reference" works on every device."""
        device = torch.device(device)
        load_backend(self.backend, device)
        return Lattice(
            self.weights.to(device), tuple(t.to(device) for t in self.structure), self.backend, self.shape
        )


def choose_backend(device: torch.device) -> str:
    """The backend for tensors on `device`.

    >>> choose_backend(torch.device("cuda"))
    'triton'
    >>> choose_backend(torch.device("mps"))
    Traceback (most recent call last):
    ValueError: backend: no compiled lattice for mps tensors; pass backend="reference" or use .cpu()
    """
    if device.type in ("cpu", "cuda"):
        return "cpu" if device.type == "cpu" else "triton"
    if device.type == "meta":
        raise ValueError(
            "features: expected a tensor with values, which a lattice depends on, got one on meta; "
            "give shapes alone to CRFRNN or mean_field, or use method='exact'"
        )
    raise ValueError(
        f'backend: no compiled lattice for {device.type} tensors; pass backend="reference" or use .cpu()'
    )


def load_backend(name: str, device: torch.device) -> ModuleType:
    """The module behind `name`, or why it cannot serve `device`."""
    if name == "triton" and name not in BACKENDS:
        BACKENDS[name] = _load_triton()
    if name not in BACKENDS:
        names = ", ".join(map(repr, dict.fromkeys([*BACKENDS, "triton"])))
        raise ValueError(f"backend: expected None or one of {names}, got {name!r}")
    if name == "cpu" and device.type != "cpu":
        raise ValueError(
            f'backend: "cpu" cannot work on {device.type} tensors; pass backend="reference", '
            "or move them with .cpu()"
        )
    module = BACKENDS[name]
    if isinstance(module, str):
        needed = "the package triton (pip install triton, Linux)" if name == "triton" else "crfrnn._native"
        raise ValueError(
            f"backend: {name!r} needs {needed}, but its import failed ({module}); "
            'reinstall it, or pass backend="reference"'
        )
    if name == "triton" and device.type != "cuda" and not getattr(module, "INTERPRETED", False):
        raise ValueError(
            f'backend: "triton" works on CUDA tensors, got one on {device}; use .cuda(), or backend=None, '
            "which chooses by the device"
        )
    return module
