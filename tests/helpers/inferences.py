# SPDX-License-Identifier: MIT
"""One small inference in many variants, with every gradient, on any backend."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from crfrnn import GaussianKernel, mean_field
from crfrnn.crf import ops
from crfrnn.crf.problem import Problem

CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "one label": {"labels": 1},
    "matrices": {"matrix": True},
    "mask": {"mask": True},
    "clamp": {"clamp": True},
    "mask and clamp, damped": {"mask": True, "clamp": True, "damping": 0.6},
    "initial": {"initial": True},
    "initial, damped": {"initial": True, "damping": 0.5},
    "before": {"normalization": "before"},
    "symmetric": {"normalization": "symmetric"},
    "none": {"normalization": "none"},
    "two lattices": {"kernels": "bbs"},
    "two separables": {"kernels": "ssb"},
    "lattice only": {"kernels": "b"},
    "separable only": {"kernels": "s"},
    "one line": {"grid": (23,)},
    "volume": {"grid": (4, 5, 6)},
    "zero iterations": {"iterations": 0},
    "bandwidths held": {"held": True},
    "bandwidths held, mask": {"held": True, "mask": True},
    "bandwidths held, matrices": {"held": True, "matrix": True},
    "bandwidths held, two lattices": {"held": True, "kernels": "bbs"},
}


# The native core has a separate row type for two, three, four and more packs of sixteen labels.
ROWS = {f"{labels} labels": {"labels": labels} for labels in (16, 17, 33, 40, 49, 64, 65, 90, 150)}


CASES |= ROWS


for name in ("matrices", "mask and clamp, damped", "two lattices", "lattice only", "bandwidths held, mask"):
    for row in ("17 labels", "40 labels", "49 labels", "90 labels"):
        CASES[f"{row}, {name}"] = {**ROWS[row], **CASES[name]}


CASES |= {f"{row}, bandwidths held": {**options, "held": True} for row, options in ROWS.items()}


def inference(dtype: torch.dtype, native: bool, *, labels: int = 5, matrix: bool = False, mask: bool = False,
              clamp: bool = False, initial: bool = False, damping: float = 1.0, normalization: str = "after",
              kernels: str = "bs", grid: tuple[int, ...] = (7, 9), iterations: int = 3,
              held: bool = False, device: str = "cpu") -> list[Tensor]:  # fmt: skip
    """Logits and the gradients of unary, initial, image, bandwidths, weights and compatibility.

    device: where it is computed; what is drawn is the same on all.
    held: without those of image and bandwidths: the backward pass walks each lattice once an iteration.
    """
    random = torch.Generator().manual_seed(3)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    unary, start = draw(2, labels, *grid), draw(2, labels, *grid)
    image = 40 * draw(2, 3, *grid)
    thetas = [4.17 + draw(1).abs() for _ in kernels]
    colours = [31.3 + draw(1).abs() for _ in kernels]
    size = 0.02 if normalization == "none" else 1.0  # sums, not averages
    weights = [size * (draw(labels, labels) if matrix else draw(labels).abs() + 0.5) for _ in kernels]
    compatibility = draw(labels, labels) * 0.3 - torch.eye(labels)
    valid = (torch.rand(2, *grid, generator=random) > 0.25).to(device)
    known = torch.where(torch.rand(2, *grid, generator=random) > 0.8, 0, -1).to(device)
    leaves = [
        t.to(device, dtype).requires_grad_()
        for t in (unary, start, image, compatibility, *thetas, *colours, *weights)
    ]
    unary, start, image, compatibility = leaves[:4]
    n = len(kernels)
    thetas, colours, weights = leaves[4 : 4 + n], leaves[4 + n : 4 + 2 * n], leaves[4 + 2 * n :]
    built = []
    guide = image.detach() if held else image
    if held:
        thetas, colours = [t.detach() for t in thetas], [t.detach() for t in colours]
    for kind, theta, colour in zip(kernels, thetas, colours, strict=True):
        options: dict[str, Any] = {"normalization": normalization, "mask": valid if mask else None}
        if kind == "s":
            built.append(GaussianKernel.spatial(grid, theta * 0.37, **options))
        else:
            backend = None if native else "reference"
            built.append(GaussianKernel.bilateral(guide, theta, colour, backend=backend, **options))
    assert (ops.can(Problem.of(unary, built, weights, compatibility)) is None) == native
    out = mean_field(
        unary, built, weights, compatibility, iterations, mask=valid if mask else None,
        clamp=known if clamp else None, damping=damping, initial=start if initial else None,
    )  # fmt: skip
    weight = torch.randn(out.shape, generator=random, dtype=torch.float64).to(out)
    grads = torch.autograd.grad((out.softmax(1) * weight).sum(), leaves, allow_unused=True)
    return [
        out.detach(),
        *(torch.zeros_like(t) if g is None else g for t, g in zip(leaves, grads, strict=True)),
    ]
