# SPDX-License-Identifier: MIT
"""A part of `gpu.py`: tries other values of lengths and sizes that were chosen without a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import product
from types import ModuleType
from typing import Any

import torch

import crfrnn
from crfrnn.crf.ops import unchecked
from crfrnn.crf.triton import band as triton_band
from crfrnn.crf.triton import problem as triton_problem
from crfrnn.crf.triton.problem import Problem
from crfrnn.lattice import Lattice
from crfrnn.lattice.triton import build, filter
from crfrnn.lattice.triton.filter import Passes, Structure
from crfrnn.lattice.triton.launch import Launcher, ceil_div
from gpu_bench import PARAMETERS, Bench, Row

LABELS = 21


@contextmanager
def changed(owner: ModuleType | type, **values: Any) -> Iterator[None]:
    """`owner` with other attributes within the context."""
    before = {name: getattr(owner, name) for name in values}
    try:
        for name, value in values.items():
            setattr(owner, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(owner, name, value)


def settings(bench: Bench) -> list[Callable[[], Iterator[Row]]]:
    """Each a few rows, independent of the others."""
    pieces = (16, 32, 64, 128) if bench.gpu else (32,)
    sizes = product((8, 16, 32, 64), (2, 4, 8)) if bench.gpu else [(32, 4)]
    pixels = product((21, 81), (16, 32, 64), (4, 8)) if bench.gpu else [(3, 32, 4)]
    tiles = product((32, 64, 128), (16, 32, 64), (32, 64, 128)) if bench.gpu else [(16, 16, 16)]
    return [
        *(partial(_piece, bench, piece) for piece in pieces),
        *(partial(_passes, bench, rows, warps) for rows, warps in sizes),
        *(partial(_update, bench, *of) for of in pixels),
        *(partial(_band, bench, tile) for tile in tiles if tile[0] * tile[2] <= 8192),
    ]


def sweep(bench: Bench) -> Iterator[Row]:
    """All settings in sequence; one that does not compile is a row without a number."""
    for setting in settings(bench):
        try:
            yield from setting()
        except Exception as error:
            name = " ".join(str(a) for a in setting.args[1:])  # type: ignore[attr-defined]
            yield "sweep, failed", f"{setting.func.__name__} {name}", float("nan"), "", str(error)[:200]  # type: ignore[attr-defined]


def _lattice(bench: Bench) -> tuple[Structure, torch.Tensor, torch.Tensor]:
    alpha, beta, *_ = PARAMETERS["demo"]
    _, image = bench.picture(2)
    features = crfrnn.GaussianKernel.bilateral(image, alpha, beta, backend="triton").features
    built = Lattice.build(features, backend="triton")
    structure = Structure.of(built.structure)
    return structure, built.weights, torch.rand(len(built.weights), LABELS, device=bench.device)


def _piece(bench: Bench, piece: int) -> Iterator[Row]:
    """Corners summed per row of the splat's passes; "demo" has few corners per vertex, one colour many."""
    alpha, beta, *_ = PARAMETERS["demo"]
    _, image = bench.picture(2)
    for name, guide in (("demo", image), ("one colour", image.mean((2, 3), keepdim=True).expand_as(image))):
        features = crfrnn.GaussianKernel.bilateral(guide, alpha, beta, backend="triton").features
        with changed(build, PIECE=piece):
            built = Lattice.build(features, backend="triton")
        structure, weights = Structure.of(built.structure), built.weights
        values = torch.rand(len(weights), LABELS, device=bench.device)
        passes, share = Passes(structure, LABELS, weights), filter.shares(weights, structure)
        spent = bench.milliseconds(partial(passes.splat, values, share))
        yield "sweep, piece length of the splat", f"{piece}, {name}", spent, "ms", ""


def _passes(bench: Bench, rows: int, warps: int) -> Iterator[Row]:
    structure, weights, values = _lattice(bench)
    share = filter.shares(weights, structure)
    launcher = partial(Launcher, num_warps=warps)
    with changed(filter, block=lambda fast, count: rows, Launcher=launcher):
        passes = Passes(structure, LABELS, weights)
    out = passes.splat(values, share)
    work: dict[str, Callable[[], Any]] = {
        "splat": lambda: passes.splat(values, share),
        "blur": lambda: passes.blur(out, False),
        "slice": lambda: passes.gather(out, weights),
    }
    for name, call in work.items():
        yield (
            f"sweep, {name}",
            f"{rows} rows a program, {warps} warps",
            bench.milliseconds(call),
            "ms",
            "",
        )


def _update(bench: Bench, labels: int, pixels: int, warps: int) -> Iterator[Row]:
    """All ten iterations, since only the kernels over pixels differ."""
    unary, image = bench.picture(labels)
    crf = bench.layer(labels).requires_grad_(False)
    kernels, weights = crf.kernels(image), [crf.spatial_weights, crf.bilateral_weights]
    usual = Problem.launch

    def launch(self: Problem) -> tuple[int, dict[str, object]]:
        return ceil_div(self.points, pixels), {**usual(self)[1], "BLOCK": pixels, "num_warps": warps}

    def call() -> torch.Tensor:
        with unchecked():
            return crfrnn.mean_field(unary, kernels, weights, crf.compatibility, 10)

    with changed(triton_problem.Problem, launch=launch):
        spent = bench.milliseconds(call)
    case = f"{labels} labels, {pixels} pixels a program, {warps} warps"
    yield "sweep, iterations T = 10", case, spent, "ms", ""


def _band(bench: Bench, tile: tuple[int, int, int]) -> Iterator[Row]:
    _, image = bench.picture(2)
    points = image[0, 0].numel()
    theta, stride = torch.tensor([3.0, 3.0], device=bench.device), 24
    values = torch.rand(points, stride, device=bench.device)
    with changed(triton_band, band_tile=lambda length, width: tile):
        band = triton_band.Band(image.shape[2:], points, theta, stride)
    spent = bench.milliseconds(lambda: band(values, None))
    yield "sweep, spatial kernel", "rows, taps, columns {}, {}, {}".format(*tile), spent, "ms", ""
