# SPDX-License-Identifier: MIT
"""Scribbles on a photograph, propagated by their colours, then refined by the CRF."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from crfrnn.crf import CRFRNN
from crfrnn.extras import optional
from crfrnn.inference import Prediction
from crfrnn.inference.refine import refine
from crfrnn.plots import panel

FREE = -1
# Bandwidths of the similarity between a pixel and a scribbled pixel: position (pixels) and colour (0..255).
PLACE, COLOUR = 300.0, 30.0
SAMPLES = 100  # scribbled pixels sampled per label
NOTHING = 1e-4  # lower limit of the similarity, so that pixels unlike any scribble stay undecided


@dataclass(frozen=True)
class Scene:
    """A photograph UInt8[H, W, 3] with scribbles Int64[H, W] (-1 = free), names and palette of the labels."""

    image: NDArray[np.uint8]
    scribbles: NDArray[np.int64]
    names: tuple[str, ...]
    palette: NDArray[np.uint8]


@dataclass(frozen=True)
class DemoResult:
    """The refined scene, the CRF that refined it, the panel picture and the seconds that the CRF took."""

    scene: Scene
    refined: Prediction
    crf: CRFRNN
    panel: Image.Image
    seconds: float


def run() -> DemoResult:
    """Load the scene, propagate the scribbles, refine, and paint the panel; takes seconds on two cores."""
    scene = load_scene()
    unary = unary_from_scribbles(scene.image, scene.scribbles, len(scene.names))
    crf = CRFRNN(
        len(scene.names),
        theta_alpha=40.0,
        theta_beta=25.0,
        theta_gamma=3.0,
        spatial_weight=8.0,
        bilateral_weight=10.0,
        iterations=10,
        temperature=2.0,  # the colour model of a few strokes is overconfident
    ).eval()
    begun = time.perf_counter()
    refined = refine(scene.image, unary, crf, clamp=torch.from_numpy(scene.scribbles))
    seconds = time.perf_counter() - begun
    picture = panel(
        scene.image,
        refined.before,
        refined.labels,
        palette=scene.palette,
        names=scene.names,
        source=scribbled(scene),
        captions=(
            "photograph and scribbles",
            "before: guessed from their colours",
            "after: dense CRF",
            "difference",
        ),
    )
    return DemoResult(scene, refined, crf, picture, seconds)


def load_scene() -> Scene:
    """China.jpg (CC BY 2.0, its attribution is in scikit-learn) and the strokes in scribbles.json."""
    samples = optional("sklearn.datasets", "demo", "the demo's photograph", "scikit-learn")
    about: dict[str, Any] = json.loads(
        files("crfrnn.demo").joinpath("scribbles.json").read_text(encoding="utf-8")
    )
    height, width = about["size"]
    sheet = Image.new("L", (width, height), 255)
    draw = ImageDraw.Draw(sheet)
    for stroke in about["strokes"]:
        draw.line(
            [tuple(p) for p in stroke["points"]], fill=stroke["label"], width=about["width"], joint="curve"
        )
    labels = np.asarray(sheet).astype(np.int64)
    return Scene(
        np.array(samples.load_sample_image(about["picture"])),
        np.where(labels == 255, FREE, labels),
        tuple(about["names"]),
        np.array(about["colours"], np.uint8),
    )


def unary_from_scribbles(image: NDArray[np.uint8], scribbles: NDArray[np.int64], num_labels: int) -> Tensor:
    """Logits from the similarity of each pixel to the scribbles of each label.

    ``U_i(l) = log(NOTHING + mean_s exp(-|p_i - p_s|² / 2 PLACE² - |I_i - I_s|² / 2 COLOUR²))``, s over
    scribbled pixels of l.

    Args: image UInt8[H, W, 3]; scribbles Int64[H, W], -1 = free; num_labels L.

    Returns: Float32[L, H, W].
    """
    height, width = scribbles.shape
    y, x = np.mgrid[:height, :width]
    place = np.stack([x, y], -1) / PLACE
    points = torch.from_numpy(np.concatenate([place, image / COLOUR], -1).reshape(-1, 5)).float()
    points -= points.mean(0)
    halves = (points**2).sum(1) / 2
    logits = []
    for label in range(num_labels):
        where = np.flatnonzero(scribbles == label)
        if len(where) == 0:
            raise ValueError(f"scribbles: expected some of every label, got none of label {label}")
        known = torch.from_numpy(where[np.linspace(0, len(where) - 1, SAMPLES).astype(int)])
        # -|a - b|² / 2 = ab - a²/2 - b²/2, as one matrix product
        alike = torch.addmm(-halves[known], points, points[known].T).sub_(halves[:, None]).exp_()
        logits.append((alike.mean(1) + NOTHING).log())
    return torch.stack(logits).reshape(num_labels, height, width)


def scribbled(scene: Scene) -> NDArray[np.uint8]:
    """The photograph with the scribbles on it, each in its colour with a white rim."""
    out = scene.image.copy()
    drawn = scene.scribbles != FREE
    rim = drawn.copy()
    for axis in (0, 1):
        for step in (-1, 1):
            rim |= np.roll(drawn, step, axis)
    out[rim] = 255
    out[drawn] = scene.palette[scene.scribbles[drawn]]
    return out
