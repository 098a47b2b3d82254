# SPDX-License-Identifier: MIT
"""The exact filter's kernels, on a GPU or in Triton's interpreter, against the torch version in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from crfrnn import GaussianKernel
from crfrnn.lattice import backend, exact_filter, reference

pytest.importorskip("triton")
F64 = torch.float64
pytestmark = pytest.mark.usefixtures("on_chip")


@pytest.fixture(autouse=True)
def _on_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the default backend of CUDA tensors for CPU tensors."""
    backend.find("triton")  # torch.compile cannot trace its import
    monkeypatch.setitem(backend.BY_DEVICE, "cpu", "triton")


def results(tensors: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """The filter of features, values (and queries), and the gradient of each."""
    leaves = [t.to(dtype).requires_grad_() for t in tensors]
    out = exact_filter(*leaves)
    weight = torch.linspace(-1, 1, out.numel(), dtype=dtype).view_as(out)
    return [out.detach(), *torch.autograd.grad((out * weight).sum(), leaves)]


@pytest.mark.parametrize(
    "batch, points, dimension, channels, queries",
    [(2, 70, 5, 3, None), (1, 5, 1, 1, None), (1, 64, 2, 70, None), (3, 65, 3, 16, 9), (1, 3, 9, 2, 130),
     (2, 1, 3, 2, 1)],
)  # fmt: skip
def test_equals_the_torch_version_with_every_gradient(
    batch: int, points: int, dimension: int, channels: int, queries: int | None
) -> None:
    tensors = [0.7 * torch.randn(batch, points, dimension), torch.randn(batch, points, channels)]
    if queries is not None:
        tensors.append(0.7 * torch.randn(batch, queries, dimension))
    for ours, truth in zip(results(tensors, torch.float32), results(tensors, F64), strict=True):
        scale = float(truth.abs().amax())
        torch.testing.assert_close(ours.double() / scale, truth / scale, rtol=0, atol=1e-5)


def test_it_runs_in_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without this check the tests would also pass with the torch version."""
    monkeypatch.setattr(reference, "kernel_blocks", None)
    features = torch.randn(1, 9, 3, requires_grad=True)
    kernel = GaussianKernel(features, method="exact", mask=torch.arange(9)[None] != 4)
    out = kernel @ torch.randn(2, 9, 2)
    assert (out[:, 4] == 0).all()
    (slope,) = torch.autograd.grad(out.square().sum(), features)
    assert (slope[:, 4] == 0).all() and (slope[:, :4] != 0).all()


def test_empty_input() -> None:
    for batch, points, channels, queries in ((0, 3, 2, 4), (2, 0, 2, 4), (2, 3, 0, 4), (2, 3, 2, 0)):
        features, values = torch.ones(batch, points, 3), torch.ones(batch, points, channels)
        out = exact_filter(features, values, torch.ones(batch, queries, 3))
        assert out.shape == (batch, queries, channels) and (points or (out == 0).all())


def test_float32_keeps_its_digits_far_from_the_origin_and_over_many_tiles() -> None:
    features, values = torch.rand(1, 3000, 3) + 85, torch.rand(1, 3000, 1)
    queries = features[:, :20]
    ours = exact_filter(features, values, queries).double()
    truth = exact_filter(features.double(), values.double(), queries.double())
    torch.testing.assert_close(ours, truth, rtol=5e-7, atol=0)


def test_vmap_and_second_derivatives() -> None:
    features, values = torch.randn(3, 2, 5, 2), torch.randn(3, 2, 5, 1)
    one_by_one = torch.stack([exact_filter(f, v) for f, v in zip(features, values, strict=True)])
    torch.testing.assert_close(torch.func.vmap(exact_filter)(features, values), one_by_one)
    shared = torch.func.vmap(exact_filter, in_dims=(None, 0))(features[0], values)
    torch.testing.assert_close(shared[1], exact_filter(features[0], values[1]))

    def slope(f: Tensor, v: Tensor) -> Tensor:
        return torch.func.grad(lambda f, v: exact_filter(f, v).square().sum())(f, v)

    torch.testing.assert_close(
        torch.func.vmap(slope)(features, values).double(),
        torch.stack([slope(f, v) for f, v in zip(features.double(), values.double(), strict=True)]),
        rtol=1e-4,
        atol=1e-4,
    )
    curves = []
    for dtype in (torch.float32, F64):
        leaf, v = features[0].to(dtype).requires_grad_(), values[0].to(dtype)
        (first,) = torch.autograd.grad(exact_filter(leaf, v).square().sum(), leaf, create_graph=True)
        curves.append(torch.autograd.grad(first.square().sum(), leaf)[0].double())
    torch.testing.assert_close(*curves, rtol=1e-3, atol=1e-3 * float(curves[1].abs().amax()))


def test_opcheck_and_compile() -> None:
    tests = ["test_schema", "test_faketensor"]
    features, values, queries = torch.randn(2, 7, 3), torch.randn(2, 7, 4), torch.randn(2, 5, 3)
    ops = torch.ops.crfrnn
    given = ("triton", features, values, queries)
    torch.library.opcheck(ops.gaussian_sum.default, given, test_utils=tests)
    given = (*given, torch.randn(2, 5, 4), [True, True, True])
    torch.library.opcheck(ops.gaussian_gradients.default, given, test_utils=tests)
    compiled = torch.compile(exact_filter, fullgraph=True, backend="aot_eager")
    leaf = features.clone().requires_grad_()
    slopes = [torch.autograd.grad(f(leaf, values).square().sum(), leaf)[0] for f in (compiled, exact_filter)]
    torch.testing.assert_close(*slopes)
