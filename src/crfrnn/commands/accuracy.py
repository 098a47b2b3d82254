# SPDX-License-Identifier: MIT
"""`crfrnn accuracy`: the filter's accuracy on a picture."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from crfrnn.commands import common

if TYPE_CHECKING:
    import torch

    from crfrnn.crf import GaussianKernel


def accuracy(
    image: Annotated[Path, typer.Argument(help="A picture.", show_default=False)],
    params: common.Params = None,
    preset: common.Preset = None,
    theta_alpha: common.ThetaAlpha = None,
    theta_beta: common.ThetaBeta = None,
    theta_gamma: common.ThetaGamma = None,
    rows: Annotated[int, typer.Option("--rows", help="Pixels to compare with the exact sum.")] = 128,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the choice of pixels.")] = 0,
) -> None:
    """Measure the error of the kernels on your own picture, against the exact sum over all pixels.

    Also prints the lattice's vertices, and milliseconds to build a kernel and to filter 21 values per pixel.

    Example: crfrnn accuracy photo.jpg --theta-alpha 67 --theta-beta 3
    """
    import torch

    from crfrnn.crf import GaussianKernel
    from crfrnn.io import read_image
    from crfrnn.lattice import QUALITIES

    saved = common.build_crf(
        None if params else 2, params, preset, None,
        theta_alpha=theta_alpha, theta_beta=theta_beta, theta_gamma=theta_gamma,
    )  # fmt: skip
    crf = saved.crf
    picture = torch.from_numpy(read_image(image)).permute(2, 0, 1)[None].float()
    table = Table()
    for column in ("kernel", "method", "error", "vertices", "build ms", "filter ms"):
        table.add_column(column, no_wrap=True, justify="left" if column in ("kernel", "method") else "right")
    with torch.no_grad():
        alpha, beta, gamma = (
            log.exp() for log in (crf.log_theta_alpha, crf.log_theta_beta, crf.log_theta_gamma)
        )
        for quality in QUALITIES:
            cells = _measure(
                lambda quality=quality: GaussianKernel.bilateral(picture, alpha, beta, quality=quality),
                rows,
                seed,
            )
            table.add_row("bilateral", quality, *cells)
        size = tuple(picture.shape[2:])
        cells = _measure(lambda: GaussianKernel.spatial(size, gamma), rows, seed)
        table.add_row("spatial", "separable", *cells)
    common.out.print(
        f"Relative L2 error on {rows} pixels of {image.name}, {size[1]} × {size[0]}.", markup=False
    )
    common.out.print(
        f"Bilateral: {_numbers(alpha)} pixels, {_numbers(beta)} colour steps. "
        f"Spatial: {_numbers(gamma)} pixels."
    )
    common.out.print(table)


def _numbers(values: torch.Tensor) -> str:
    return "/".join(f"{value:.4g}" for value in values.reshape(-1).tolist())


def _measure(build: Callable[[], GaussianKernel], rows: int, seed: int) -> list[str]:
    """Error, vertices, milliseconds to build and to filter 21 values per pixel (the labels of VOC)."""
    import torch

    spans = []
    for _ in range(3):  # the first call includes one-off loading
        begun = time.perf_counter()
        kernel = build()
        built = time.perf_counter()
        _ = kernel @ torch.zeros(*kernel.shape, 21)
        spans.append((built - begun, time.perf_counter() - built))
    kernel = build()
    vertices = getattr(kernel.operator, "num_vertices", None)
    return [
        f"{kernel.error(rows=rows, seed=seed):.2g}",
        "" if vertices is None else f"{vertices:,}",
        *(f"{1000 * min(span):.0f}" for span in zip(*spans, strict=True)),
    ]
