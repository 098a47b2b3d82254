# SPDX-License-Identifier: MIT
# Made by scripts/stubs.py from native/bindings.cpp; do not edit.
from collections.abc import Sequence
from typing import Annotated, overload

import numpy
from numpy.typing import NDArray
from torch import Tensor

@overload
def build(
    features: Annotated[
        NDArray[numpy.float32] | Tensor,
        dict(shape=(None, None, None), order="C", device="cpu", writable=False),
    ],
    mask: Annotated[
        NDArray[numpy.uint8] | Tensor, dict(shape=(None, None), order="C", device="cpu", writable=False)
    ]
    | None,
    scale: float,
    rings: int,
    ring_support: int,
    together: int,
    threads: int,
) -> tuple[
    Annotated[NDArray[numpy.float32], dict(shape=(None, None), order="C")],
    Annotated[NDArray[numpy.int32], dict(shape=(None,), order="C")],
]: ...
@overload
def build(
    features: Annotated[
        NDArray[numpy.float64] | Tensor,
        dict(shape=(None, None, None), order="C", device="cpu", writable=False),
    ],
    mask: Annotated[
        NDArray[numpy.uint8] | Tensor, dict(shape=(None, None), order="C", device="cpu", writable=False)
    ]
    | None,
    scale: float,
    rings: int,
    ring_support: int,
    together: int,
    threads: int,
) -> tuple[
    Annotated[NDArray[numpy.float64], dict(shape=(None, None), order="C")],
    Annotated[NDArray[numpy.int32], dict(shape=(None,), order="C")],
]: ...
@overload
def filter(
    values: Annotated[
        NDArray[numpy.float32] | Tensor, dict(shape=(None, None), order="C", device="cpu", writable=False)
    ],
    weights: Annotated[
        NDArray[numpy.float32] | Tensor, dict(shape=(None, None), order="C", device="cpu", writable=False)
    ],
    table: Annotated[
        NDArray[numpy.int32] | Tensor, dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
    reverse: bool,
    threads: int,
    out: Annotated[NDArray[numpy.float32] | Tensor, dict(shape=(None, None), order="C", device="cpu")],
) -> None: ...
@overload
def filter(
    values: Annotated[
        NDArray[numpy.float64] | Tensor, dict(shape=(None, None), order="C", device="cpu", writable=False)
    ],
    weights: Annotated[
        NDArray[numpy.float64] | Tensor, dict(shape=(None, None), order="C", device="cpu", writable=False)
    ],
    table: Annotated[
        NDArray[numpy.int32] | Tensor, dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
    reverse: bool,
    threads: int,
    out: Annotated[NDArray[numpy.float64] | Tensor, dict(shape=(None, None), order="C", device="cpu")],
) -> None: ...
@overload
def weight_gradient(
    x: Annotated[
        NDArray[numpy.float32] | Tensor, dict(shape=(None, None), order="C", device="cpu", writable=False)
    ],
    g: Annotated[
        NDArray[numpy.float32] | Tensor, dict(shape=(None, None), order="C", device="cpu", writable=False)
    ],
    weights: Annotated[
        NDArray[numpy.float32] | Tensor, dict(shape=(None, None), order="C", device="cpu", writable=False)
    ],
    table: Annotated[
        NDArray[numpy.int32] | Tensor, dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
    threads: int,
    out: Annotated[NDArray[numpy.float32] | Tensor, dict(shape=(None, None), order="C", device="cpu")],
) -> None: ...
@overload
def weight_gradient(
    x: Annotated[
        NDArray[numpy.float64] | Tensor, dict(shape=(None, None), order="C", device="cpu", writable=False)
    ],
    g: Annotated[
        NDArray[numpy.float64] | Tensor, dict(shape=(None, None), order="C", device="cpu", writable=False)
    ],
    weights: Annotated[
        NDArray[numpy.float64] | Tensor, dict(shape=(None, None), order="C", device="cpu", writable=False)
    ],
    table: Annotated[
        NDArray[numpy.int32] | Tensor, dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
    threads: int,
    out: Annotated[NDArray[numpy.float64] | Tensor, dict(shape=(None, None), order="C", device="cpu")],
) -> None: ...
@overload
def feature_gradient(
    grad_weights: Annotated[
        NDArray[numpy.float32] | Tensor, dict(shape=(None, None), order="C", device="cpu", writable=False)
    ],
    table: Annotated[
        NDArray[numpy.int32] | Tensor, dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
    threads: int,
    out: Annotated[NDArray[numpy.float32] | Tensor, dict(shape=(None, None), order="C", device="cpu")],
) -> None: ...
@overload
def feature_gradient(
    grad_weights: Annotated[
        NDArray[numpy.float64] | Tensor, dict(shape=(None, None), order="C", device="cpu", writable=False)
    ],
    table: Annotated[
        NDArray[numpy.int32] | Tensor, dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
    threads: int,
    out: Annotated[NDArray[numpy.float64] | Tensor, dict(shape=(None, None), order="C", device="cpu")],
) -> None: ...

class TableShape:
    """What the header of a lattice's table says (native/lattice.hpp)."""

    def __init__(self, header: Sequence[int]) -> None: ...
    @property
    def total(self) -> int:
        """points, masked ones included"""

    @property
    def points(self) -> int: ...
    @property
    def simplices(self) -> int: ...
    @property
    def vertices(self) -> int: ...
    @property
    def dim(self) -> int: ...
    @property
    def together(self) -> int:
        """axes of a group, 1 for one after the other"""

    @property
    def parts(self) -> list[int]:
        """
        words of the header, order, simplex_start, simplex_vertex, simplex_rank, neighbour, ...
        """

header_words: int = 16

def verify(
    table: Annotated[
        NDArray[numpy.int32] | Tensor, dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
    points: int,
    corners: int,
) -> None: ...

class Kernel:
    """One Gaussian kernel of a problem; scales hold one number per pixel."""

    @staticmethod
    def lattice(
        weights: Annotated[
            NDArray[numpy.float32] | Tensor, dict(shape=(None, None), order="C", device="cpu", writable=False)
        ],
        table: Annotated[
            NDArray[numpy.int32] | Tensor, dict(shape=(None,), order="C", device="cpu", writable=False)
        ],
        pre: Annotated[
            NDArray[numpy.float32] | Tensor, dict(shape=(None,), order="C", device="cpu", writable=False)
        ]
        | None = None,
        post: Annotated[
            NDArray[numpy.float32] | Tensor, dict(shape=(None,), order="C", device="cpu", writable=False)
        ]
        | None = None,
    ) -> Kernel: ...
    @staticmethod
    def separable(
        theta: Sequence[float],
        pre: Annotated[
            NDArray[numpy.float32] | Tensor, dict(shape=(None,), order="C", device="cpu", writable=False)
        ]
        | None = None,
        post: Annotated[
            NDArray[numpy.float32] | Tensor, dict(shape=(None,), order="C", device="cpu", writable=False)
        ]
        | None = None,
    ) -> Kernel: ...

class KernelGradient:
    """
    Zeros to which the gradients of one kernel are added; None: not wanted.
    """

    def __init__(
        self,
        *,
        weights: Annotated[NDArray[numpy.float32] | Tensor, dict(shape=(None, None), order="C", device="cpu")]
        | None = None,
        theta: Annotated[NDArray[numpy.float64] | Tensor, dict(shape=(None,), order="C", device="cpu")]
        | None = None,
        pre: Annotated[NDArray[numpy.float32] | Tensor, dict(shape=(None,), order="C", device="cpu")]
        | None = None,
        post: Annotated[NDArray[numpy.float32] | Tensor, dict(shape=(None,), order="C", device="cpu")]
        | None = None,
    ) -> None: ...

class Problem:
    """
    One inference: L labels of B pictures of a grid, in the symbols of native/mean_field.hpp.
    """

    def __init__(
        self,
        *,
        kernels: Sequence[Kernel],
        transform: Annotated[
            NDArray[numpy.float32] | Tensor,
            dict(shape=(None, None, None), order="C", device="cpu", writable=False),
        ],
        batch: int,
        grid: Sequence[int],
        mask: Annotated[
            NDArray[numpy.uint8] | Tensor, dict(shape=(None, None), order="C", device="cpu", writable=False)
        ]
        | None = None,
        clamp: Annotated[
            NDArray[numpy.int32] | Tensor, dict(shape=(None, None), order="C", device="cpu", writable=False)
        ]
        | None = None,
        iterations: int,
        damping: float,
        in_play: float = 0.0,
        threads: int,
    ) -> None: ...

row_room: int = 32

def rows(numbers: int) -> Annotated[NDArray[numpy.float32], dict(shape=(None,), order="C")]: ...
def mean_field(
    problem: Problem,
    unary: Annotated[
        NDArray[numpy.float32] | Tensor,
        dict(shape=(None, None, None), order="C", device="cpu", writable=False),
    ],
    initial: Annotated[
        NDArray[numpy.float32] | Tensor,
        dict(shape=(None, None, None), order="C", device="cpu", writable=False),
    ]
    | None,
    logits: Annotated[
        NDArray[numpy.float32] | Tensor, dict(shape=(None, None, None), order="C", device="cpu")
    ],
    marginals: Annotated[NDArray[numpy.float32] | Tensor, dict(shape=(None,), order="C", device="cpu")]
    | None,
) -> None: ...
def mean_field_labels(
    problem: Problem,
    unary: Annotated[
        NDArray[numpy.float32] | Tensor,
        dict(shape=(None, None, None), order="C", device="cpu", writable=False),
    ],
    labels: Annotated[NDArray[numpy.int16] | Tensor, dict(shape=(None, None), order="C", device="cpu")],
) -> None: ...
def mean_field_backward(
    problem: Problem,
    grad_logits: Annotated[
        NDArray[numpy.float32] | Tensor,
        dict(shape=(None, None, None), order="C", device="cpu", writable=False),
    ],
    marginals: Annotated[NDArray[numpy.float32] | Tensor, dict(shape=(None,), order="C", device="cpu")],
    grad_unary: Annotated[
        NDArray[numpy.float32] | Tensor, dict(shape=(None, None, None), order="C", device="cpu")
    ],
    grad_initial: Annotated[
        NDArray[numpy.float32] | Tensor, dict(shape=(None, None, None), order="C", device="cpu")
    ]
    | None,
    grad_transform: Annotated[
        NDArray[numpy.float32] | Tensor, dict(shape=(None, None, None), order="C", device="cpu")
    ],
    grads: Sequence[KernelGradient],
) -> None: ...
def update(
    problem: Problem,
    unary: Annotated[
        NDArray[numpy.float32] | Tensor, dict(shape=(None, None), order="C", device="cpu", writable=False)
    ],
    marginals: Annotated[
        NDArray[numpy.float32] | Tensor, dict(shape=(None, None), order="C", device="cpu", writable=False)
    ],
    normalize: bool,
    out: Annotated[NDArray[numpy.float32] | Tensor, dict(shape=(None, None), order="C", device="cpu")],
) -> None: ...
def release_kept_memory() -> None: ...
def poison_memory(on: bool) -> None: ...
def refuse_memory(count: int) -> None: ...
def memory_in_use() -> int: ...
def instruction_sets() -> list[str]: ...
def instruction_set() -> str: ...
def use_instruction_set(name: str) -> None: ...
