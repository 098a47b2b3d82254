# SPDX-License-Identifier: MIT
"""The dense CRF: pydensecrf2, and this package with default, searched or learned numbers."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crfrnn.crf import CRFRNN
from crfrnn.crf.likeliest import likeliest
from crfrnn.crf.presets import PRESETS
from crfrnn.crf.saved import WEIGHTS, layer_of, settings_of
from crfrnn.experiments.refiners.refiner import Numbers, Range, Refiner
from crfrnn.experiments.refiners.scene import Scene
from crfrnn.extras import optional
from crfrnn.training.tune import RANGES

SPACE = {name: Range(*ends) for name, ends in RANGES.items() if name != "temperature"}
ITERATIONS = 10
_SOURCE = "Krähenbühl & Koltun, NeurIPS 2011"


def _numbers(preset: str) -> Numbers:
    return {name: getattr(PRESETS[preset], name) for name in SPACE}


def pydensecrf(scene: Scene, **numbers: float) -> NDArray[np.int64]:
    """pydensecrf2 with its normalisation and ten iterations."""
    dcrf = optional("pydensecrf.densecrf", "peers", "pydensecrf2", "pydensecrf2")
    labels, height, width = scene.logits.shape
    crf = dcrf.DenseCRF2D(width, height, labels)
    crf.setUnaryEnergy(np.ascontiguousarray(-scene.logits.flatten(1).numpy()))
    crf.addPairwiseGaussian(sxy=numbers["theta_gamma"], compat=numbers["spatial_weight"])
    crf.addPairwiseBilateral(
        sxy=numbers["theta_alpha"], srgb=numbers["theta_beta"], rgbim=scene.image,
        compat=numbers["bilateral_weight"],
    )  # fmt: skip
    return np.asarray(crf.inference(ITERATIONS)).argmax(0).reshape(height, width)


@torch.no_grad()
def refined(scene: Scene, crf: CRFRNN) -> Tensor:
    """Float32[K, H, W], the logits of the marginals."""
    image = torch.from_numpy(np.ascontiguousarray(scene.image.transpose(2, 0, 1)))
    return crf.eval()(scene.logits[None], image[None])[0]


def ours(scene: Scene, **numbers: Any) -> NDArray[np.int64]:
    """`CRFRNN` with these numbers for all labels; the others keep the package's defaults."""
    return likeliest(refined(scene, CRFRNN(len(scene.labels), **numbers)))


def for_labels(crf: CRFRNN, labels: NDArray[np.int64]) -> CRFRNN:
    """The same CRF restricted to some of its labels.

    Matrices of weights couple labels through removed ones too: for them the compatibility is first multiplied
    into the weights, ``W' = -μ W``, ``μ' = -I``, before rows and columns are selected.

    >>> for_labels(CRFRNN(4), np.array([1, 3])).num_labels
    2
    """
    keep = torch.from_numpy(labels)
    tensors = dict(crf.state_dict())
    if crf.label_weights == "matrix":
        mu = tensors["compatibility"]
        tensors |= {name: -(mu @ tensors[name]) for name in WEIGHTS} | {"compatibility": -torch.eye(len(mu))}
    for name in (*WEIGHTS, "compatibility"):
        value = tensors[name]
        tensors[name] = value[keep] if value.ndim == 1 else value[keep][:, keep]
    settings: dict[str, Any] = {**settings_of(crf), "num_labels": len(labels)}
    return layer_of(settings, tensors)


def by_learned(scene: Scene, crf: CRFRNN) -> NDArray[np.int64]:
    """A CRF of all labels, restricted to those of the scene."""
    return likeliest(refined(scene, for_labels(crf, scene.labels)))


PYDENSECRF = Refiner("pydensecrf2", "pydensecrf2", _SOURCE, pydensecrf, _numbers("deeplab"), SPACE)
DEFAULT = Refiner("crfrnn-default", "crfrnn, default parameters", _SOURCE, ours)
TUNED = Refiner("crfrnn-tuned", "crfrnn, searched parameters", _SOURCE, ours, _numbers("default"), SPACE)


def learned(crf: CRFRNN) -> Refiner:
    """`CRFRNN` with parameters that were learned by back-propagation."""
    title = "crfrnn, learned by back-propagation"
    source = "Zheng et al., ICCV 2015, doi:10.1109/ICCV.2015.179"
    return Refiner("crfrnn-learned", title, source, partial(by_learned, crf=crf))
