# SPDX-License-Identifier: MIT
"""Second derivatives, forward mode, torch.func: against finite differences and each other."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad, functional, gradcheck, gradgradcheck

from conformance import LATTICES
from crfrnn import CRFRNN, GaussianKernel, dense_crf_loss, mean_field
from crfrnn.crf.recompute import recomputed
from crfrnn.lattice import Lattice, exact_filter

F64 = torch.float64
close = torch.testing.assert_close
# Away from the borders between simplices, where finite differences are valid.
GENERIC = {"theta_alpha": 3.1234, "theta_beta": 61.567, "theta_gamma": 1.5321}


def picture(dtype: torch.dtype = F64, labels: int = 2, batch: int = 1) -> tuple[Tensor, Tensor]:
    return torch.randn(batch, labels, 3, 4, dtype=dtype), 255 * torch.rand(batch, 3, 3, 4, dtype=dtype)


def difference(f: Callable[[Tensor], Tensor], at: Tensor, step: Tensor, size: float = 1e-6) -> Tensor:
    return (f(at + size * step) - f(at - size * step)) / (2 * size)


@pytest.mark.slow
@pytest.mark.parametrize("backend", [name for name in LATTICES if name != "triton"])
@pytest.mark.parametrize("quality", ["classic", "high"])
@pytest.mark.parametrize(("masked", "reverse"), [(False, False), (True, True)])
def test_a_lattice_in_both_modes_and_twice(backend: str, quality: str, masked: bool, reverse: bool) -> None:
    features = (1.3 * torch.randn(2, 3, 2, dtype=F64)).requires_grad_()
    values = torch.randn(2, 3, 1, dtype=F64, requires_grad=True)
    mask = torch.tensor([[True, True, False], [True, True, True]]) if masked else None

    def run(f: Tensor, v: Tensor) -> Tensor:
        return Lattice.build(f, quality, mask, backend).filter(v, reverse)

    assert gradcheck(run, (features, values), check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(run, (features, values), check_fwd_over_rev=True)


@pytest.mark.slow
@pytest.mark.skipif("triton" not in LATTICES, reason="no interpreter of Triton here")
def test_the_gpu_lattice_as_the_reference() -> None:
    features, values = 1.3 * torch.randn(1, 6, 2, dtype=F64), torch.randn(1, 6, 2, dtype=F64)
    steps = torch.randn_like(features), torch.randn_like(values)

    def results(backend: str) -> list[Tensor]:
        def run(f: Tensor, v: Tensor) -> Tensor:
            return Lattice.build(f, backend=backend).filter(v).square().sum()

        leaves = features.clone().requires_grad_(), values.clone().requires_grad_()
        first = torch.autograd.grad(run(*leaves), leaves, create_graph=True)
        inner = sum((g * s).sum() for g, s in zip(first, steps, strict=True))
        return [torch.func.jvp(run, (features, values), steps)[1], *torch.autograd.grad(inner, leaves)]

    for ours, truth in zip(results("triton"), results("reference"), strict=True):
        close(ours, truth)


@pytest.mark.slow
def test_the_exact_sum_in_forward_mode() -> None:
    shapes = (2, 4, 3), (2, 4, 2), (2, 3, 3)
    inputs = [torch.randn(*shape, dtype=F64, requires_grad=True) for shape in shapes]
    assert gradcheck(exact_filter, inputs, check_forward_ad=True)
    assert gradgradcheck(exact_filter, inputs, check_fwd_over_rev=True)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"spatial_method": "lattice", "label_weights": "matrix"}], ids=str)
def test_the_layer_twice_by_everything(options: dict[str, Any]) -> None:
    unary, image = picture()
    crf = CRFRNN(2, **GENERIC, iterations=2, **options).double()
    names = [name for name, _ in crf.named_parameters()]

    def run(unary: Tensor, image: Tensor, *parameters: Tensor) -> Tensor:
        return torch.func.functional_call(crf, dict(zip(names, parameters, strict=True)), (unary, image))

    inputs = [t.detach().clone().requires_grad_() for t in (unary, image, *crf.parameters())]
    assert gradcheck(run, inputs, check_forward_ad=True, fast_mode=True)
    assert gradgradcheck(run, inputs, fast_mode=True, atol=1e-4)


CASES: list[dict[str, Any]] = [
    {},
    {"damping": 0.7, "clamped": True},
    {"masked": True, "started": True},
    {"spatial_method": "lattice", "normalization": "symmetric", "masked": True},
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_operator_as_the_general_path(case: dict[str, Any]) -> None:
    """float32 runs in one operator that has no graph: its second derivatives are those of float64."""
    case = dict(case)
    labels = 3
    unary, image = picture(labels=labels, batch=2)
    mask = torch.rand(2, 3, 4) > 0.3 if case.pop("masked", False) else None
    clamp = torch.randint(-1, labels, (2, 3, 4)) if case.pop("clamped", False) else None
    initial = torch.randn_like(unary) if case.pop("started", False) else None
    steps = [torch.randn_like(unary), torch.randn_like(image), torch.randn(labels, labels, dtype=F64)]

    def second(dtype: torch.dtype) -> list[Tensor]:
        crf = CRFRNN(labels, **GENERIC, iterations=3, **case).to(dtype)
        own = [t.to(dtype).requires_grad_() for t in (unary, image)]
        leaves = [*own, crf.compatibility]
        start = None if initial is None else initial.to(dtype)
        logits = mean_field(
            own[0], crf.kernels(own[1], mask), (crf.spatial_weights, crf.bilateral_weights),
            crf.compatibility, 3, mask=mask, clamp=clamp, initial=start, damping=crf.damping,
        )  # fmt: skip
        first = torch.autograd.grad(logits.softmax(1)[:, 0].square().sum(), leaves, create_graph=True)
        inner = sum((g * s.to(dtype)).sum() for g, s in zip(first, steps, strict=True))
        wanted = [*leaves, *(p for p in crf.parameters() if p is not crf.compatibility)]
        return [*first, *torch.autograd.grad(inner, wanted)]

    for ours, truth in zip(second(torch.float32), second(F64), strict=True):
        size = float(truth.detach().abs().amax())
        close(ours.double(), truth, rtol=2e-4, atol=2e-4 * size)


def test_forward_mode_of_layer_and_loss() -> None:
    unary, image = picture()
    crf = CRFRNN(2, **GENERIC).double().requires_grad_(False)
    kernel = GaussianKernel.bilateral(image, 3.1234, 61.567)
    for f, at in (
        (lambda u: crf(u, image), unary),
        (lambda i: crf(unary, i), image),
        (lambda u: dense_crf_loss(u, [kernel], [1.0]), unary),
    ):
        step = torch.randn_like(at)
        truth = difference(f, at, step)
        close(torch.func.jvp(f, (at,), (step,))[1], truth, rtol=1e-6, atol=1e-7)
        with forward_ad.dual_level():
            tangent = forward_ad.unpack_dual(f(forward_ad.make_dual(at, step))).tangent
        close(tangent, truth, rtol=1e-6, atol=1e-7)


def test_a_small_step_of_the_weights_keeps_its_digits() -> None:
    """The derivative by the weights is a difference of two filters, with a step relative to the weights."""
    features, values = 2 * torch.randn(1, 40, 3), torch.randn(1, 40, 4)
    step = torch.randn_like(features)

    def run(f: Tensor) -> Tensor:
        return Lattice.build(f).filter(values.to(f.dtype))

    truth = torch.func.jvp(run, (features.double(),), (step.double(),))[1]
    tiny = torch.func.jvp(run, (features,), (1e-6 * step,))[1] * 1e6
    close(tiny.double(), truth, rtol=1e-4, atol=1e-4 * float(truth.abs().amax()))


def test_torch_func_on_the_default_layer() -> None:
    crf = CRFRNN(2, **GENERIC, iterations=2)
    unary, image = picture(torch.float32)

    def value(u: Tensor) -> Tensor:
        return crf(u, image).softmax(1)[:, 0].square().sum()

    leaf = unary.clone().requires_grad_()
    (truth,) = torch.autograd.grad(value(leaf), leaf)
    close(torch.func.grad(value)(unary), truth, rtol=1e-4, atol=1e-5)
    close(torch.func.vjp(value, unary)[1](torch.tensor(1.0))[0], truth, rtol=1e-4, atol=1e-5)
    rows = functional.jacobian(lambda u: crf(u, image), unary)
    for jacobian in (
        torch.func.jacrev(lambda u: crf(u, image))(unary),
        torch.func.jacfwd(lambda u: crf(u, image))(unary),
        functional.jacobian(lambda u: crf(u, image), unary, vectorize=True),
    ):
        close(jacobian, rows, rtol=1e-4, atol=1e-4)
    close(torch.func.hessian(value)(unary), functional.hessian(value, unary), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("method", ["lattice", "exact"])
def test_forward_mode_inside_forward_mode_is_refused(method: str) -> None:
    crf = CRFRNN(2, **GENERIC, bilateral_method=method).double()
    unary, image = picture()

    def slope(u: Tensor) -> Tensor:
        return torch.func.jvp(lambda v: crf(v, image), (u,), (unary,))[1]

    with pytest.raises(NotImplementedError, match=r"forward mode at most once.*jacfwd\(jacrev"):
        torch.func.jvp(slope, (unary,), (unary,))


def test_many_rows_at_once_of_the_exact_method() -> None:
    crf = CRFRNN(2, **GENERIC, spatial_method="exact", bilateral_method="exact", iterations=2).double()
    unary, image = picture()
    for run, at in ((lambda u: crf(u, image), unary), (lambda i: crf(unary, i), image)):
        close(functional.jacobian(run, at, vectorize=True), functional.jacobian(run, at))


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_gradients_of_each_sample(dtype: torch.dtype) -> None:
    crf = CRFRNN(2, **GENERIC, iterations=2).to(dtype)
    unary, image = picture(dtype, batch=3)
    parameters = {name: p.detach() for name, p in crf.named_parameters()}

    def value(p: dict[str, Tensor], u: Tensor, i: Tensor) -> Tensor:
        logits = torch.func.functional_call(crf, p, (u[None], i[None]))
        return logits.softmax(1)[:, 0].square().sum()

    together = torch.vmap(torch.func.grad(value), (None, 0, 0))(parameters, unary, image)
    for sample in range(3):
        crf.zero_grad()
        value(dict(crf.named_parameters()), unary[sample], image[sample]).backward()
        for name, parameter in crf.named_parameters():
            close(together[name][sample], parameter.grad, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"exclude_self": True}], ids=["plain", "without self"])
@pytest.mark.parametrize("axes", [(None, 0), (0, None), (0, 0)])
def test_samples_that_share_a_unary_or_a_picture(options: dict[str, Any], axes: tuple[Any, Any]) -> None:
    crf = CRFRNN(2, **GENERIC, iterations=2, **options).double()
    unary, image = picture(batch=3)
    inputs = [t[:, None] if axis == 0 else t[:1] for t, axis in zip((unary, image), axes, strict=True)]
    samples = list(
        zip(*(x if axis == 0 else [x] * 3 for x, axis in zip(inputs, axes, strict=True)), strict=True)
    )
    close(torch.vmap(crf, axes)(*inputs), torch.stack([crf(u, i) for u, i in samples]))

    def value(u: Tensor, i: Tensor) -> Tensor:
        return crf(u, i).softmax(1)[:, 0].square().sum()

    for each in (
        torch.func.grad(value, (0, 1)),
        torch.func.grad(lambda u, i: torch.func.grad(value)(u, i).sum()),
    ):
        together, alone = torch.vmap(each, axes)(*inputs), [each(u, i) for u, i in samples]
        if isinstance(together, Tensor):
            close(together, torch.stack(alone))
        else:
            for argument in (0, 1):
                close(together[argument], torch.stack([gradients[argument] for gradients in alone]))


def test_several_models_of_one_picture() -> None:
    crf = CRFRNN(2, **GENERIC, iterations=2).double()
    unary, image = picture()
    models = [{name: k * p.detach() for name, p in crf.named_parameters()} for k in (1.0, 0.93)]
    stacked = {name: torch.stack([model[name] for model in models]) for name in models[0]}
    run = lambda model: torch.func.functional_call(crf, model, (unary, image))  # noqa: E731
    close(torch.vmap(run)(stacked), torch.stack([run(model) for model in models]))


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"exclude_self": True}], ids=["plain", "without self"])
def test_nested_levels_of_one_size(options: dict[str, Any]) -> None:
    """Equally many samples inside and outside: a lattice's vmap level cannot be inferred from counts."""
    crf = CRFRNN(2, **GENERIC, iterations=2, **options).double()
    unary, image = (t[:, None, ..., :1, :3] for t in picture(batch=6))
    every = torch.vmap(lambda i: torch.vmap(lambda u: crf(u, i))(unary))(image)
    close(every, torch.stack([torch.stack([crf(u, i) for u in unary]) for i in image]))
    for transform in (torch.func.jacrev, torch.func.jacfwd):  # 6 outputs, 6 samples
        for argument in (0, 1):
            rows = transform(crf, argument)
            alone = torch.stack([rows(u, i) for u, i in zip(unary, image, strict=True)])
            close(torch.vmap(rows)(unary, image), alone)


@pytest.mark.parametrize("backend", [name for name in LATTICES if name != "reference"])
def test_the_diagonal_of_lattices_built_inside(backend: str) -> None:
    features, mask = 1.3 * torch.randn(3, 1, 11, 2, dtype=F64), torch.rand(3, 1, 11) > 0.3
    run = lambda f, m: Lattice.build(f, "default", m, backend).diagonal()  # noqa: E731
    close(
        torch.vmap(run)(features, mask), torch.stack([run(f, m) for f, m in zip(features, mask, strict=True)])
    )


def test_a_tolerance_is_refused_under_vmap() -> None:
    unary, image = picture()
    crf = CRFRNN(2, **GENERIC, tolerance=1e-3).double()
    with pytest.raises(ValueError, match=r"tolerance: .*vmap.*iterations="):
        torch.vmap(crf, (0, None))(unary[None], image)


def test_the_implicit_gradient_has_two_derivatives() -> None:
    options = {"iterations": 200, "bilateral_method": "exact", "spatial_weight": 0.3, "bilateral_weight": 0.5}
    crf = CRFRNN(2, **GENERIC, **options, gradient="implicit", tolerance=1e-13).double()
    unary, image = picture()
    weight, step = torch.randn_like(unary), torch.randn_like(unary)

    def slope(u: Tensor, graph: bool = False) -> Tensor:
        u = u if graph else u.detach().requires_grad_()
        value = (crf(u, image).softmax(1) * weight).sum()
        return torch.autograd.grad(value, u, create_graph=graph)[0]

    leaf = unary.clone().requires_grad_()
    (product,) = torch.autograd.grad((slope(leaf, True) * step).sum(), leaf)
    close(product, difference(slope, unary, step, 1e-5), rtol=1e-6, atol=1e-8)
    with pytest.raises(RuntimeError, match=r"twice.*gradient='unrolled'"):
        torch.autograd.grad((slope(leaf, True) * step).sum(), leaf, create_graph=True)
    with pytest.raises(ValueError, match=r"forward mode.*gradient='unrolled'"):
        torch.func.jvp(lambda u: crf(u, image), (unary,), (step,))
    with forward_ad.dual_level(), pytest.raises(ValueError, match=r"forward mode"):
        crf(forward_ad.make_dual(unary, step), image)


@pytest.mark.parametrize("theta", [3.0, 60.0, 1.5, 7.0])
def test_a_layer_moved_to_float64_keeps_its_bandwidths(theta: float) -> None:
    """exp of a logarithm rounded to float32 differs in float64: enough to change the simplex of a pixel."""
    crf = CRFRNN(2, theta_alpha=theta)
    before = float(crf.log_theta_alpha.exp().detach())
    assert float(crf.double().log_theta_alpha.exp().detach()) == pytest.approx(before, rel=4e-16)
    assert float(crf.float().log_theta_alpha.exp().detach()) == before


def test_a_recomputed_step_keeps_its_input_alone() -> None:
    weight, x = torch.randn(5, dtype=F64, requires_grad=True), torch.randn(5, dtype=F64, requires_grad=True)
    run = lambda x, w: recomputed(lambda x: (x * w).sin().exp(), x)  # noqa: E731
    assert gradcheck(run, (x, weight)) and gradgradcheck(run, (x, weight))
    calls = []
    out = recomputed(lambda x: calls.append(1) or (x * weight).sin(), x)
    assert len(calls) == 1
    for count in (2, 3):
        torch.autograd.grad(out.sum(), [x, weight], retain_graph=True)
        assert len(calls) == count  # once for each backward pass
    drifting = iter([lambda x: x.sin().exp(), lambda x: x.sin()])
    with pytest.raises(RuntimeError, match="expected it to keep"):
        recomputed(lambda x: next(drifting)(x), x).sum().backward()


@pytest.mark.slow
def test_eager_inference_does_not_import_the_compiler() -> None:
    code = (
        "import sys, torch, crfrnn\n"
        "u, i = torch.randn(1, 2, 6, 7, requires_grad=True), torch.rand(1, 3, 6, 7) * 255\n"
        "for dtype, options in ((torch.float64, {}), (torch.float32, dict(activation='relu')),\n"
        "                       (torch.float32, dict(tolerance=1e-3))):\n"
        "    crfrnn.CRFRNN(2, **options).to(dtype)(u.to(dtype), i).sum().backward()\n"
        "sys.exit('torch._dynamo' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
