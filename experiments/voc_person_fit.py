# SPDX-License-Identifier: MIT
"""How docs/results/voc_person_learned.safetensors was made: from the `train` ids of the person subset alone.

    python experiments/voc_person_fit.py --hold 1 -o /tmp/a.safetensors   # judged on the half held out
    python experiments/voc_person_fit.py --start /tmp/a.safetensors --epochs 1 --rate 0.025 --batch 6 \\
        --mean -o /tmp/b.safetensors
    python experiments/voc_person_fit.py --cross --epochs 2 -o /tmp/mean.safetensors   # both halves in turn

The first two lines are the two steps to the published file as its provenance states them; the third judges
the recipe on all pictures, out of fold. This script was written afterwards: the published file comes from a
script with the same loss, optimiser and data handling that was not kept, so these lines give similar but
different numbers. The file itself is identified by its sha256 (docs/results-history.md).

`crfrnn.training.fit` with the shortcuts of voc_person_train.py. Loss: `SetIoU` over all pixels and, with half
the weight, over the trimap of 5 pixels, with a little cross entropy.
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crfrnn import CRFRNN, GaussianKernel, mean_field
from crfrnn.io import VOC_CLASSES, VOID
from crfrnn.io.files import prepared
from crfrnn.training import SetIoU, load_parameters, save_parameters
from voc_person_train import LABELS, STEPS_OF_TEST, STRIDE, Picture, compare, pictures_of_train, scores

STEPS_OF_FIT, TRIMAP, CROSS_ENTROPY = 4, 0.5, 0.02
LEAST, MOST = 0.03, 16  # of `Picture.read`: keeps more labels than the other scripts, for the gradient


def run(crf: CRFRNN, picture: Picture, iterations: int) -> Tensor:
    """Logits of all labels, Float[L, h, w]; impossible labels get very low ones."""
    assert crf.log_temperature is not None
    alpha, gamma = crf.log_theta_alpha.exp() / STRIDE, crf.log_theta_gamma.exp() / STRIDE
    kernels = (
        GaussianKernel.spatial(tuple(picture.truth.shape), gamma),
        GaussianKernel.bilateral(picture.image, alpha, crf.log_theta_beta.exp()),
    )
    weights = [w[picture.labels][:, picture.labels] for w in (crf.spatial_weights, crf.bilateral_weights)]
    unary = picture.unary / crf.log_temperature.exp()
    logits = mean_field(unary, kernels, weights, -torch.eye(len(picture.labels)), iterations)[0]
    return logits.new_full((LABELS, *picture.truth.shape), -50.0).index_copy(0, picture.labels, logits)


def learn(crf: CRFRNN, pictures: list[Picture], epochs: int, rate: float, batch: int, seed: int) -> None:
    """Adam on all parameters but μ (redundant with full matrices W), with a cosine schedule."""
    crf.compatibility.requires_grad_(False)
    matrices = [crf.spatial_weights, crf.bilateral_weights]
    logs = [value for name, value in crf.named_parameters() if name.startswith("log_")]
    groups = [{"params": logs, "lr": rate}, {"params": matrices, "lr": rate}]
    adam = torch.optim.Adam(groups, betas=(0.8, 0.98))
    total = epochs * math.ceil(len(pictures) / batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        adam, lambda step: min(1, (step + 1) / 8) * (0.53 + 0.5 * math.cos(math.pi * step / total))
    )
    whole, band = SetIoU(LABELS), SetIoU(LABELS)
    for picture in pictures:
        start = picture.unary.new_full((LABELS, *picture.truth.shape), -50.0)
        start = start.index_copy(0, picture.labels, picture.unary[0])
        whole.remember(picture.id, start, picture.truth, picture.valid)
        band.remember(picture.id, start, picture.truth, picture.near)
    shuffle = random.Random(seed)
    for epoch in range(epochs):
        order = shuffle.sample(pictures, len(pictures))
        for first in range(0, len(order), batch):
            adam.zero_grad()
            for picture in order[first : first + batch]:
                logits = run(crf, picture, STEPS_OF_FIT)
                loss = whole(picture.id, logits, picture.truth, picture.valid)
                loss = loss + TRIMAP * band(picture.id, logits, picture.truth, picture.near)
                entropy = torch.nn.functional.cross_entropy(
                    logits[None], picture.truth[None], ignore_index=VOID, reduction="none"
                )[0]
                possible = picture.valid & torch.isin(picture.truth, picture.labels)
                entropy = (entropy * (1 + 2 * picture.near) * possible).mean()
                ((loss + CROSS_ENTROPY * entropy) / batch).backward()
            adam.step()
            schedule.step()
        numbers = ", ".join(f"{float(value.detach().exp()):.2f}" for value in logs)
        print(f"epoch {epoch + 1}: alpha, beta, gamma, temperature {numbers}", flush=True)


@torch.no_grad()
def judge(crf: CRFRNN, pictures: Sequence[Picture]) -> NDArray[np.int64]:
    """Confusions Int64[pictures, 2, L, L]: of all pixels that count, and of the trimap."""
    return np.stack([p.confusion(run(crf, p, STEPS_OF_TEST).argmax(0)) for p in pictures])


def start(file: Path | None) -> CRFRNN:
    if file:
        return load_parameters(file).crf
    return CRFRNN(LABELS, preset="deeplab", label_weights="matrix", temperature=1.0, eval_iterations=5)


def mean_of(models: Sequence[CRFRNN]) -> CRFRNN:
    """The mean of the models' parameters (geometric for bandwidths and temperature)."""
    mean = start(None)
    states = [model.state_dict() for model in models]
    mean.load_state_dict({name: torch.stack([s[name] for s in states]).mean(0) for name in states[0]})
    return mean


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folds", type=int, default=2)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--hold", type=int, help="hold out this fold, judge on it")
    which.add_argument("--cross", action="store_true", help="hold out every fold in turn, keep the mean")
    parser.add_argument("--start", type=Path, help="parameter file to start from; default: the preset")
    parser.add_argument("--mean", action="store_true", help="keep the mean of --start and the result")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rate", type=float, default=0.05)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--limit", type=int, help="the first so many pictures only, to try the script")
    parser.add_argument("-o", "--out", type=Path, required=True)
    options = parser.parse_args()
    prepared(options.out)
    everything = pictures_of_train(options.limit, LEAST, MOST)
    folds = range(options.folds) if options.cross else [options.hold]
    models, ours, theirs, taught = [], [], [], set[str]()
    for fold in folds:
        held = [] if fold is None else everything[fold :: options.folds]
        away = {picture.id for picture in held}
        chosen = [picture for picture in everything if picture.id not in away]
        crf = start(options.start)
        learn(crf, chosen, options.epochs, options.rate, options.batch, options.seed)
        models.append(crf)
        taught |= {picture.id for picture in chosen}
        if held:
            ours.append(judge(crf, held))
            theirs.append(judge(start(None), held))
            compare(ours[-1], theirs[-1], f"DeepLab's five parameters, fold {fold}")
    if options.cross:
        compare(np.concatenate(ours), np.concatenate(theirs), "DeepLab's five parameters, out of fold")
    if options.mean:
        models.append(start(options.start))
    provenance = {
        "data": "VOC 2012, person subset",
        "split": "train",
        "pictures": len(taught),
        **vars(options),
    }
    save_parameters(
        options.out,
        mean_of(models),
        class_names=VOC_CLASSES,
        scores=scores(np.concatenate(ours)) if ours else {},
        provenance={name: str(value) for name, value in provenance.items()},
    )


if __name__ == "__main__":
    main()
