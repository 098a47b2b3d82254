# SPDX-License-Identifier: MIT
"""Check that a change keeps every number bit for bit: hashes of results and gradients before and after.

    python scripts/same_bits.py dump before.json      # before the change
    python scripts/same_bits.py dump after.json       # after the change
    python scripts/same_bits.py compare before.json after.json

`dump --only layer,kernels` computes some sections, and `compare` compares those in both files. The script is
one file and only uses the public API and the command line, so that it runs in any checkout, and internals may
change between the two dumps. Inputs depend only on the name of their case, and everything runs on one thread.
Hashes are valid for one machine (instruction set, torch's matrix products): make both dumps on it.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import hashlib
import io
import json
import os
import platform
import sys
import tempfile
import time
import warnings
import zlib
from collections.abc import Callable, Iterable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"  # read once, when torch is imported

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import crfrnn
from crfrnn import CRFRNN, GaussianKernel, Lattice, mean_field

F32, F64 = torch.float32, torch.float64
LABELS = (1, 2, 3, 5, 8, 16, 21, 40, 81, 150)
BOTH = (False, True)
QUALITIES = ("classic", "high")
NORMALIZATIONS = ("none", "before", "after", "symmetric")
GRIDS = {1: (37,), 2: (9, 11), 3: (4, 5, 6)}
THETA: dict[str, Any] = {"theta_alpha": 3.1234, "theta_beta": 41.567, "theta_gamma": 1.5321}

Hashes = dict[str, str]
Section = Callable[["Recorder"], None]
SECTIONS: dict[str, Section] = {}


def section(function: Section) -> Section:
    SECTIONS[function.__name__] = function
    return function


class Recorder:
    """Runs cases and keeps a hash of each of their results, under "section/case/result"."""

    def __init__(self, title: str) -> None:
        self.title, self.hashes = title, Hashes()

    def case(self, name: str, run: Callable[..., dict[str, Any]], *words: Any, **options: Any) -> None:
        """`run` returns results by name; an exception is a result too, by its type."""
        torch.manual_seed(zlib.crc32(name.encode()))
        place = f"{self.title}/{name}"
        try:
            results = run(*words, **options)
        except Exception as error:
            results = {"error": type(error).__name__}
            print(f"{place}: {type(error).__name__}: {error}", file=sys.stderr)
        for key, value in results.items():
            assert f"{place}/{key}" not in self.hashes, f"{place}/{key} twice"
            self.hashes[f"{place}/{key}"] = digest(value)


def digest(value: Any) -> str:
    """A hash of dtype, shape and bytes of a tensor or array; of other values, of their text."""
    if isinstance(value, Tensor):
        value = value.detach().cpu().contiguous()
        value = (value.view(torch.int16) if value.dtype == torch.bfloat16 else value).numpy()
    if not isinstance(value, np.ndarray):
        return repr(value)
    value = np.ascontiguousarray(value)
    return hashlib.sha256(f"{value.dtype} {value.shape} ".encode() + value.tobytes()).hexdigest()[:16]


def gradients(out: Tensor, leaves: dict[str, Tensor], prefix: str = "") -> dict[str, Any]:
    """`out` and the gradients of a weighted sum of it; "none" for a leaf it does not depend on."""
    weight = torch.randn(out.shape, dtype=out.dtype)
    total = (out * weight).sum()
    grads: Sequence[Tensor | None] = [None] * len(leaves)
    if total.requires_grad:
        grads = torch.autograd.grad(total, list(leaves.values()), retain_graph=True, allow_unused=True)
    named = {f"{prefix}d {key}": "none" if g is None else g for key, g in zip(leaves, grads, strict=True)}
    return {f"{prefix}out": out, **named}


def scene(
    labels: int, grid: Sequence[int], dtype: torch.dtype = F32, batch: int = 2, channels: int = 3
) -> tuple[Tensor, Tensor]:
    """A unary and an image with a smooth half and a noisy half, both with gradients."""
    unary = 2 * torch.randn(batch, labels, *grid, dtype=F64)
    image = 255 * torch.rand(batch, channels, *grid, dtype=F64)
    half = grid[-1] // 2
    image[..., :half] = 40 + 0.1 * image[..., :half]
    return unary.to(dtype).requires_grad_(), image.to(dtype).requires_grad_()


def run_layer(
    labels: int,
    grid: Sequence[int],
    dtype: torch.dtype = F32,
    *,
    batch: int = 2,
    channels: int = 3,
    masked: bool = False,
    clamped: bool = False,
    call: dict[str, Any] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """The layer's logits and every gradient."""
    unary, image = scene(labels, grid, dtype, batch, channels)
    crf = CRFRNN(labels, **{"quality": "classic", **THETA, **options})
    with torch.no_grad():  # every parameter changed, so that no term is zero or equal to another
        for parameter in crf.parameters():
            parameter.mul_(1 + 0.05 * torch.rand(parameter.shape))
        crf.compatibility.add_(0.03 * torch.rand(crf.compatibility.shape))
    crf.to(dtype)
    mask = torch.rand(batch, *grid) > 0.25 if masked else None
    clamp = torch.randint(-1, max(labels, 2), (batch, *grid)) if clamped else None
    out = crf(unary, image, mask=mask, clamp=clamp, **(call or {}))
    return gradients(out, {"unary": unary, "image": image, **dict(crf.named_parameters())})


@section
def layer(record: Recorder) -> None:
    for labels, dtype, steps in product(LABELS, (F32, F64), (0, 1, 5)):
        name = f"{labels} labels, {dtype}, T={steps}"
        record.case(name, run_layer, labels, (9, 11), dtype, iterations=steps)
    for labels, axes, masked, clamped, dtype in product((1, 3, 21, 40), GRIDS, BOTH, BOTH, (F32, F64)):
        name = f"{labels} labels, {axes} axes, {dtype}, mask {masked}, clamp {clamped}"
        more = {"masked": masked, "clamped": clamped, "iterations": 3}
        record.case(name, run_layer, labels, GRIDS[axes], dtype, **more)
    for labels, dtype in product((1, 2, 3, 8, 21), (F32, F64)):
        name = f"{labels} labels, {dtype}, matrices"
        record.case(name, run_layer, labels, (9, 11), dtype, label_weights="matrix")
    kinds = product(NORMALIZATIONS, QUALITIES, ("separable", "lattice", "exact"), ("lattice", "exact"))
    for (norm, quality, spatial, bilateral), labels, dtype in product(kinds, (3, 21), (F32, F64)):
        chosen = {"normalization": norm, "quality": quality, "iterations": 2, "masked": labels == 21}
        chosen |= {"spatial_method": spatial, "bilateral_method": bilateral}
        name = f"{labels} labels, {dtype}, {norm}, {quality}, {spatial}, {bilateral}"
        record.case(name, run_layer, labels, (7, 8), dtype, **chosen)


OPTIONS: dict[str, dict[str, Any]] = {
    "damping": {"damping": 0.6},
    "damping, mask, clamp": {"damping": 0.6, "masked": True, "clamped": True},
    "relu": {"activation": "relu"},
    "relu, mask, clamp": {"activation": "relu", "masked": True, "clamped": True},
    "sigmoid": {"activation": "sigmoid"},
    "sigmoid, mask": {"activation": "sigmoid", "masked": True},
    "no self term": {"exclude_self": True},
    "no self term, mask": {"exclude_self": True, "masked": True, "spatial_method": "lattice"},
    "temperature": {"temperature": 1.7},
    "temperature, T=0": {"temperature": 1.7, "iterations": 0},
    "tolerance": {"tolerance": 1e-2, "iterations": 20},
    "crfasrnn": {"preset": "crfasrnn", **dict.fromkeys(THETA)},
    "own defaults": dict.fromkeys(THETA),
    "per axis and channel": {
        "theta_alpha": (3.1, 4.2),
        "theta_beta": (31.0, 42.0, 53.0),
        "theta_gamma": (1.3, 1.9),
    },
    "wide spatial kernel": {"theta_gamma": 6.5},
    "nine channels": {"channels": 9},
    "nine channels, three components": {"channels": 9, "guide_components": 3},
    "one channel": {"channels": 1},
    "origin": {"call": {"origin": (13, 7)}},
    "iterations of the call": {"call": {"iterations": 2}},
    "one picture": {"batch": 1},
    "five pictures": {"batch": 5, "masked": True},
    "no picture": {"batch": 0},
}


@section
def options(record: Recorder) -> None:
    for (name, chosen), labels, dtype in product(OPTIONS.items(), (1, 3, 21), (F32, F64)):
        record.case(f"{name}, {labels} labels, {dtype}", run_layer, labels, (9, 11), dtype, **chosen)
    chosen = {"iterations": 60, "tolerance": 1e-5, "spatial_weight": 0.3, "bilateral_weight": 0.5}
    for labels, dtype, masked, method in product((2, 5), (F32, F64), BOTH, ("lattice", "exact")):
        more = {"gradient": "implicit", "masked": masked, "bilateral_method": method, **chosen}
        name = f"implicit, {labels} labels, {dtype}, mask {masked}, {method}"
        record.case(name, run_layer, labels, (6, 7), dtype, **more)
    record.case("dtypes and layouts", dtypes_and_layouts)


def dtypes_and_layouts() -> dict[str, Any]:
    unary, image = scene(4, (9, 11))
    crf = CRFRNN(4, **THETA, quality="classic").eval()
    return {
        "uint8": crf(unary, image.detach().to(torch.uint8)),
        "half": crf(unary.half(), image.half()),
        "bfloat16": crf(unary.bfloat16(), image),
        "channels last": crf(unary.contiguous(memory_format=torch.channels_last), image),
        "strided": crf(unary[..., ::2], image[..., ::2]),
    }


class Dense:
    """A kernel that is not the package's: a matrix."""

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix

    def __matmul__(self, values: Tensor) -> Tensor:
        return self.matrix.to(values.dtype) @ values


def infer(
    labels: int, dtype: torch.dtype, kinds: str, weight: str, steps: int, damping: float = 1.0,
    masked: bool = False, clamped: bool = False, started: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """`mean_field` with one kernel per letter: lattice, transposed lattice, exact, separable, dense."""
    grid, batch = (6, 7), 2
    unary, image = scene(labels, grid, dtype, batch)
    mask = torch.rand(batch, *grid) > 0.25 if masked else None
    clamp = torch.randint(-1, labels, (batch, *grid)) if clamped else None
    initial = torch.randn_like(unary).requires_grad_() if started else None
    leaves = {"unary": unary, "image": image} | ({} if initial is None else {"initial": initial})
    built: list[Any] = []
    weights: list[Tensor] = []
    shape = {"number": (), "vector": (labels,), "matrix": (labels, labels)}[weight]
    for index, kind in enumerate(kinds):
        theta = torch.tensor(1.4 + index, dtype=dtype).requires_grad_()
        if kind == "d":
            built.append(Dense(torch.rand(batch, 42, 42, dtype=dtype) / 42))
        elif kind == "s":
            leaves[f"theta {index}"] = theta
            built.append(GaussianKernel.spatial(grid, theta, mask=mask))
        else:
            method = "exact" if kind == "e" else "lattice"
            kernel = GaussianKernel.bilateral(image, 3.3 + index, 37.1, method, "after", "classic", mask=mask)
            built.append(kernel.T if kind == "t" else kernel)
        weights.append((0.5 + torch.rand(shape)).to(dtype).requires_grad_())
        leaves[f"weight {index}"] = weights[-1]
    leaves["compatibility"] = (
        (0.2 * torch.rand(labels, labels) - torch.eye(labels)).to(dtype).requires_grad_()
    )
    out = mean_field(
        unary, built, weights, leaves["compatibility"], steps, mask=mask, clamp=clamp, damping=damping,
        initial=initial,
    )  # fmt: skip
    return gradients(out, leaves)


@section
def inference(record: Recorder) -> None:
    kinds = ("", "l", "s", "e", "ls", "ll", "ss", "lse", "t", "d", "ld")
    for labels, dtype, kernel, weight in product(
        (2, 5, 21), (F32, F64), kinds, ("number", "vector", "matrix")
    ):
        name = f"{labels} labels, {dtype}, kernels '{kernel}', {weight}"
        record.case(name, infer, labels, dtype, kernel, weight, 3)
    for labels, dtype, steps, damping in product((3, 40), (F32, F64), (0, 1, 4), (1.0, 0.7)):
        for masked, clamped, started in product(BOTH, BOTH, BOTH):
            name = (
                f"{labels} labels, {dtype}, T={steps}, damping {damping}, mask {masked}, clamp {clamped}, "
                f"initial {started}"
            )
            record.case(name, infer, labels, dtype, "ls", "vector", steps, damping, masked, clamped, started)


def filter_points(
    dimension: int, channels: int, dtype: torch.dtype = F32, norm: str = "after", method: str = "lattice",
    quality: str = "classic", masked: bool = False, alone: bool = False,
) -> dict[str, Any]:  # fmt: skip
    points = (1.5 * torch.randn(2, 40, dimension, dtype=dtype)).requires_grad_()
    values = torch.randn(2, 40, channels, dtype=dtype).requires_grad_()
    mask = torch.rand(2, 40) > 0.2 if masked else None
    kernel = GaussianKernel(points, method, norm, quality, mask=mask, exclude_self=alone)
    leaves = {"features": points, "values": values}
    return {
        **gradients(kernel @ values, leaves),
        **gradients(kernel.T @ values, leaves, "T "),
        **gradients(kernel.symmetrized() @ values, leaves, "symmetrized "),
    }


def filter_grid(axes: int, norm: str, dtype: torch.dtype, method: str, masked: bool) -> dict[str, Any]:
    theta = torch.tensor([1.3, 2.1, 1.7][:axes], dtype=dtype).requires_grad_()
    mask = torch.rand(3, *GRIDS[axes]) > 0.2 if masked else None
    kernel = GaussianKernel.spatial(GRIDS[axes], theta, method, norm, "classic", mask=mask)
    values = torch.randn(3, kernel.shape[1], 5, dtype=dtype).requires_grad_()
    filtered = gradients(kernel @ values, {"theta": theta, "values": values})
    return {"measured error": kernel.error(rows=8), **filtered}


@section
def kernels(record: Recorder) -> None:
    kinds = (("lattice", "classic"), ("lattice", "high"), ("exact", "classic"))
    for dimension, dtype, norm, masked, alone in product(
        (1, 2, 3, 5, 9), (F32, F64), NORMALIZATIONS, BOTH, BOTH
    ):
        for method, quality in kinds[:: 2 if dimension == 9 else 1]:
            name = f"d={dimension}, {dtype}, {norm}, {method}, {quality}, mask {masked}, no self term {alone}"
            record.case(name, filter_points, dimension, 4, dtype, norm, method, quality, masked, alone)
    for dimension, channels in product((*range(1, 9), 13, 20, 32), (1, 2, 3, 5, 8, 16, 21, 33, 64)):
        record.case(f"d={dimension}, {channels} channels", filter_points, dimension, channels)
    methods = ("separable", "lattice", "exact")
    for axes, norm, dtype, method, masked in product(GRIDS, NORMALIZATIONS, (F32, F64), methods, BOTH):
        name = f"spatial, {axes} axes, {norm}, {dtype}, {method}, mask {masked}"
        record.case(name, filter_grid, axes, norm, dtype, method, masked)


def filter_lattice(
    dimension: int, quality: str, dtype: torch.dtype, masked: bool, backend: str
) -> dict[str, Any]:
    points = (1.5 * torch.randn(2, 50, dimension, dtype=dtype)).requires_grad_()
    values = torch.randn(2, 50, 3, dtype=dtype).requires_grad_()
    mask = torch.rand(2, 50) > 0.2 if masked else None
    lattice = Lattice.build(points, quality, mask, backend)
    leaves = {"features": points, "values": values}
    return {
        "vertices": int(lattice.num_vertices),
        **gradients(lattice.filter(values), leaves),
        **gradients(lattice.filter(values, True), leaves, "reverse "),
        **gradients(lattice.diagonal(), leaves, "diagonal "),
    }


@section
def lattices(record: Recorder) -> None:
    for dimension, quality, dtype, masked, backend in product(
        (1, 2, 3, 5, 7), QUALITIES, (F32, F64), BOTH, ("cpu", "reference")
    ):
        name = f"d={dimension}, {quality}, {dtype}, mask {masked}, {backend}"
        record.case(name, filter_lattice, dimension, quality, dtype, masked, backend)


def energies_of(labels: int, dtype: torch.dtype, masked: bool, norm: str, alone: bool) -> dict[str, Any]:
    unary, image = scene(labels, (6, 7), dtype)
    mask = torch.rand(2, 6, 7) > 0.2 if masked else None
    clamp = torch.randint(-1, labels, (2, 6, 7))
    common: dict[str, Any] = {"normalization": norm, "mask": mask, "exclude_self": alone}
    spatial = GaussianKernel.spatial((6, 7), 1.4, dtype=dtype, **common)
    exact = GaussianKernel.bilateral(image, 3.3, 37.1, "exact", **common)
    lattice = GaussianKernel.bilateral(image, 3.3, 37.1, quality="classic", **common).symmetrized()
    weight = torch.rand(labels, dtype=dtype).requires_grad_()
    # With one weight per label μ W is symmetric for a diagonal μ only.
    potts = -torch.eye(labels, dtype=dtype)
    leaves = {"unary": unary, "image": image, "weight": weight}
    results: dict[str, Any] = {}
    for name, second in (("exact", exact), ("lattice", lattice)):
        model: list[Any] = [unary, [spatial, second], [0.7, weight], potts]
        free = crfrnn.free_energy(1.3 * unary, *model, mask=mask, clamp=clamp)
        gibbs = crfrnn.gibbs_energy(unary.argmax(1), *model, mask=mask)
        step = crfrnn.monotone_damping(model[1], [0.7, weight.detach()], -potts)
        results |= gradients(free, leaves, f"free {name} ") | gradients(gibbs, leaves, f"gibbs {name} ")
        results[f"damping {name}"] = float(step)
        results[f"trace {name}"] = crfrnn.free_energy_trace(
            *model, iterations=3, mask=mask, clamp=clamp, damping=step
        )
    return results


@section
def energies(record: Recorder) -> None:
    for labels, dtype, masked, norm, alone in product((2, 5), (F32, F64), BOTH, ("none", "symmetric"), BOTH):
        name = f"{labels} labels, {dtype}, mask {masked}, {norm}, no self term {alone}"
        record.case(name, energies_of, labels, dtype, masked, norm, alone)


def losses_of(labels: int, dtype: torch.dtype, reduction: str, masked: bool, cut: bool) -> dict[str, Any]:
    logits, image = scene(labels, (6, 7), dtype)
    mask = torch.rand(2, 6, 7) > 0.2 if masked else None
    common: dict[str, Any] = {"normalization": "none", "mask": mask, "quality": "classic"}
    kernel = GaussianKernel.bilateral(image, 3.3, 37.1, **common)
    spatial = GaussianKernel.spatial((6, 7), 1.4, dtype=dtype, **common)
    weight = torch.rand((), dtype=dtype).requires_grad_()
    loss = crfrnn.dense_crf_loss(
        logits, [kernel, spatial], [weight, 0.3], mask=mask, normalized_cut=cut, reduction=reduction
    )
    target = torch.randint(max(labels, 2), (2, 6, 7)).masked_fill(torch.rand(2, 6, 7) < 0.2, 255)
    robust = crfrnn.robust_log_likelihood(logits, target, robustness=0.02, reduction=reduction)
    leaves = {"logits": logits, "image": image, "weight": weight}
    return gradients(loss, leaves) | gradients(robust, {"logits": logits}, "robust ")


@section
def losses(record: Recorder) -> None:
    for labels, dtype, reduction, masked, cut in product(
        (1, 2, 5, 21), (F32, F64), ("mean", "sum", "none"), BOTH, BOTH
    ):
        name = f"{labels} labels, {dtype}, {reduction}, mask {masked}, cut {cut}"
        record.case(name, losses_of, labels, dtype, reduction, masked, cut)


def derivatives_of(dtype: torch.dtype, **chosen: Any) -> dict[str, Any]:
    crf = CRFRNN(**{"num_labels": 3, "iterations": 2, "quality": "classic", **THETA, **chosen}).to(dtype)
    unary, image = scene(crf.num_labels, (4, 5), dtype)
    names = [key for key, _ in crf.named_parameters()]
    leaves = {"unary": unary, "image": image, **dict(crf.named_parameters())}
    first = torch.autograd.grad(crf(unary, image).sin().sum(), list(leaves.values()), create_graph=True)
    inner = torch.stack([(g * torch.randn_like(g)).sum() for g in first]).sum()
    second = torch.autograd.grad(inner, list(leaves.values()))
    results: dict[str, Any] = {f"first {key}": g for key, g in zip(leaves, first, strict=True)}
    results |= {f"second {key}": g for key, g in zip(leaves, second, strict=True)}

    def pure(*tensors: Tensor) -> Tensor:
        return torch.func.functional_call(crf, dict(zip(names, tensors[2:], strict=True)), tensors[:2])

    fixed = tuple(t.detach() for t in leaves.values())
    for index, key in enumerate(leaves):
        steps = [torch.zeros_like(t) for t in fixed]
        steps[index] = torch.randn_like(fixed[index])
        results[f"jvp {key}"] = torch.func.jvp(pure, fixed, tuple(steps))[1]

    def sample(u: Tensor, i: Tensor) -> Tensor:
        return pure(u[None], i[None], *fixed[2:])

    def value(u: Tensor, i: Tensor) -> Tensor:
        return sample(u, i).sin().sum()

    results["vmap"] = torch.vmap(sample)(*fixed[:2])
    for key, g in zip(
        ("unary", "image"), torch.vmap(torch.func.grad(value, (0, 1)))(*fixed[:2]), strict=True
    ):
        results[f"per sample {key}"] = g
    one = fixed[0][0, ..., :2], fixed[1][0, ..., :2]
    results["jacrev"] = torch.func.jacrev(sample)(*one)
    results["jacfwd"] = torch.func.jacfwd(sample)(*one)
    results["hessian"] = torch.func.hessian(value)(*one)
    return results


@section
def derivatives(record: Recorder) -> None:
    """Second derivatives, forward mode, torch.func."""
    cases: dict[str, dict[str, Any]] = {
        "plain": {},
        "matrices, symmetric": {"label_weights": "matrix", "normalization": "symmetric"},
        "lattices, no self term": {"spatial_method": "lattice", "exclude_self": True},
        "exact": {"spatial_method": "exact", "bilateral_method": "exact"},
        "high, damped": {"quality": "high", "damping": 0.7},
        "one logit": {"num_labels": 1},
    }
    for (name, chosen), dtype in product(cases.items(), (F32, F64)):
        record.case(f"{name}, {dtype}", derivatives_of, dtype, **chosen)


def pydensecrf_of(labels: int, norm: int, weight: str) -> dict[str, Any]:
    from crfrnn.compat.pydensecrf import densecrf, utils

    rng = np.random.default_rng(labels)
    matrix = rng.random((labels, labels)).astype(np.float32)
    compat: Any = {"number": 3.0, "vector": matrix[0].copy(), "matrix": matrix + matrix.T}[weight]
    height, width = 11, 13
    picture = rng.integers(0, 256, (height, width, 3), np.uint8)
    crf = densecrf.DenseCRF2D(width, height, labels)
    probabilities = rng.dirichlet(np.ones(labels), (height, width)).transpose(2, 0, 1)
    crf.setUnaryEnergy(utils.unary_from_softmax(probabilities))
    mode = densecrf.NormalizationType(norm)
    crf.addPairwiseGaussian(sxy=3, compat=compat, normalization=mode)
    crf.addPairwiseBilateral(sxy=(20, 25), srgb=13, rgbim=picture, compat=compat, normalization=mode)
    features = utils.create_pairwise_bilateral((9, 9), (10, 10, 10), picture, chdim=2)
    crf.addPairwiseEnergy(features, compat=2.0, normalization=mode)
    q, *rest = crf.startInference()
    results: dict[str, Any] = {"start": np.array(q)}
    for step in range(3):
        crf.stepInference(q, *rest)
        results |= {f"step {step}": np.array(q), f"divergence {step}": crf.klDivergence(q)}
    return results | {f"T={steps}": np.array(crf.inference(steps)) for steps in (0, 1, 5)}


@section
def pydensecrf(record: Recorder) -> None:
    for labels, norm, weight in product((2, 5, 21), range(4), ("number", "vector", "matrix")):
        record.case(f"{labels} labels, normalization {norm}, {weight}", pydensecrf_of, labels, norm, weight)


def predict(labels: int, **chosen: Any) -> dict[str, Any]:
    network = torch.nn.Conv2d(3, labels, 3, padding=1)
    segmenter = crfrnn.Segmenter(network, CRFRNN(labels, **THETA, quality="classic"))
    picture = np.random.default_rng(labels).integers(0, 256, (60, 70, 3), np.uint8)
    found = crfrnn.Predictor(segmenter, overlap=8, **chosen)(picture, probabilities=True)
    image = scene(labels, (9, 11))[1]
    trained = gradients(segmenter(image), {"image": image, **dict(segmenter.named_parameters())})
    return {"labels": found.labels, "probabilities": found.probabilities, **trained}


def packaged() -> dict[str, Any]:
    picture = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    found = crfrnn.Predictor.from_pretrained()(picture, probabilities=True)
    return {"labels": found.labels, "probabilities": found.probabilities}


@section
def predictor(record: Recorder) -> None:
    ways: dict[str, dict[str, Any]] = {
        "whole": {},
        "shrunk": {"long_side": 40},
        "network alone": {"use_crf": False},
    }
    for labels, tile, (name, chosen) in product((1, 4, 21), (None, 32), ways.items()):
        record.case(f"{name}, {labels} labels, tile {tile}", predict, labels, tile=tile, **chosen)
    record.case("packaged", packaged)


def with_threads(count: int, labels: int, dtype: torch.dtype) -> dict[str, Any]:
    torch.set_num_threads(count)
    try:
        return run_layer(labels, (40, 50), dtype, masked=True, iterations=2)
    finally:
        torch.set_num_threads(1)


@section
def threads(record: Recorder) -> None:
    for labels, dtype in product((1, 3, 21), (F32, F64)):
        record.case(f"{labels} labels, {dtype}, two threads", with_threads, 2, labels, dtype)


def files_below(folder: Path) -> dict[str, Any]:
    """Every array and label map, decoded, so that compression has no effect; no overlays and panels."""
    found: dict[str, Any] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder).as_posix()
        if path.stem.endswith(("_panel", "_overlay")):
            continue
        if path.suffix == ".npz":
            with np.load(path) as arrays:
                found |= {f"{name} {key}": arrays[key] for key in arrays.files}
        elif path.suffix == ".safetensors":
            from safetensors.torch import load_file

            found |= {f"{name} {key}": tensor for key, tensor in load_file(path).items()}
        elif path.suffix == ".tif":
            import rasterio

            with rasterio.open(path) as raster:
                found[name] = raster.read()
        elif path.name.endswith(".nii.gz"):
            import nibabel

            found[name] = np.asarray(nibabel.load(path).dataobj)  # pyright: ignore[reportAttributeAccessIssue]
        elif path.suffix == ".png":
            with Image.open(path) as picture:
                found[name] = np.array(picture)
        elif path.suffix == ".csv":
            with path.open(newline="", encoding="utf-8") as file:
                rows = [[v for k, v in row.items() if k != "seconds"] for row in csv.DictReader(file)]
            found[name] = np.array(rows)
    return found


def run_command(root: Path, out: Path, words: str) -> dict[str, Any]:
    """The exit status and what was written."""
    from crfrnn.cli import main

    out.mkdir(parents=True)
    arguments = [word.replace("ROOT", str(root)).replace("OUT", str(out)) for word in words.split()]
    said = io.StringIO()
    status: Any = 0
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            main(arguments)
        except SystemExit as end:
            status = end.code or 0
    if status:
        print(f"crfrnn {words}: exit status {status}\n{said.getvalue()}", file=sys.stderr)
    return {"status": status} | files_below(out)


@section
def commands(record: Recorder) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        make_inputs(root)
        for case, words in COMMANDS.items():
            record.case(case, run_command, root, root / "out" / case.replace(" ", "_"), words)


COMMANDS = {
    "refine logits": "refine ROOT/images -u ROOT/logits --kind logits --layout lhw --theta-beta 20 "
    "--save-probabilities -o OUT/r",
    "refine labels": "refine ROOT/images -u ROOT/masks --kind labels --labels 3 --quality high -T 3 -o OUT/r",
    "segment": "segment ROOT/images/p0.png -o OUT/s",
    "tiles": "tiles ROOT/scene.tif -u ROOT/scores.tif --kind probabilities --tile 96 --overlap 8 "
    "--theta-alpha 5 --save-probabilities -o OUT/labels.tif",
    "volume": "volume ROOT/t1.nii.gz -u ROOT/p.nii.gz --theta-alpha 5 --theta-gamma 1.8 -T 3 "
    "--save-probabilities -o OUT/labels.nii.gz",
    "pseudo-labels": "pseudo-labels ROOT/images --maps ROOT/cams -j 1 -o OUT/p",
    "fit": "fit ROOT --unaries ROOT/logits --layout lhw --labels 3 --epochs 2 -T 2 -o OUT/fit.safetensors",
    "tune": "tune ROOT --unaries ROOT/logits --layout lhw --labels 3 --trials 2 --folds 2 -T 2 "
    "-o OUT/tuned.safetensors",
    "evaluate": "evaluate ROOT -m plain -m preset:default --unaries ROOT/logits --layout lhw --labels 3 "
    "--samples 20 -o OUT/e",
}


def make_inputs(root: Path) -> None:
    """Six small pictures of three labels with masks, logits and activation maps; a GeoTIFF; a volume."""
    import nibabel
    import rasterio

    rng = np.random.default_rng(7)
    for folder in ("images", "masks", "logits", "cams"):
        (root / folder).mkdir()
    for index in range(6):
        mask = np.zeros((36, 48), np.uint8)
        mask[6:20, 4 + index : 24] = 1
        mask[18:30, 26:40] = 2
        colours = np.array([[60, 60, 60], [200, 90, 60], [70, 120, 210]])[mask]
        picture = np.clip(colours + rng.normal(0, 12, colours.shape), 0, 255).astype(np.uint8)
        Image.fromarray(picture).save(root / f"images/p{index}.png")
        Image.fromarray(mask).save(root / f"masks/p{index}.png")
        logits = 1.5 * np.eye(3)[mask].transpose(2, 0, 1) + rng.normal(0, 1, (3, 36, 48))
        np.save(root / f"logits/p{index}.npy", logits.astype(np.float32))
        maps = np.stack([(mask == label) * 0.8 + 0.1 for label in (1, 2)]).astype(np.float32)
        np.savez(root / f"cams/p{index}.npz", keys=np.array([14, 7]), high_res=maps)
    scene = rng.integers(0, 256, (3, 150, 130), np.uint8)
    scores = rng.dirichlet(np.ones(4), (150, 130)).transpose(2, 0, 1).astype(np.float32)
    for name, values in (("scene", scene), ("scores", scores)):
        shape = {"count": len(values), "height": 150, "width": 130, "dtype": values.dtype}
        with rasterio.open(root / f"{name}.tif", "w", driver="GTiff", **shape) as raster:
            raster.write(values)
    affine = np.diag([1.5, 1.0, 3.0, 1.0])
    guide = (100 + 300 * (rng.random((12, 10, 6)) > 0.5)).astype(np.int16)
    tissue = rng.dirichlet(np.ones(3), (12, 10, 6)).astype(np.float32)
    for name, values in (("t1", guide), ("p", tissue)):
        nibabel.save(nibabel.Nifti1Image(values, affine), root / f"{name}.nii.gz")  # pyright: ignore


def dump(path: Path, only: Iterable[str]) -> None:
    torch.set_num_threads(1)
    chosen = list(only) or list(SECTIONS)
    for name in set(chosen) - set(SECTIONS):
        sys.exit(f"--only: no section {name!r}; there are {', '.join(SECTIONS)}")
    hashes = Hashes()
    for name in chosen:
        begun, record = time.monotonic(), Recorder(name)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            SECTIONS[name](record)
        hashes |= record.hashes
        print(f"{name}: {len(record.hashes)} hashes, {time.monotonic() - begun:.1f} s", file=sys.stderr)
    where = {"machine": platform.machine(), "processor": platform.processor(), "numpy": np.__version__}
    where |= {"python": platform.python_version(), "torch": torch.__version__}
    path.write_text(json.dumps({"where": where, "sections": chosen, "hashes": hashes}, indent=0))


def compare(old: Path, new: Path) -> list[str]:
    """A line per difference; empty if all hashes of the common sections are equal."""
    before, after = (json.loads(path.read_text()) for path in (old, new))
    said = [f"not comparable: {k} {v}, {after['where'].get(k)}" for k, v in before["where"].items()
            if v != after["where"].get(k)]  # fmt: skip
    both = set(before["sections"]) & set(after["sections"])
    if not both:
        said.append("no section is in both files")
    first, second = (
        {name: value for name, value in dumped["hashes"].items() if name.split("/")[0] in both}
        for dumped in (before, after)
    )
    for name in sorted(first.keys() | second.keys()):
        if first.get(name) != second.get(name):
            said.append(f"{name}: {first.get(name, 'absent')} -> {second.get(name, 'absent')}")
    return said


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parsers = parser.add_subparsers(dest="what", required=True)
    dumping = parsers.add_parser("dump", help="compute the hashes of this tree")
    dumping.add_argument("file", type=Path)
    dumping.add_argument("--only", default="", help="sections, with commas: " + ", ".join(SECTIONS))
    comparing = parsers.add_parser("compare", help="say what differs; exit status 1 if anything does")
    comparing.add_argument("old", type=Path)
    comparing.add_argument("new", type=Path)
    given = parser.parse_args(words)
    if given.what == "dump":
        dump(given.file, [name for name in given.only.split(",") if name])
        return 0
    said = compare(given.old, given.new)
    for line in said[:200]:
        print(line)
    print(f"{len(said)} differences" if said else "the same to the last bit")
    return int(bool(said))


if __name__ == "__main__":
    sys.exit(main())
