# SPDX-License-Identifier: MIT
"""CRFRNN: its parameters, its behaviour as a torch module, and every gradient."""

from __future__ import annotations

import copy
import pickle
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck
from torch.func import functional_call

import dense_crf
from crfrnn import CRFRNN, mean_field
from crfrnn.crf.presets import preset_named
from layers import EXACT, LABELS, SIZE, inputs, shaken


def test_start():
    crf = CRFRNN(4)
    assert torch.equal(crf.compatibility, -torch.eye(4))
    preset = preset_named(None)
    assert torch.equal(crf.spatial_weights, torch.full((4,), preset.spatial_weight))
    assert torch.equal(crf.bilateral_weights, torch.full((4,), preset.bilateral_weight))
    thetas = [crf.log_theta_alpha, crf.log_theta_beta, crf.log_theta_gamma]
    torch.testing.assert_close(torch.stack(thetas).exp(), torch.tensor(preset[:3]))
    assert all(parameter.requires_grad for parameter in crf.parameters())
    assert sorted(crf.state_dict()) == [
        "bilateral_weights",
        "compatibility",
        "log_theta_alpha",
        "log_theta_beta",
        "log_theta_gamma",
        "spatial_weights",
    ]


def checks_of(run):
    """The number of calls of each function check… of the validating modules, as "package.name"."""
    seen = Counter()

    def watch(frame, event, _):
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.name == "validate.py" and frame.f_code.co_name.startswith("check_"):
            seen[f"{path.parent.name}.{frame.f_code.co_name}"] += 1

    before = sys.getprofile()
    sys.setprofile(watch)
    try:
        run()
    finally:
        sys.setprofile(before)
    return seen


@pytest.mark.parametrize("methods", [EXACT, {}, {"spatial_method": "lattice"}], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_arguments_are_checked_once(methods, dtype):
    unary, image = inputs(dtype=dtype)
    mask, clamp = torch.ones(unary[:, 0].shape, dtype=torch.bool), torch.zeros_like(unary[:, 0]).long()
    crf = CRFRNN(LABELS, **methods).to(dtype)
    found = checks_of(lambda: crf(unary, image, mask, clamp))
    once = ("unary", "image", "mask", "clamp", "kernels", "damping")
    assert {name: found[f"crf.check_{name}"] for name in once} == dict.fromkeys(once, 1)
    # Once for each kernel over points.
    assert found["lattice.check_features"] == 2 - (crf.spatial_method == "separable")
    kernels, weights = crf.kernels(image, mask), (crf.spatial_weights, crf.bilateral_weights)
    found = checks_of(lambda: mean_field(unary, kernels, weights, crf.compatibility, mask=mask, clamp=clamp))
    assert {name: found[f"crf.check_{name}"] for name in once} == {**dict.fromkeys(once, 1), "image": 0}


def test_arguments_override_a_preset():
    crf = CRFRNN(2, preset="crfasrnn", theta_beta=7.0, label_weights="matrix")
    thetas = [crf.log_theta_alpha, crf.log_theta_beta, crf.log_theta_gamma]
    torch.testing.assert_close(torch.stack(thetas).exp(), torch.tensor([160.0, 7.0, 3.0]))
    assert torch.equal(crf.spatial_weights, 3 * torch.eye(2))
    assert torch.equal(crf.bilateral_weights, 5 * torch.eye(2))


@pytest.mark.parametrize("label_weights", ["vector", "matrix"])
@pytest.mark.parametrize("normalization", ["none", "before", "after", "symmetric"])
@pytest.mark.parametrize("exclude_self", [False, True])
@pytest.mark.parametrize("size", [(12,), (5, 6), (3, 4, 3)], ids=["1-D", "2-D", "3-D"])
def test_against_dense_matrices(label_weights, normalization, exclude_self, size):
    """The whole layer: changed parameters, one bandwidth per axis and channel, mask and clamp."""
    unary, image = inputs(1, size, channels=2, dtype=torch.float64)
    axes = len(size)
    alpha, beta, gamma = [2.0, 3.5, 5.0][:axes], [40.0, 90.0], [0.9, 1.4, 2.0][:axes]
    options = {"label_weights": label_weights, "normalization": normalization, "exclude_self": exclude_self}
    crf = shaken(CRFRNN(LABELS, alpha, beta, gamma, 0.8, 1.3, iterations=3, **options, **EXACT).double())
    rng = np.random.default_rng(0)
    pixels = int(np.prod(size))
    mask, clamp = rng.random(pixels) > 0.2, rng.integers(-1, LABELS, pixels)
    out = crf(
        unary,
        image,
        mask=torch.from_numpy(mask.reshape(1, *size)),
        clamp=torch.from_numpy(clamp.reshape(1, *size)),
    )

    theta = {n: p.detach().exp().numpy() for n, p in crf.named_parameters() if n.startswith("log_theta")}
    points = [
        dense_crf.positions(*size) / theta["log_theta_gamma"],
        dense_crf.features(image[0].numpy(), theta["log_theta_alpha"], theta["log_theta_beta"]),
    ]
    kernels = []
    for p in points:
        matrix = dense_crf.gaussian(p, exclude_self)
        matrix[~mask] = 0
        matrix[:, ~mask] = 0
        kernels.append(dense_crf.normalised(matrix, normalization))
    want = dense_crf.mean_field(
        unary[0].flatten(1).T.numpy(),
        kernels,
        [crf.spatial_weights.detach().numpy(), crf.bilateral_weights.detach().numpy()],
        crf.compatibility.detach().numpy(),
        3,
        mask=mask,
        clamp=clamp,
    )
    known = (clamp >= 0) & mask
    want[known] = 100 * np.eye(LABELS)[clamp[known]]
    np.testing.assert_allclose(out.detach().numpy(), dense_crf.grid(want, size).numpy(), atol=1e-9)


def test_iterations_in_training_in_evaluation_and_per_call():
    unary, image = inputs()
    crf = CRFRNN(LABELS, iterations=2, eval_iterations=4)
    runs = {t: crf(unary, image, iterations=t) for t in (0, 2, 4)}
    assert torch.equal(crf.train()(unary, image), runs[2])
    assert torch.equal(crf.eval()(unary, image), runs[4])
    assert torch.equal(runs[0], unary)
    assert not torch.equal(runs[2], runs[4])
    assert torch.equal(CRFRNN(LABELS, iterations=2).eval()(unary, image), runs[2])


def test_batch_equals_singles():
    unary, image = inputs(3)
    crf = shaken(CRFRNN(LABELS))
    singles = torch.cat([crf(unary[b : b + 1], image[b : b + 1]) for b in range(3)])
    torch.testing.assert_close(crf(unary, image), singles, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("methods", [EXACT, {}], ids=["exact", "lattice"])
def test_padding_under_the_mask_changes_nothing(methods):
    unary, image = inputs(1)
    crf = shaken(CRFRNN(LABELS, theta_alpha=3.0, theta_beta=50.0, **methods))
    wide_unary = torch.nn.functional.pad(unary, (0, 3, 0, 2), value=torch.nan)
    wide_image = torch.nn.functional.pad(image, (0, 3, 0, 2), value=torch.inf)
    mask = torch.zeros(1, SIZE[0] + 2, SIZE[1] + 3, dtype=torch.bool)
    mask[:, : SIZE[0], : SIZE[1]] = True
    out = crf(wide_unary, wide_image, mask=mask)
    torch.testing.assert_close(out[..., : SIZE[0], : SIZE[1]], crf(unary, image), rtol=1e-5, atol=1e-5)
    assert torch.isnan(out[..., SIZE[0] :, :]).all()
    out[..., : SIZE[0], : SIZE[1]].sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in crf.parameters())


def test_uint8_and_strided_pictures():
    unary, image = inputs()
    image = image.round().clamp(0, 255)
    crf = CRFRNN(LABELS)
    want = crf(unary, image)
    assert torch.equal(crf(unary, image.to(torch.uint8)), want)
    last = torch.channels_last
    torch.testing.assert_close(crf(unary.to(memory_format=last), image.to(memory_format=last)), want)
    torch.testing.assert_close(crf(unary.mT.contiguous().mT, image.mT.contiguous().mT), want)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1), (4,), (2, 3, 2)], ids=str)
@pytest.mark.parametrize("labels", [1, 2])
@pytest.mark.parametrize("batch", [0, 1])
def test_odd_but_valid(size, labels, batch):
    unary, image = inputs(batch, size, channels=1, labels=labels)
    crf = CRFRNN(labels)
    out = crf(unary.requires_grad_(), image)
    assert out.shape == unary.shape and torch.isfinite(out).all()
    out.sum().backward()
    assert unary.grad.shape == unary.shape


@pytest.mark.parametrize(
    "methods", [EXACT, {}, {"spatial_method": "lattice"}], ids=["exact", "mixed", "lattice"]
)
def test_float64_is_computed_in_float64(methods):
    unary, image = inputs(dtype=torch.float64)
    crf = CRFRNN(LABELS, **methods)
    double = crf(unary, image)
    assert double.dtype == torch.float64
    single = crf(unary.float(), image.float())
    difference = (double - single).abs().max()
    assert 0 < difference < 1e-3
    # Changes far below float32's resolution have an effect.
    nudged = crf(unary + 1e-12, image)
    assert 0 < (nudged - double).abs().max() < 1e-10


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_and_autocast(dtype):
    unary, image = inputs()
    crf = CRFRNN(LABELS)
    half = crf(unary.to(dtype), image)
    assert half.dtype == dtype
    assert torch.equal(half, crf(unary.to(dtype).float(), image).to(dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(crf(unary, image), crf(unary, image))
        inside = crf(unary, image)
    assert inside.dtype == torch.float32 and torch.equal(inside, crf(unary, image))


def test_copies_agree(tmp_path):
    unary, image = inputs()
    crf = shaken(CRFRNN(LABELS, [60.0, 70.0], [3.0, 4.0, 5.0], 2.0, label_weights="matrix", temperature=1.5))
    want = crf(unary, image)
    torch.save(crf.state_dict(), tmp_path / "crf.pt")
    fresh = CRFRNN(LABELS, [1.0, 1.0], [1.0, 1.0, 1.0], label_weights="matrix", temperature=1.0)
    fresh.load_state_dict(torch.load(tmp_path / "crf.pt"))
    for copied in (copy.deepcopy(crf), pickle.loads(pickle.dumps(crf)), fresh):
        assert torch.equal(copied(unary, image), want)


def test_parameters_are_read_at_call_time():
    unary, image = inputs()
    crf = CRFRNN(LABELS)
    other = {name: p + 0.2 for name, p in crf.named_parameters()}
    want = copy.deepcopy(crf)
    want.load_state_dict({name: p.detach() for name, p in other.items()})
    assert torch.equal(functional_call(crf, other, (unary, image)), want(unary, image))
    gradients = torch.autograd.grad(
        functional_call(crf, other, (unary, image)).square().sum(), list(other.values())
    )
    assert all(g.abs().sum() > 0 for g in gradients)


def test_temperature_divides_the_unary():
    unary, image = inputs()
    warm = CRFRNN(LABELS, temperature=2.0)
    assert warm.log_temperature.requires_grad and CRFRNN(LABELS).log_temperature is None
    torch.testing.assert_close(warm(unary, image), CRFRNN(LABELS)(unary / 2, image))


def test_kernels_are_those_that_forward_uses():
    unary, image = inputs()
    crf = shaken(CRFRNN(LABELS, iterations=3, normalization="symmetric"))
    weights = (crf.spatial_weights, crf.bilateral_weights)
    out = mean_field(unary, crf.kernels(image), weights, crf.compatibility, 3)
    torch.testing.assert_close(out, crf(unary, image), rtol=1e-4, atol=1e-4)


NORMALIZATIONS = ["none", "before", "after", "symmetric"]
ALL_EXACT = {"spatial_method": "exact", "bilateral_method": "exact"}
ALL_LATTICE = {"spatial_method": "lattice", "bilateral_method": "lattice"}


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("methods", [EXACT, ALL_EXACT], ids=["separable", "exact"])
def test_gradcheck_exact(normalization, methods):
    check_every_gradient(normalization=normalization, **methods)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("quality", ["classic", "default", "high", "finest"])
def test_gradcheck_lattice(normalization, quality):
    """At bandwidths and colours away from the borders between simplices."""
    check_every_gradient(normalization=normalization, quality=quality, **ALL_LATTICE)


@pytest.mark.slow
@pytest.mark.parametrize("methods", [EXACT, ALL_LATTICE], ids=["exact", "lattice"])
def test_gradcheck_entry_by_entry(methods):
    check_every_gradient(fast_mode=False, **methods)


@pytest.mark.parametrize(
    "option", [{"exclude_self": True}, {"activation": "relu"}, {"damping": 0.6}], ids=str
)
def test_gradcheck_options(option):
    check_every_gradient(**option, **EXACT)


def check_every_gradient(fast_mode=True, **options):
    """Unary, picture, both weights, compatibility, one bandwidth per axis and channel, temperature.

    The fast mode compares the derivative along random directions instead of entry by entry.
    """
    unary, image = inputs(1, (2, 3), labels=2, dtype=torch.float64, seed=3)
    start = ([6.1234, 5.4321], [41.37, 67.13, 53.71], 1.7321, 0.7, 0.9)
    crf = CRFRNN(2, *start, iterations=2, temperature=1.3, label_weights="matrix", **options).double()
    names = [name for name, _ in shaken(crf).named_parameters()]

    def run(unary, image, *values):
        return functional_call(crf, dict(zip(names, values, strict=True)), (unary, image))

    leaves = [t.detach().clone().requires_grad_() for t in (unary, image, *crf.parameters())]
    assert gradcheck(run, leaves, atol=1e-6, rtol=1e-4, nondet_tol=0, fast_mode=fast_mode)


def test_implicit_gradients_of_all_parameters():
    unary, image = inputs(1, dtype=torch.float64)
    gradients = []
    for way in ("unrolled", "implicit"):
        crf = CRFRNN(
            LABELS, 3.1, 47.0, 1.3, 0.5, 0.6, iterations=120, gradient=way, temperature=1.2, **EXACT
        ).double()
        leaves = [unary.clone().requires_grad_(), image.clone().requires_grad_(), *crf.parameters()]
        gradients.append(torch.autograd.grad(torch.tanh(crf(*leaves[:2])).square().sum(), leaves))
    for unrolled, implicit in zip(*gradients, strict=True):
        assert unrolled.abs().max() > 0
        torch.testing.assert_close(implicit, unrolled, rtol=1e-7, atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("call", ["plain", "mask and clamp"])
def test_compile_without_graph_break(backend, call):
    torch.compiler.reset()
    unary, image = inputs()
    options = {}
    if call != "plain":
        generator = torch.Generator().manual_seed(0)
        options["mask"] = torch.rand(2, *SIZE, generator=generator) > 0.2
        options["clamp"] = torch.randint(-1, LABELS, (2, *SIZE), generator=generator)
    crf = shaken(CRFRNN(LABELS, iterations=2, damping=0.9, **EXACT))
    compiled = torch.compile(crf, fullgraph=True, backend=backend)
    gradients = []
    for model in (crf, compiled):
        out = model(unary, image, **options)
        gradients.append((out, *torch.autograd.grad(out.square().sum(), list(crf.parameters()))))
    for eager, traced in zip(*gradients, strict=True):
        torch.testing.assert_close(traced, eager, rtol=1e-4, atol=1e-4)
