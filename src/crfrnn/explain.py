# SPDX-License-Identifier: MIT
"""Figures of all steps of a CRF on one picture and unary, and a page that shows them."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from crfrnn.crf import CRFRNN, free_energy_trace, monotone_damping
from crfrnn.crf.binary import for_two_labels, two_labels
from crfrnn.evaluation import Evaluator
from crfrnn.inference import Prediction
from crfrnn.inference.refine import refine
from crfrnn.io.files import PathLike, write_text
from crfrnn.io.images import write_png
from crfrnn.plots import (
    energy_curve,
    exact_footprint,
    footprint,
    frames,
    heat_map,
    kernel_footprints,
    overlay,
    panel,
    safe_palette,
    trimap_curves,
    write_film,
)

INDEX, FILM = "index.html", "iterations"
MAX_WIDTH = 20  # largest width of the trimap, in pixels
METHODS = ("before", "after")


@dataclass(frozen=True)
class Figure:
    """A figure of an explanation: the name of its file, a heading, a description."""

    name: str
    title: str
    text: str
    picture: Image.Image


@dataclass(frozen=True)
class Explanation:
    """The result of `explain`.

    Attributes:
        prediction: the result of `crfrnn.inference.refine` for the same arguments.
        steps: Int[H, W] after 0, 1, …, T iterations.
        pixel: (x, y) of the pixel whose footprints are drawn.
        figures: figures in the order of the page.
        film: a frame for each of the steps.
        missing: one sentence per missing figure, with the reason.
    """

    prediction: Prediction
    steps: tuple[NDArray[Any], ...]
    pixel: tuple[int, int]
    figures: tuple[Figure, ...]
    film: tuple[Image.Image, ...]
    missing: tuple[str, ...]

    def write(self, folder: PathLike, film: str = "gif") -> Path:
        """Write all figures, the film and the page that shows them, which is written last.

        Args:
            folder: an existing folder; files of the same names are replaced.
            film: "gif" or "png", an animated PNG.

        Returns: the page, index.html.
        """
        place = Path(folder)
        for figure in self.figures:
            write_png(figure.picture, place / figure.name)
        moving = f"{FILM}.{film}"
        write_film(self.film, place / moving)
        write_text(place / INDEX, _page(self, moving))
        return place / INDEX


def file_names(film: str = "gif", truth: bool = False) -> list[str]:
    """Every file that `Explanation.write` may write, the page last."""
    pictures = ["panel", "overlay", "overlay-safe", "compatibility", "energy", "bilateral", "spatial"]
    return [*(f"{name}.png" for name in pictures + ["trimap"] * truth), f"{FILM}.{film}", INDEX]


@torch.no_grad()
def explain(
    image: NDArray[np.uint8],
    unary: Tensor,
    crf: CRFRNN,
    *,
    clamp: Tensor | None = None,
    truth: NDArray[Any] | None = None,
    pixel: tuple[int, int] | None = None,
    names: tuple[str, ...] = (),
) -> Explanation:
    """Refine one picture and draw what the CRF did: labels per iteration, kernels, compatibility, energy.

    Args:
        image: UInt8[H, W, 3].
        unary: Float[L, H, W], logits; one logit per pixel stands for the labels [0, z].
        crf: the layer, in its current mode.
        clamp: Int[H, W], known labels, -1 = free.
        truth: Int[H, W] with 255 = void: adds the trimap's curves and the mean IU.
        pixel: (x, y) of the footprints. None: the pixel with the most certain changed label, or the centre if
            no label changed.
        names: one per label, for legends.

    Raises: ValueError for arguments that do not fit; ImportError without matplotlib (the extra `plots`).

    >>> import torch
    >>> from crfrnn import CRFRNN
    >>> picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    >>> found = explain(picture, torch.randn(3, 20, 30), CRFRNN(3, iterations=2))
    >>> len(found.steps), [figure.name for figure in found.figures][:3]
    (3, ['panel.png', 'overlay.png', 'overlay-safe.png'])
    """
    crf, unary = for_two_labels(crf), two_labels(unary)
    total = crf.iterations if crf.training or crf.eval_iterations is None else crf.eval_iterations
    found = [refine(image, unary, crf, clamp=clamp, iterations=step) for step in range(total + 1)]
    last = replace(found[-1], class_names=tuple(names))
    steps = tuple(one.labels for one in found)
    shape = (image.shape[0], image.shape[1])
    chosen = _surest_change(last) if pixel is None else pixel
    figures, missing = list(_labels(image, last, names)), []
    named = names or tuple(map(str, range(crf.num_labels)))
    figures.append(
        Figure(
            "compatibility.png",
            "Compatibility of the labels",
            "The compatibility μ: a row for each receiving label, a column for each sending label, "
            "in the order of the paper's Fig. 5. Blue: the labels support each other; red: they exclude "
            "each other.",
            heat_map(crf.compatibility.detach().double().numpy(), named),
        )
    )
    try:
        figures.append(_energy(image, unary, crf, clamp, total))
    except ValueError as error:
        missing.append(f"No free energy is drawn: {error}")
    figures += _footprints(image, crf, shape, chosen)
    if truth is not None:
        drawn = _trimap(truth, last, named)
        if drawn is None:
            missing.append("No trimap is drawn: the truth has no void pixels (255) along its borders.")
        else:
            figures.append(drawn)
    film = tuple(frames(image, steps, palette=safe_palette()))
    return Explanation(last, steps, chosen, tuple(figures), film, tuple(missing))


def _labels(image: NDArray[np.uint8], last: Prediction, names: tuple[str, ...]) -> Iterator[Figure]:
    yield Figure(
        "panel.png",
        "Before and after",
        f"Labels of the unary alone and after the CRF; {100 * last.changed:.2f} % of the pixels changed.",
        panel(image, last.before, last.labels, names=names),
    )
    yield Figure(
        "overlay.png",
        "Labels in VOC's colours",
        "Labels 0 and 255 leave the photograph unchanged.",
        Image.fromarray(overlay(image, last.labels)),
    )
    yield Figure(
        "overlay-safe.png",
        "Labels in colour-blind-safe colours",
        "The same in colours that are distinct without red or green cones (protanopia, deuteranopia).",
        Image.fromarray(overlay(image, last.labels, safe_palette())),
    )


def _energy(image: NDArray[np.uint8], unary: Tensor, crf: CRFRNN, clamp: Tensor | None, total: int) -> Figure:
    if crf.activation != "softmax":
        raise ValueError(f"it is defined for marginals by softmax, and these are by {crf.activation}")
    model = copy.deepcopy(crf)
    model.normalization = "symmetric"
    guide = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None]
    logits = unary[None]
    if model.log_temperature is not None:
        logits = logits / model.log_temperature.exp()
    kernels = [kernel.symmetrized() for kernel in model.kernels(guide)]
    weights = [model.spatial_weights, model.bilateral_weights]
    safe = monotone_damping(kernels, weights, model.compatibility)
    held = None if clamp is None else clamp[None]
    traces = {
        name: free_energy_trace(
            logits, kernels, weights, model.compatibility, total, clamp=held, damping=damping
        )[:, 0].tolist()
        for name, damping in (("undamped", 1.0), (f"damping {safe:.2g}", safe))
    }
    own = f" With this CRF's normalisation, {crf.normalization!r}, no energy exists."
    own = "" if crf.normalization == "symmetric" else own
    return Figure(
        "energy.png",
        "Free energy",
        "F(Q), the bound on -log Z that mean field minimises, after each iteration, for the same CRF with "
        f"symmetric kernels.{own} With the second step size it provably never rises.",
        energy_curve(traces),
    )


def _footprints(
    image: NDArray[np.uint8], crf: CRFRNN, shape: tuple[int, int], pixel: tuple[int, int]
) -> Iterator[Figure]:
    guide = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None]
    methods = {"spatial": crf.spatial_method, "bilateral": crf.bilateral_method}
    for (name, method), kernel in zip(methods.items(), crf.kernels(guide), strict=True):
        rows = {
            "exact sum": exact_footprint(kernel, shape, pixel),
            f"as computed ({method})": footprint(kernel, shape, pixel),
        }
        apart = 50 * float(np.abs(np.subtract(*rows.values())).sum())
        yield Figure(
            f"{name}.png",
            f"The {name} kernel at one pixel",
            f"The weight of each pixel in the message to the pixel at x = {pixel[0]}, y = {pixel[1]} (the "
            f"cross). {apart:.2g} % of the weight differs from the exact sum; a single row says little "
            "about a lattice, whose errors cancel over many pixels (crfrnn accuracy measures that).",
            kernel_footprints(image, rows, pixel),
        )


def _trimap(truth: NDArray[Any], last: Prediction, names: tuple[str, ...]) -> Figure | None:
    evaluator = Evaluator(len(names), class_names=names, max_width=MAX_WIDTH)
    evaluator.update("picture", truth, dict(zip(METHODS, (last.before, last.labels), strict=True)))
    result = evaluator.compute()
    lines = {method: result.trimap_curve(method).tolist() for method in METHODS}
    if not np.isfinite(list(lines.values())).any():
        return None
    whole = [100 * float(result.score(method, "mean_iu")) for method in METHODS]
    return Figure(
        "trimap.png",
        "Against the truth",
        f"Mean IU of the whole picture: {whole[0]:.2f} before, {whole[1]:.2f} % after. The curves count only "
        "pixels near the void border of the truth.",
        trimap_curves(lines),
    )


def _surest_change(found: Prediction) -> tuple[int, int]:
    height, width = found.labels.shape
    sure = np.where(found.labels != found.before, found.probabilities.max(0), 0)
    y, x = np.unravel_index(int(sure.argmax()), sure.shape) if sure.any() else (height // 2, width // 2)
    return int(x), int(y)


def _page(found: Explanation, film: str) -> str:
    """One HTML file without scripts that loads only the figures next to it."""

    def section(title: str, name: str, text: str) -> str:
        title = escape(title)
        return f'<h2>{title}</h2>\n<p>{escape(text)}</p>\n<p><img src="{name}" alt="{title}"></p>'

    prediction = found.prediction
    before = {int(k): n for k, n in zip(*np.unique(prediction.before, return_counts=True), strict=True)}
    after = {int(k): n for k, n in zip(*np.unique(prediction.labels, return_counts=True), strict=True)}
    total = prediction.labels.size
    rows = [
        f"<tr><td>{escape(prediction.name(k))}</td>"
        f"<td>{100 * before.get(k, 0) / total:.2f} %</td><td>{100 * after.get(k, 0) / total:.2f} %</td></tr>"
        for k in sorted({*before, *after})
    ]
    moving = section(
        "Iteration by iteration",
        film,
        f"The labels after 0 to {len(found.steps) - 1} iterations of mean field.",
    )
    sections = [section(figure.title, figure.name, figure.text) for figure in found.figures]
    sections.insert(1, moving)
    lines = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8"><title>What the CRF did</title>',
        '<meta name="viewport" content="width=device-width">',
        "<style>body{font:16px/1.5 sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;color:#202226;"
        "background:#fafaf8}img{max-width:100%}td,th{padding:.1rem 1rem .1rem 0;text-align:left}</style>",
        "</head><body>",
        "<h1>What the CRF did</h1>",
        "<table><tr><th>label</th><th>before</th><th>after</th></tr>",
        *rows,
        "</table>",
        *sections,
        *(f"<p>{escape(sentence)}</p>" for sentence in found.missing),
        "</body></html>",
    ]
    return "\n".join(lines) + "\n"
