# SPDX-License-Identifier: MIT
"""Segments a photograph that is not in the training data of the packaged checkpoint."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from PIL import Image

from crfrnn.extras import optional
from crfrnn.inference import Prediction, Predictor
from crfrnn.plots import panel


@dataclass(frozen=True)
class Segmented:
    """The checkpoint's prediction, the panel picture (without and with the CRF) and the seconds it took."""

    prediction: Prediction
    panel: Image.Image
    seconds: float


def segment_photograph() -> Segmented:
    """Segment astronaut.png of scikit-image (NASA, public domain) with the packaged checkpoint."""
    samples = optional("skimage.data", "demo", "the demo's first photograph", "scikit-image")
    image = np.asarray(samples.astronaut())
    predictor = Predictor.from_pretrained()
    begun = time.perf_counter()
    found = predictor(image)
    seconds = time.perf_counter() - begun
    picture = panel(
        image,
        found.before,
        found.labels,
        names=found.class_names,
        captions=("photograph", "network alone", "with the CRF", "difference"),
    )
    return Segmented(found, picture, seconds)
