# SPDX-License-Identifier: MIT
"""The constants and the unary energies of pydensecrf.densecrf."""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from crfrnn.compat.pydensecrf import _checks


class KernelType(IntEnum):
    """The bandwidths that pydensecrf's C++ can learn: none, one per feature, a matrix; unused here."""

    CONST_KERNEL = 0
    DIAG_KERNEL = 1
    FULL_KERNEL = 2


class NormalizationType(IntEnum):
    """Normalisation of K with n = K·1: none; K/n before or after filtering; n^-½ K n^-½.

    NO_NORMALIZATION is the raw sum of the lattice without any scaling.
    """

    NO_NORMALIZATION = 0
    NORMALIZE_BEFORE = 1
    NORMALIZE_AFTER = 2
    NORMALIZE_SYMMETRIC = 3


CONST_KERNEL = KernelType.CONST_KERNEL
DIAG_KERNEL = KernelType.DIAG_KERNEL
FULL_KERNEL = KernelType.FULL_KERNEL
NO_NORMALIZATION = NormalizationType.NO_NORMALIZATION
NORMALIZE_BEFORE = NormalizationType.NORMALIZE_BEFORE
NORMALIZE_AFTER = NormalizationType.NORMALIZE_AFTER
NORMALIZE_SYMMETRIC = NormalizationType.NORMALIZE_SYMMETRIC


class Unary:
    """Unary energies for `DenseCRF.setUnary`; the base class has none, so all labels are equal."""

    energy: NDArray[np.float32] | None = None


class ConstUnary(Unary):
    """The energies themselves, Float32[L, N], C-contiguous.

    >>> from crfrnn.compat.pydensecrf.densecrf import ConstUnary, DenseCRF
    >>> crf = DenseCRF(3, 2)
    >>> crf.setUnary(ConstUnary(np.zeros((2, 3), np.float32)))
    """

    def __init__(self, u: NDArray[np.float32]) -> None:
        self.energy = _checks.float_array("u", u, 2).copy()


class LogisticUnary(Unary):
    """Energies ``L f`` that are linear in features of the pixels: L Float32[labels, k], f Float32[k, N].

    >>> LogisticUnary(np.ones((2, 1), np.float32), np.ones((1, 3), np.float32)).energy.shape
    (2, 3)
    """

    energy: NDArray[np.float32]

    def __init__(self, L: NDArray[np.float32], f: NDArray[np.float32]) -> None:
        left, right = _checks.float_array("L", L, 2), _checks.float_array("f", f, 2)
        if left.shape[1] != right.shape[0]:
            raise ValueError(
                f"f: expected as many rows as L has columns, {left.shape[1]}, got {_checks.describe(right)}"
            )
        self.energy = left @ right
