# SPDX-License-Identifier: MIT
"""How docs/results/voc_person_recalls.safetensors was made: from the `train` ids of the person subset alone.

    python experiments/voc_person_recalls.py -o docs/results/voc_person_recalls.safetensors

A label l that the default parameters often miss is favoured by ``b_l = strength · (1 - recall_l)``, with the
recall over the training pictures, and b = 0 for the background. The kernels are normalised, so they preserve
constants, and the marginals sum to 1: adding ``b 1ᵀ`` to W_s, the spatial kernel's L×L matrix, adds exactly b
to the logits of every iteration. Nothing is back-propagated: there is one free parameter, evaluated out of
fold, every picture with the recalls of the other folds. voc_person_fit.py learns by gradient instead.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crfrnn import CRFRNN, GaussianKernel, mean_field
from crfrnn.crf.presets import PRESETS, Preset
from crfrnn.io import VOC_CLASSES
from crfrnn.io.files import prepared
from crfrnn.training import save_parameters
from voc_person_train import LABELS, STEPS_OF_TEST, Picture, compare, pictures_of_train, scores

Prepared = tuple[Picture, tuple[GaussianKernel, GaussianKernel]]
Counts = NDArray[np.int64]  # [pictures, 2, L, L], as `Picture.confusion`


def matrices(numbers: Preset, bias: Tensor) -> tuple[Tensor, Tensor]:
    """W_s including the bias Float[L], and W_b: Float[L, L] each."""
    eye = torch.eye(LABELS)
    return numbers.spatial_weight * eye + bias[:, None], numbers.bilateral_weight * eye


@torch.no_grad()
def run(held: Sequence[Prepared], weights: tuple[Tensor, Tensor]) -> Counts:
    parts = []
    for picture, kernels in held:
        mine = [w[picture.labels][:, picture.labels] for w in weights]
        mu = -torch.eye(len(picture.labels))
        logits = mean_field(picture.unary, kernels, mine, mu, STEPS_OF_TEST)[0]
        parts.append(picture.confusion(picture.labels[logits.argmax(0)]))
    return np.stack(parts)


def favour(counts: Counts, strength: float) -> Tensor:
    """Float[L] b_l = strength (1 - recall_l); 0 for the background and for labels that do not occur."""
    total = counts[:, 0].sum(0)
    true = total.sum(1)
    bias = np.where(true > 0, strength * (1 - np.diag(total) / np.maximum(true, 1)), 0.0)
    bias[0] = 0
    return torch.tensor(bias, dtype=torch.float32)


def write(path: Path, five: Counts, judged: Counts, options: argparse.Namespace) -> None:
    """Write the file with the recalls of all pictures; its scores are those of `judged`, out of fold."""
    numbers = PRESETS["default"]
    crf = CRFRNN(LABELS, preset="default", label_weights="matrix", iterations=STEPS_OF_TEST)
    spatial, bilateral = matrices(numbers, favour(five, options.strength))
    state = {"spatial_weights": spatial, "bilateral_weights": bilateral}
    crf.load_state_dict({**crf.state_dict(), **state})
    provenance = {"data": "VOC 2012, person subset", "split": "train", "pictures": len(five)}
    provenance |= {"folds": options.folds, "strength": options.strength}
    save_parameters(path, crf, class_names=VOC_CLASSES, scores=scores(judged), provenance=provenance)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folds", type=int, default=4)
    parser.add_argument("--strength", type=float, default=1.5)
    parser.add_argument("--limit", type=int, help="the first so many pictures only, to try the script")
    parser.add_argument("-o", "--out", type=Path, required=True)
    options = parser.parse_args()
    prepared(options.out)
    torch.set_num_threads(1)
    pictures, default, deeplab = pictures_of_train(options.limit), PRESETS["default"], PRESETS["deeplab"]
    none = torch.zeros(LABELS)
    theirs = run([(p, p.kernels(deeplab)) for p in pictures], matrices(deeplab, none))
    everything = [(p, p.kernels(default)) for p in pictures]
    five = run(everything, matrices(default, none))
    compare(five, theirs, "DeepLab's five parameters")
    judged = np.zeros_like(five)
    for fold in range(options.folds):
        held = np.arange(len(pictures)) % options.folds == fold
        weights = matrices(default, favour(five[~held], options.strength))
        judged[held] = run(everything[fold :: options.folds], weights)
    compare(judged, five, "the default parameters, out of fold")
    compare(judged, theirs, "DeepLab's five parameters, out of fold")
    write(options.out, five, judged, options)


if __name__ == "__main__":
    main()
