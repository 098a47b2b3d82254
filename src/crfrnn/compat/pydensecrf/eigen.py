# SPDX-License-Identifier: MIT
"""The matrices that pydensecrf returns, here as NumPy arrays that work with all NumPy functions."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from crfrnn.compat.pydensecrf import _checks


class _Eigen(np.ndarray):
    """A column-major float32 array whose functions and operators return plain arrays."""

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        result = super().__array_function__(func, types, args, kwargs)
        return result.view(np.ndarray) if isinstance(result, _Eigen) else result

    def __array_wrap__(self, array: Any, context: Any = None, return_scalar: bool = False) -> Any:
        plain = np.asarray(array)
        return plain[()] if return_scalar or plain.ndim == 0 else plain


class MatrixXf(_Eigen):
    """Float32[rows, columns], column-major: the labels of one pixel are contiguous.

    ``np.array(Q)``, ``np.asarray(Q)`` (a view, writable), ``np.argmax(Q, axis=0)`` and the buffer protocol
    work as in pydensecrf; in addition it has shape, indexing and arithmetic. Without arguments it is empty,
    [0, 0].

    >>> MatrixXf().shape
    (0, 0)
    """

    def __new__(cls, *_: Any) -> MatrixXf:
        return super().__new__(cls, (0, 0), np.float32, order="F")


class VectorXf(_Eigen):
    """Float32[size]; without arguments it is empty.

    >>> VectorXf().shape
    (0,)
    """

    def __new__(cls, *_: Any) -> VectorXf:
        return super().__new__(cls, (0,), np.float32)


def matrixXf(arr: NDArray[np.float32]) -> MatrixXf:
    """A copy of Float32[rows, columns], C-contiguous, as a matrix: for example marginals of your own.

    Raises:
        ValueError: another dtype, number of axes or memory order.
        TypeError: no array.

    >>> matrixXf(np.eye(2, dtype=np.float32)).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    return np.array(_checks.float_array("arr", arr, 2), order="F").view(MatrixXf)


def vectorXf(arr: NDArray[np.float32]) -> VectorXf:
    """A copy of Float32[size], C-contiguous, as a vector; raises as `matrixXf`.

    >>> vectorXf(np.ones(3, np.float32)).tolist()
    [1.0, 1.0, 1.0]
    """
    return np.array(_checks.float_array("arr", arr, 1)).view(VectorXf)
