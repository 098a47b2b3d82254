# SPDX-License-Identifier: MIT
"""vmap over the GPU lattice, on a GPU or in the interpreter, against the reference sample by sample."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.func import vmap

from crfrnn import CRFRNN
from crfrnn.lattice import Lattice, backend

pytest.importorskip("triton")
pytestmark = pytest.mark.usefixtures("on_chip")
close = torch.testing.assert_close


@pytest.fixture
def tensors(on_chip: None) -> tuple[Tensor, Tensor]:
    """Three samples of features [2, 11, 2] and values [2, 11, 3], away from the borders between simplices."""
    return 1.3 * torch.randn(3, 2, 11, 2, dtype=torch.float64), torch.randn(3, 2, 11, 3, dtype=torch.float64)


@pytest.mark.parametrize("quality", ["classic", "default"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
def test_lattices_built_inside(
    tensors: tuple[Tensor, Tensor], quality: str, masked: bool, reverse: bool
) -> None:
    """A lattice per sample, and the gradients of all by features and values."""
    masks = torch.rand(3, 2, 11) > 0.3 if masked else torch.ones(3, 2, 11, dtype=torch.bool)

    def run(backend: str, f: Tensor, v: Tensor, m: Tensor) -> Tensor:
        return Lattice.build(f, quality, m if masked else None, backend).filter(v, reverse)

    leaves = [t.requires_grad_() for t in tensors]
    ours = vmap(lambda f, v, m: run("triton", f, v, m))(leaves[0], leaves[1], masks)
    samples = zip(*leaves, masks, strict=True)
    truth = torch.stack([run("reference", f, v, m) for f, v, m in samples])
    close(ours, truth)
    weight = torch.randn_like(truth)
    for a, b in zip(*(torch.autograd.grad(x, leaves, weight) for x in (ours, truth)), strict=True):
        close(a, b)


def test_a_lattice_built_outside(tensors: tuple[Tensor, Tensor]) -> None:
    """The samples share one lattice, and one backward pass computes many gradients."""
    features, values = tensors[0][0].requires_grad_(), tensors[1].requires_grad_()
    built = Lattice.build(features, backend="triton")
    one_by_one = torch.stack([built.filter(v) for v in values])
    close(vmap(built.filter)(values), one_by_one)
    close(vmap(built.filter, in_dims=2, out_dims=2)(values.movedim(0, 2)), one_by_one.movedim(0, 2))

    out, many = built.filter(values[0]), torch.randn(4, 2, 11, 3, dtype=torch.float64)
    together = vmap(lambda w: torch.autograd.grad(out, [features, values], w, retain_graph=True))(many)
    for i, weight in enumerate(many):
        alone = torch.autograd.grad(out, [features, values], weight, retain_graph=True)
        for a, b in zip(together, alone, strict=True):
            close(a[i], b)
    moved = torch.stack([built.weights, 2 * built.weights, built.weights.flip(1)])
    mapped = vmap(lambda w, v: Lattice(w, built.structure, "triton", built.shape).filter(v))(moved, values)
    for weights, v, ours in zip(moved, values, mapped, strict=True):
        close(ours, Lattice(weights, built.structure, "triton", built.shape).filter(v))


def test_the_layer_over_samples_equals_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(backend.BY_DEVICE, "cpu", "triton")
    crf = CRFRNN(3, theta_alpha=4.3, theta_beta=31.1, theta_gamma=1.1, iterations=2)
    unary, image = torch.randn(2, 3, 4, 5), torch.rand(2, 3, 4, 5) * 255
    one = vmap(lambda u, i: crf(u[None], i[None])[0])
    close(one(unary, image), crf(unary, image), rtol=1e-4, atol=1e-4)
    shared = vmap(lambda u: crf(u[None], image[:1])[0])
    close(shared(unary), crf(unary, image[:1].expand(2, -1, -1, -1)), rtol=1e-4, atol=1e-4)
