# SPDX-License-Identifier: MIT
"""From pixels to a normalised Gaussian kernel: the only module in which bandwidths have units."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from crfrnn.crf.features import bandwidths, grid_features, image_features
from crfrnn.crf.validate import describe
from crfrnn.lattice import Exact, Lattice, Quality, Separable, exact_filter
from crfrnn.lattice.quality import get_quality
from crfrnn.lattice.validate import (
    DENSE_DIMENSION,
    MAX_DIMENSION,
    check_choice,
    check_features,
    check_mask,
    check_values,
    warn,
)

NORMALIZATIONS = ("none", "before", "after", "symmetric")
EPSILON = 1e-20  # added to the normaliser, as in the original layer
Operator = Lattice | Exact | Separable


class GaussianKernel:
    """A Gaussian kernel over points, normalised: a linear operator built once, applied with `@`.

    kernel @ v = post · (K (pre · v)), K_ij = exp(-½ |f_i - f_j|²), n = K 1 over valid points:
    "none" pre = post = 1; "before" pre = 1/n; "after" post = 1/n; "symmetric" pre = post = 1/√n.

    features      Float[B, N, d] in units of the bandwidths (for pictures use `spatial` and `bilateral`)
    method        "lattice" O(N), d = 1..32 (a GPU: 8); "exact" O(N²), any d
    quality       of the lattice: "classic" | "default" | "high" | "finest"
    mask          Bool[B, N], True = valid: a masked point sends nothing, is not counted and receives 0
    exclude_self  sum over j ≠ i: the operator's own diagonal is subtracted from K, also in n; a point whose
                  neighbours have no weight (within rounding) receives 0
    backend       None: chosen by the device
    operator      a prebuilt operator over these points; method, quality and backend are then ignored

    Differentiable in the features, including the normaliser. A kernel of batch 1 applies to any batch.
    Krähenbühl & Koltun, NIPS 2011 (arXiv:1210.5644), eq. 3; Zheng et al., ICCV 2015, section 4.

    >>> kernel = GaussianKernel(torch.rand(2, 30, 3), method="exact")
    >>> (kernel @ torch.ones(2, 30, 1)).allclose(torch.ones(2, 30, 1))
    True
    """

    operator: Operator
    features: Tensor  # Float[B, N, d]
    pre: Tensor | None  # Float[B, N]
    post: Tensor | None  # Float[B, N]
    self_term: Tensor | None  # Float[B, N]: the diagonal subtracted from K, only with exclude_self
    mask: Tensor | None  # Bool[B, N]
    normalization: str
    reverse: bool  # True in kernel.T: K is applied with reverse=True

    def __init__(
        self,
        features: Tensor,
        method: str = "lattice",
        normalization: str = "after",
        quality: str | Quality = "default",
        *,
        mask: Tensor | None = None,
        exclude_self: bool = False,
        backend: str | None = None,
        operator: Operator | None = None,
    ) -> None:
        if operator is None:
            check_choice("method", method, ("lattice", "exact"))
            lattice = method == "lattice"
            features = check_features(features, mask, max_dimension=MAX_DIMENSION if lattice else None)
            if lattice and features.shape[2] > DENSE_DIMENSION and not torch.compiler.is_compiling():
                _warn_of_sparseness(features.shape[2])
            if lattice:
                operator = Lattice.of_checked(features, get_quality(quality), mask, backend)
            else:
                # A copy: in-place changes of the caller's points must not make K and its normaliser differ.
                features = features.clone()
                operator = Exact(features, backend)
        else:
            _check_operator(operator, features)
            mask = check_mask(mask, features)
        self._normalize(operator, features, normalization, mask, exclude_self)

    @classmethod
    def spatial(
        cls,
        shape: Sequence[int],
        theta: Tensor | float | Sequence[float],
        method: str = "separable",
        normalization: str = "after",
        quality: str | Quality = "default",
        *,
        mask: Tensor | None = None,
        exclude_self: bool = False,
        backend: str | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        origin: Sequence[int] | None = None,
    ) -> GaussianKernel:
        """k(i, j) = exp(-½ Σ_a ((p_i - p_j)_a / θ_a)²) over a grid, N pixels in row-major order.

        shape   the spatial shape: (N,), (H, W), (D, H, W), …
        theta   θ_γ in pixels, a number or one per axis in the order x, y, (z): x is the last axis of `shape`
        method  "separable" (exact, fast; for θ ≥ 3 native inference uses a coarser grid, error below 5e-5)
                | "lattice" | "exact"
        mask    Bool[B, *shape]; without a mask the kernel has batch 1 and applies to any batch
        dtype   of the kernel; default: theta's if it is a tensor, else torch's default
        origin  the first pixel's position, in the order of `shape`: tiles of one picture share its lattice

        >>> kernel = GaussianKernel.spatial((4, 5), theta=3.0)
        >>> (kernel @ torch.ones(2, 20, 7)).shape
        torch.Size([2, 20, 7])
        """
        check_choice("method", method, ("separable", "lattice", "exact"))
        # Keep the symbolic sizes of torch.export: int() would specialise them to the example.
        shape = tuple(n if isinstance(n, int | torch.SymInt) else int(n) for n in shape)
        theta = bandwidths("theta", theta, len(shape), "pixels", dtype, device)
        mask = _flat_mask(mask, shape)
        features = grid_features(shape, theta, origin).unsqueeze(0)
        if mask is not None:
            features = features.expand(mask.shape[0], -1, -1)
        if method != "separable":
            return cls(
                features,
                method,
                normalization,
                quality,
                mask=mask,
                exclude_self=exclude_self,
                backend=backend,
            )
        return cls(
            features,
            normalization=normalization,
            mask=mask,
            exclude_self=exclude_self,
            operator=Separable(shape, theta.clone()),  # as for the points of an exact sum
        )

    @classmethod
    def bilateral(
        cls,
        image: Tensor,
        theta_alpha: Tensor | float | Sequence[float],
        theta_beta: Tensor | float | Sequence[float],
        method: str = "lattice",
        normalization: str = "after",
        quality: str | Quality = "default",
        *,
        mask: Tensor | None = None,
        exclude_self: bool = False,
        backend: str | None = None,
        origin: Sequence[int] | None = None,
        guide_components: int | Tensor | None = None,
    ) -> GaussianKernel:
        """k(i, j) = exp(-½ |(p_i - p_j) / θ_α|² - ½ |(I_i - I_j) / θ_β|²), N pixels in row-major order.

        image        Float or UInt8[B, C, *spatial], any C ≥ 1, in the units of θ_β (usually 0..255)
        theta_alpha  in pixels, a number or one per axis in the order x, y, (z): x is the last axis
        theta_beta   in the image's units, a number or one per channel
        mask         Bool[B, *spatial]
        origin       the first pixel's position, in the order of the image's axes, as for `spatial`
        guide_components
                     k: replace the C channels by each picture's k principal components of I / θ_β over the
                     valid pixels, orthonormal directions P without a gradient: |Pᵀ (I_i - I_j) / θ_β|², at
                     most the full distance. Float[C, k]: these directions. For guides with many bands, which
                     make a lattice sparse.

        >>> kernel = GaussianKernel.bilateral(torch.rand(1, 3, 4, 5) * 255, 80.0, 13.0, method="exact")
        >>> kernel.shape
        (1, 20)
        """
        valid = None if guide_components is None else _flat_mask(mask, tuple(image.shape[2:]))
        features = image_features(image, theta_alpha, theta_beta, origin, guide_components, valid)
        mask = _flat_mask(mask, tuple(image.shape[2:]))
        return cls(
            features, method, normalization, quality, mask=mask, exclude_self=exclude_self, backend=backend
        )

    def __matmul__(self, values: Tensor) -> Tensor:
        """Float[B, N, C] -> Float[B, N, C], in float64 if values or features are, else in float32."""
        values = check_values(values, *self.shape, self.features.device)
        if self.mask is not None:  # not a multiplication: a masked point may hold NaN
            values = torch.where(self.mask.unsqueeze(-1), values, 0)
        if self.pre is not None:
            values = values * self.pre.unsqueeze(-1)
        out = self.operator.apply(values, self.reverse)
        if self.self_term is not None:
            out = out - self.self_term.unsqueeze(-1) * values
        return out if self.post is None else out * self.post.unsqueeze(-1)

    @property
    def shape(self) -> tuple[int, int]:
        """(B, N); B = 1 applies to any batch."""
        return self.features.shape[0], self.features.shape[1]

    @property
    def is_symmetric(self) -> bool:
        """True if K and its normalisation are symmetric; for a lattice only after `symmetrized()`."""
        return self.operator.is_symmetric and self.normalization in ("none", "symmetric")

    @property
    def is_positive_semidefinite(self) -> bool:
        """True if this is certain: a Gaussian sum with its self term has no negative eigenvalue."""
        return self.is_symmetric and self.self_term is None and isinstance(self.operator, Exact | Separable)

    @property
    def T(self) -> GaussianKernel:
        """The adjoint: <K x, y> = <x, K.T y>; "before" and "after" are exchanged."""
        adjoint = copy.copy(self)
        adjoint.pre, adjoint.post, adjoint.reverse = self.post, self.pre, not self.reverse
        adjoint.normalization = {"before": "after", "after": "before"}.get(
            self.normalization, self.normalization
        )
        return adjoint

    def symmetrized(self) -> GaussianKernel | SymmetrizedKernel:
        """(K + Kᵀ) / 2; the kernel itself if it is symmetric."""
        return self if self.is_symmetric else SymmetrizedKernel(self)

    def error(self, values: Tensor | None = None, rows: int = 256, seed: int = 0) -> float:
        """Measured relative L2 error of the filter on your own points, at `rows` random ones per picture.

        |K v / K 1 - E v / E 1| / |E v / E 1|, E the exact Gaussian sum in float64. The filter is compared as
        a weighted average, regardless of the kernel's own normalisation, because a lattice's amplitude is
        arbitrary. Masked points are excluded. Takes O(rows · N).

        values  Float[B, N, C]; None: noisy softmax maps of 21 regions of the feature space

        >>> GaussianKernel(torch.rand(1, 50, 2), method="exact").error() < 1e-5
        True
        """
        with torch.no_grad():
            batch, points = self.shape
            if rows < 1:
                raise ValueError(f"rows: expected at least 1, got {rows}")
            valid = (
                self.mask
                if self.mask is not None
                else self.features.new_ones(batch, points, dtype=torch.bool)
            )
            if not bool(valid.any()):
                return 0.0
            random = torch.Generator().manual_seed(seed)
            if values is None:
                values = _soft_regions(self.features, random)
            values = check_values(values, batch, points, self.features.device).double()
            batch = max(batch, values.shape[0])
            features, valid = self.features.double().expand(batch, -1, -1), valid.expand(batch, -1)
            # An extra channel of ones gives the normaliser in the same pass.
            signal = torch.cat([values, torch.ones_like(values[..., :1])], -1)
            signal = torch.where(valid.unsqueeze(-1), signal, 0).expand(batch, -1, -1)
            draw = torch.rand(batch, points, generator=random).to(valid.device).masked_fill(~valid, -1)
            draw, pick = draw.topk(min(rows, points), dim=1)
            queries = features.gather(1, pick.unsqueeze(-1).expand(-1, -1, features.shape[2]))
            truth = exact_filter(features, signal, queries)
            dtype = self.features.dtype  # measured in the kernel's own precision
            ours = self.operator.apply(signal.to(dtype), self.reverse).double()
            ours = ours.gather(1, pick.unsqueeze(-1).expand(-1, -1, ours.shape[2]))
            if self.self_term is not None:
                own = signal.gather(1, pick.unsqueeze(-1).expand_as(ours))
                truth = truth - own
                ours = ours - self.self_term.double().expand(batch, -1).gather(1, pick).unsqueeze(-1) * own
            truth, ours = (x[draw >= 0] for x in (truth, ours))
            truth, ours = (x[:, :-1] / x[:, -1:].clamp_min(EPSILON) for x in (truth, ours))
            return float((ours - truth).norm() / truth.norm().clamp_min(EPSILON))

    def __repr__(self) -> str:
        batch, points = self.shape
        return (
            f"GaussianKernel({type(self.operator).__name__.lower()}, B={batch}, N={points}, "
            f"d={self.features.shape[2]}, normalization={self.normalization!r})"
        )

    def _normalize(
        self,
        operator: Operator,
        features: Tensor,
        normalization: str,
        mask: Tensor | None,
        exclude_self: bool,
    ) -> None:
        check_choice("normalization", normalization, NORMALIZATIONS)
        self.operator, self.features, self.mask = operator, features, mask
        self.normalization, self.reverse = normalization, False
        self.pre = self.post = self.self_term = None
        if exclude_self:
            self.self_term = operator.diagonal().expand(features.shape[:2])
        # A lattice excludes masked points itself; other operators are masked on both sides.
        open_ = None if mask is None or isinstance(operator, Lattice) else mask.to(features.dtype)
        scale = None
        if normalization != "none":
            scale = self._scale(power=0.5 if normalization == "symmetric" else 1.0)
        self.pre = scale if normalization in ("before", "symmetric") else open_
        self.post = scale if normalization in ("after", "symmetric") else open_

    def _scale(self, power: float) -> Tensor:
        """1 / n^power, Float[B, N]; 0 at points whose neighbours have no weight within rounding."""
        ones = torch.ones_like(self.features[..., :1])
        if self.mask is not None:
            ones = ones * self.mask.unsqueeze(-1)
        if self.mask is None and isinstance(self.operator, Separable):
            mass = self.operator.mass()
        else:
            mass = self.operator.apply(ones).squeeze(-1)
        least: Tensor | float = 0.0
        if self.self_term is not None:
            mass = mass - self.self_term * ones.squeeze(-1)
            least = 16 * torch.finfo(mass.dtype).eps * self.self_term.detach()
        counts = mass.detach() > least
        if self.mask is not None:
            counts = counts & self.mask
        # `where` twice: the branch not taken must not propagate NaN backward.
        return torch.where(counts, (torch.where(counts, mass, 1) + EPSILON) ** -power, 0)


def _check_operator(operator: Any, features: Any) -> None:
    """Build a filter over the points of features Float[B, N, d]."""
    if not isinstance(operator, Lattice | Exact | Separable):
        raise TypeError(
            f"operator: expected a Lattice, Exact or Separable, got {describe(operator)}; "
            "None builds one as `method` says"
        )
    if not isinstance(features, Tensor) or features.ndim != 3 or not features.is_floating_point():
        raise TypeError(f"features: expected floating-point [B, N, d], got {describe(features)}")
    pictures, points = operator.shape
    if points != features.shape[1] or pictures not in (1, features.shape[0]):
        raise ValueError(
            f"operator: expected one over the points of features {tuple(features.shape)}, got one over "
            f"B = {pictures}, N = {points}; build it from these features"
        )


def _warn_of_sparseness(dimension: int) -> None:
    warn(
        f"features: {dimension} numbers per point; with more than {DENSE_DIMENSION} of them the lattice is "
        "sparse: nearly every point has few neighbours and is averaged with little but itself. Project the "
        "guide's channels to 3 to 5 principal components: guide_components=3 in CRFRNN and "
        "GaussianKernel.bilateral, --guide-components 3 in `crfrnn tiles`"
    )


class SymmetrizedKernel:
    """(K + Kᵀ) / 2 of a kernel, for the free energy and the updates that minimise it.

    >>> kernel = GaussianKernel(torch.rand(1, 6, 2), method="exact", normalization="after").symmetrized()
    >>> matrix = kernel @ torch.eye(6).unsqueeze(0)
    >>> torch.allclose(matrix, matrix.transpose(1, 2))
    True
    """

    is_symmetric = True

    def __init__(self, kernel: GaussianKernel) -> None:
        self.kernel = kernel
        self.shape, self.normalization, self.mask = kernel.shape, kernel.normalization, kernel.mask

    def __matmul__(self, values: Tensor) -> Tensor:
        """Float[B, N, C] -> Float[B, N, C]."""
        # By name: torch.compile treats `object @ tensor` as a product of tensors.
        return 0.5 * (self.kernel.__matmul__(values) + self.kernel.T.__matmul__(values))

    @property
    def T(self) -> SymmetrizedKernel:
        return self

    def symmetrized(self) -> SymmetrizedKernel:
        return self

    def __repr__(self) -> str:
        return f"SymmetrizedKernel({self.kernel!r})"


def _flat_mask(mask: Any, shape: tuple[int, ...]) -> Any:
    """Bool[B, *shape] -> Bool[B, N]; Bool[B, N] is returned unchanged."""
    if not isinstance(mask, Tensor) or tuple(mask.shape[1:]) != shape:
        count = 1
        for n in shape:
            count *= n
        if mask is None or (isinstance(mask, Tensor) and mask.ndim == 2 and mask.shape[1] == count):
            return mask
        expected = ", ".join(["B", *map(str, shape)])
        raise ValueError(
            f"mask: expected a bool tensor [{expected}], True = valid, got {describe(mask)}; "
            "one entry per pixel and picture, without a channel axis"
        )
    return mask.flatten(1)


def _soft_regions(features: Tensor, random: torch.Generator, regions: int = 21) -> Tensor:
    """Float[B, N, regions]: noisy softmax of the nearest random centre, like a network's output."""
    f = features.double()
    f = (f - f.mean(1, keepdim=True)) / f.std(1, keepdim=True, correction=0).clamp_min(1e-12)
    centre = torch.randint(features.shape[1], (regions,), generator=random).to(features.device)
    nearest = torch.cdist(f, f[:, centre]).argmin(-1)
    noise = torch.randn(*nearest.shape, regions, generator=random, dtype=torch.float64).to(f.device)
    return (4 * torch.nn.functional.one_hot(nearest, regions) + 0.5 * noise).softmax(-1)
