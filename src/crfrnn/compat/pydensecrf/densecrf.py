# SPDX-License-Identifier: MIT
"""pydensecrf.densecrf: a dense CRF built by successive calls, with inference at once or step by step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crfrnn.compat.pydensecrf import _checks
from crfrnn.compat.pydensecrf._engine import QUALITY, running, scattered_kernel, spatial_kernel
from crfrnn.compat.pydensecrf._parts import CONST_KERNEL as CONST_KERNEL
from crfrnn.compat.pydensecrf._parts import DIAG_KERNEL as DIAG_KERNEL
from crfrnn.compat.pydensecrf._parts import FULL_KERNEL as FULL_KERNEL
from crfrnn.compat.pydensecrf._parts import NO_NORMALIZATION as NO_NORMALIZATION
from crfrnn.compat.pydensecrf._parts import NORMALIZE_AFTER as NORMALIZE_AFTER
from crfrnn.compat.pydensecrf._parts import NORMALIZE_BEFORE as NORMALIZE_BEFORE
from crfrnn.compat.pydensecrf._parts import NORMALIZE_SYMMETRIC as NORMALIZE_SYMMETRIC
from crfrnn.compat.pydensecrf._parts import ConstUnary as ConstUnary
from crfrnn.compat.pydensecrf._parts import KernelType as KernelType
from crfrnn.compat.pydensecrf._parts import LogisticUnary as LogisticUnary
from crfrnn.compat.pydensecrf._parts import NormalizationType as NormalizationType
from crfrnn.compat.pydensecrf._parts import Unary as Unary
from crfrnn.compat.pydensecrf._picture import picture
from crfrnn.compat.pydensecrf.eigen import MatrixXf
from crfrnn.crf import GaussianKernel, mean_field
from crfrnn.crf.problem import IN_PLAY
from crfrnn.crf.update import update

_NORMALIZATIONS = {
    NO_NORMALIZATION: "none",
    NORMALIZE_BEFORE: "before",
    NORMALIZE_AFTER: "after",
    NORMALIZE_SYMMETRIC: "symmetric",
}
_PART = 1 << 15  # pixels at a time: blocks that fit the cache are three times as fast


class DenseCRF:
    """A dense CRF over N points (pixels of a grid in any number of dimensions) and L labels.

    ``Q ← softmax(-U - Σ_m C_m (K_m Q))``, all points at once, from ``softmax(-U)``; U are the unary energies,
    K_m Gaussian kernels on permutohedral lattices, C_m the cost of two neighbouring labels: -w I for a
        number w (agreement is rewarded), diag(v) for a vector, (M + Mᵀ) / 2 for a matrix.

    Args:
        nvar: N ≥ 1.
        nlabels: L ≥ 1.

    Source: Krähenbühl & Koltun, NIPS 2011, arXiv:1210.5644; interface of pydensecrf.

    >>> crf = DenseCRF(4, 2)
    >>> crf.setUnaryEnergy(np.array([[0, 0, 1, 0], [2, 2, 0, 2]], np.float32))
    >>> crf.addPairwiseEnergy(np.arange(4, dtype=np.float32)[None] / 2, compat=5)
    >>> np.argmax(crf.inference(5), axis=0).tolist()
    [0, 0, 0, 0]
    """

    def __init__(self, nvar: int, nlabels: int) -> None:
        self._nvar = _checks.integer("nvar", nvar, 1)
        self._nlabels = _checks.integer("nlabels", nlabels, 1)
        self._unary: Tensor | None = None  # logits Float32[1, L, N]
        self._rows: Tensor | None = None  # the same as Float32[N, L], created at the first step
        self._kernels: list[GaussianKernel] = []
        self._costs: list[Tensor] = []  # [], [L] or [L, L] each

    def setUnary(self, u: Unary) -> None:
        """Set the unary energies from a `ConstUnary` or `LogisticUnary`; it can be reused."""
        if not isinstance(u, Unary):
            raise TypeError(
                f"u: expected a Unary, got {type(u).__name__}; wrap an array in ConstUnary(u), "
                "or call setUnaryEnergy(u)"
            )
        self._set(u.energy)

    def setUnaryEnergy(self, u: NDArray[np.float32], f: NDArray[np.float32] | None = None) -> None:
        """Set the unary energies U, Float32[L, N], C-contiguous, -log of probabilities; they are copied.

        With f, Float32[k, N], u is Float32[L, k] and the energies are ``u f``. +inf forbids a label.

        Raises:
            ValueError: another shape, dtype or memory order; NaN, -inf, or +inf for every label of a pixel.
            TypeError: not an array.
        """
        self._set(_checks.float_array("u", u, 2) if f is None else LogisticUnary(u, f).energy)

    def addPairwiseEnergy(
        self,
        features: NDArray[np.float32],
        compat: float | NDArray[np.float32],
        kernel: KernelType | int = DIAG_KERNEL,
        normalization: NormalizationType | int = NORMALIZE_SYMMETRIC,
    ) -> None:
        """Add the kernel ``exp(-½ |f_i - f_j|²)``.

        Args:
            features: Float32[d, N], C-contiguous, divided by the bandwidths. d ≤ 8 runs in the compiled
                lattice, more in plain torch, slowly.
            compat: a number w, Float32[L] or Float32[L, L]: see the class.
            kernel: has no effect on inference.
            normalization: normalisation of the kernel.

        Raises:
            ValueError: another shape, dtype or memory order; NaN or infinity; an unknown constant.
            TypeError: not an array or number.

        Warns:
            UserWarning: an asymmetric matrix, which is symmetrised.
        """
        points = _checks.float_array("features", features, 2)
        if points.shape[1] != self._nvar or points.shape[0] < 1:
            raise ValueError(
                f"features: expected shape (d, {self._nvar}), d ≥ 1, got {_checks.describe(points)}; "
                "one row per feature, one column per point"
            )
        mode = self._mode(kernel, normalization)
        cost = _checks.compatibility(compat, self._nlabels)
        with running():
            self._add(scattered_kernel(torch.from_numpy(points.T.copy())[None], mode), cost)

    def inference(self, niter: int) -> MatrixXf:
        """The marginals after `niter` updates, Float32[L, N]; 0 or less gives ``softmax(-U)``."""
        with running():
            return _matrix(self._inferred(niter)[0])

    def _inferred(self, niter: int) -> Tensor:
        """Logits [1, L, N] after `niter` updates; marginals are their softmax."""
        count = max(_checks.integer("niter", niter), 0)
        x = self._logits()
        if not count or not self._kernels:
            return x
        identity = torch.eye(self._nlabels, dtype=torch.float32)
        return mean_field(x, self._kernels, self._costs, identity, count, in_play=IN_PLAY)

    def startInference(self) -> tuple[MatrixXf, MatrixXf, MatrixXf]:
        """``softmax(-U)`` (zeros if no unary is set) and two empty matrices, for `stepInference`."""
        with running():
            rows = self._unary_rows()
            start = torch.softmax(rows, -1) if self._unary is not None else torch.zeros_like(rows)
        return start.numpy().T.view(MatrixXf), MatrixXf(), MatrixXf()

    def stepInference(self, Q: MatrixXf, tmp1: MatrixXf, tmp2: MatrixXf) -> None:
        """One update of Q in place; Q may hold any marginals. tmp1 and tmp2 are unused.

        >>> crf = DenseCRF(3, 2)
        >>> crf.setUnaryEnergy(np.array([[0, 1, 0], [1, 0, 2]], np.float32))
        >>> Q, tmp1, tmp2 = crf.startInference()
        >>> crf.stepInference(Q, tmp1, tmp2)
        >>> np.allclose(Q, crf.inference(1))
        True
        """
        for name, value in (("tmp1", tmp1), ("tmp2", tmp2)):
            _matrix_only(name, value)
        q = self._marginals(Q)
        with running():
            self._update(q, out=q)

    def klDivergence(self, Q: MatrixXf) -> float:
        """``Σ Q log Q + Σ U Q + Σ_m <Q, C_m K_m Q>``, the KL divergence to the model up to a constant.

        As in pydensecrf the pairwise term lacks the factor ½ of the free energy that inference minimises;
        `crfrnn.free_energy` has it.
        """
        q = self._marginals(Q)
        with running():
            x = self._update(q, normalize=False)
            total = 0.0
            for part, logits in zip(q.split(_PART), x.split(_PART), strict=True):
                total += float((part.clamp(min=1e-20).log_() - logits).mul_(part).sum(dtype=torch.float64))
            return total

    def _set(self, energy: NDArray[np.float32] | None) -> None:
        with running():
            self._unary = None if energy is None else _checks.logits(energy, self._nlabels, self._nvar)
            self._rows = None

    def _mode(self, kernel: Any, normalization: Any) -> str:
        _checks.member("kernel", kernel, KernelType)
        return _NORMALIZATIONS[_checks.member("normalization", normalization, NormalizationType)]

    def _add(self, kernel: GaussianKernel, cost: Tensor) -> None:
        self._kernels.append(kernel)
        self._costs.append(cost)

    def _logits(self) -> Tensor:
        if self._unary is not None:
            return self._unary
        return torch.zeros(1, self._nlabels, self._nvar, dtype=torch.float32)

    def _unary_rows(self) -> Tensor:
        if self._rows is None:
            self._rows = torch.empty(self._nvar, self._nlabels, dtype=torch.float32)
            for part, out in zip(self._logits()[0].T.split(_PART), self._rows.split(_PART), strict=True):
                out.copy_(part)
        return self._rows

    def _marginals(self, Q: Any) -> Tensor:
        """The memory of Q as Float32[N, L]."""
        _matrix_only("Q", Q)
        if Q.shape != (self._nlabels, self._nvar):
            raise ValueError(
                f"Q: expected shape {(self._nlabels, self._nvar)}, got {Q.shape}; use startInference()"
            )
        return torch.from_numpy(np.asarray(Q).T)

    def _update(self, q: Tensor, out: Tensor | None = None, normalize: bool = True) -> Tensor:
        return update(self._unary_rows(), q, self._kernels, self._costs, normalize, out)


class DenseCRF2D(DenseCRF):
    """A dense CRF over a picture of w × h pixels in row-major order, with L labels.

    >>> crf = DenseCRF2D(5, 4, 2)
    >>> crf.setUnaryEnergy(np.zeros((2, 20), np.float32))
    >>> crf.addPairwiseGaussian(sxy=3, compat=3)
    >>> crf.addPairwiseBilateral(sxy=80, srgb=13, rgbim=np.zeros((4, 5, 3), np.uint8), compat=10)
    >>> np.array(crf.inference(5)).reshape(2, 4, 5).shape
    (2, 4, 5)
    """

    def __init__(self, w: int, h: int, nlabels: int) -> None:
        self._w, self._h = _checks.integer("w", w, 1), _checks.integer("h", h, 1)
        super().__init__(self._w * self._h, nlabels)

    def addPairwiseGaussian(
        self,
        sxy: float | Sequence[float],
        compat: float | NDArray[np.float32],
        kernel: KernelType | int = DIAG_KERNEL,
        normalization: NormalizationType | int = NORMALIZE_SYMMETRIC,
    ) -> None:
        """Add ``exp(-½ |p_i - p_j|² / sxy²)``: smoothness independent of the picture.

        Args:
            sxy: in pixels, a number or (sx, sy).
            compat, kernel, normalization: as in `addPairwiseEnergy`.

        Raises:
            ValueError, TypeError: as `addPairwiseEnergy`; IndexError: too few bandwidths.
        """
        mode = self._mode(kernel, normalization)
        sx, sy = _checks.widths("sxy", sxy, 2, "pixels")
        cost = _checks.compatibility(compat, self._nlabels)
        with running():
            self._add(spatial_kernel((self._h, self._w), (sx, sy), mode), cost)

    def addPairwiseBilateral(
        self,
        sxy: float | Sequence[float],
        srgb: float | Sequence[float],
        rgbim: NDArray[np.uint8],
        compat: float | NDArray[np.float32],
        kernel: KernelType | int = DIAG_KERNEL,
        normalization: NormalizationType | int = NORMALIZE_SYMMETRIC,
    ) -> None:
        """Add ``exp(-½ |p_i - p_j|² / sxy² - ½ |I_i - I_j|² / srgb²)``: labels change where colours change.

        Args:
            sxy: in pixels, a number or (sx, sy).
            srgb: on the scale 0..255, a number or one per channel.
            rgbim: UInt8[h, w, 3], C-contiguous. For other pictures see `utils.create_pairwise_bilateral`.
            compat, kernel, normalization: as in `addPairwiseEnergy`.

        Raises:
            ValueError, TypeError: as `addPairwiseEnergy`; IndexError: too few bandwidths.
        """
        mode = self._mode(kernel, normalization)
        alpha, beta = _checks.widths("sxy", sxy, 2, "pixels"), _checks.widths("srgb", srgb, 3, "0..255")
        given = picture(rgbim, self._h, self._w)
        cost = _checks.compatibility(compat, self._nlabels)
        with running():
            image = torch.from_numpy(given.transpose(2, 0, 1).copy())[None]
            self._add(GaussianKernel.bilateral(image, alpha, beta, "lattice", mode, QUALITY), cost)


def _matrix(logits: Tensor) -> MatrixXf:
    """softmax over the labels of Float32[L, N], column-major as pydensecrf's."""
    rows = logits.new_empty(logits.shape[1], logits.shape[0])
    for part, out in zip(logits.T.split(_PART), rows.split(_PART), strict=True):
        torch.softmax(part.contiguous(), -1, out=out)
    return rows.numpy().T.view(MatrixXf)


def _matrix_only(name: str, value: Any) -> None:
    if not isinstance(value, MatrixXf):
        raise TypeError(
            f"{name}: expected a MatrixXf, got {type(value).__name__}; startInference() returns one, "
            "eigen.matrixXf(array) makes one of a float32 array"
        )
