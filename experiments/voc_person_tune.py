# SPDX-License-Identifier: MIT
"""The search for the default parameters: cross-validated, on the `train` ids alone.

    python experiments/voc_person_tune.py --seconds 620 --seed 200 -o /tmp/trials.csv

`crfrnn.training.tune` with a shortcut: of the five parameters only θ_α and θ_β make a lattice, so every pair
that TPE draws is tried with up to four draws of the other three. A setting is abandoned after the first fold
if it is below the 60 % quantile of the earlier ones there. Grid as in voc_person_train.py.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from numpy.typing import NDArray

from crfrnn import GaussianKernel, mean_field
from crfrnn.crf.presets import PRESETS
from crfrnn.evaluation import mean_iu_of_truth
from crfrnn.evaluation.tables import write_csv
from crfrnn.io.files import prepared
from voc_person_train import STEPS_OF_TEST, STRIDE, Picture, compare, pictures_of_train

RANGES = {
    "theta_alpha": (20.0, 150.0),
    "theta_beta": (2.5, 15.0),
    "theta_gamma": (0.6, 6.0),
    "spatial_weight": (0.3, 12.0),
    "bilateral_weight": (0.8, 15.0),
}
# Tried first: the previous default parameters, DeepLab's, variations of them, and the two best of an earlier
# search over 34 settings, which also had a temperature.
STARTS = (
    (58, 4.5, 1.6, 2.3, 3.75),
    PRESETS["deeplab"],
    (67, 5.5, 2, 3, 5),
    (45, 5, 2.5, 3, 6),
    (34, 5.6, 1, 1.2, 3.2),
    (28.6, 4.2, 1.2, 1.5, 4.7),
)
DRAWS = 4
Counts = NDArray[np.int64]


def figures(counts: Counts) -> tuple[float, float]:
    total = counts.sum(0)
    return float(mean_iu_of_truth(total[0])), float(mean_iu_of_truth(total[1]))


class Search:
    """Trials of one study; `finished` are those that saw all pictures."""

    def __init__(self, everything: list[Picture], folds: int) -> None:
        parts = [everything[fold::folds] for fold in range(folds)]
        self.pictures = [p for part in parts for p in part]
        self.ends = np.cumsum([len(part) for part in parts]).tolist()
        self.first: list[float] = []
        self.gains: list[float] = []
        self.finished: list[tuple[dict[str, float], Counts]] = []

    @torch.no_grad()
    def value(self, numbers: dict[str, float], kernels: dict[str, GaussianKernel]) -> float:
        """Mean of mean IU and trimap IU; for an abandoned setting, the estimate from the first fold."""
        counts: list[Counts] = []
        for place, p in enumerate(self.pictures, 1):
            if p.id not in kernels:
                alpha = numbers["theta_alpha"] / STRIDE
                kernels[p.id] = GaussianKernel.bilateral(p.image, alpha, numbers["theta_beta"])
            spatial = GaussianKernel.spatial(tuple(p.truth.shape), numbers["theta_gamma"] / STRIDE)
            weights = (numbers["spatial_weight"], numbers["bilateral_weight"])
            both = (spatial, kernels[p.id])
            logits = mean_field(p.unary, both, weights, -torch.eye(len(p.labels)), STEPS_OF_TEST)[0]
            counts.append(p.confusion(p.labels[logits.argmax(0)]))
            if place == self.ends[0]:
                early = sum(figures(np.stack(counts))) / 2
                self.first.append(early)
                if len(self.first) > len(STARTS) and early < np.quantile(self.first, 0.6):
                    return early + float(np.mean(self.gains))
        found = sum(figures(np.stack(counts))) / 2
        self.gains.append(found - self.first[-1])
        self.finished.append((numbers, np.stack(counts)))
        print(", ".join(f"{100 * x:.2f}" for x in figures(self.finished[-1][1])), numbers, flush=True)
        return found

    def out_of_fold(self) -> Counts:
        """Each fold with the parameters that are best on the other folds."""
        parts, start = [], 0
        for end in self.ends:
            others = np.ones(len(self.pictures), dtype=bool)
            others[start:end] = False
            best = max(self.finished, key=lambda pair: sum(figures(pair[1][others])))
            print(f"best without pictures {start} to {end - 1}: {best[0]}")
            parts.append(best[1][start:end])
            start = end
        return np.concatenate(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=1800, help="no new setting after this time")
    parser.add_argument("--folds", type=int, default=4)
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--limit", type=int, help="the first so many pictures only, to try the script")
    parser.add_argument("-o", "--out", type=Path, required=True, help="CSV of the finished settings")
    options = parser.parse_args()
    prepared(options.out)
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    search, until = (
        Search(pictures_of_train(options.limit), options.folds),
        time.monotonic() + options.seconds,
    )
    study = optuna.create_study(direction="maximize")
    for numbers in STARTS:
        study.enqueue_trial({name: float(x) for name, x in zip(RANGES, numbers, strict=True)})
    space: dict[str, Any] = {
        name: optuna.distributions.FloatDistribution(*ends, log=True) for name, ends in RANGES.items()
    }
    turn, ranked = 0, search.finished
    while turn < len(STARTS) or time.monotonic() < until:
        kernels: dict[str, GaussianKernel] = {}
        fixed: dict[str, float] = {}
        for draw in range(DRAWS if turn >= len(STARTS) else 1):
            sampler = optuna.samplers.TPESampler(seed=options.seed + DRAWS * turn + draw, multivariate=True)
            study.sampler = optuna.samplers.PartialFixedSampler(fixed, sampler) if fixed else sampler
            trial = study.ask(space)
            fixed = {name: trial.params[name] for name in ("theta_alpha", "theta_beta")}
            study.tell(trial, search.value(trial.params, kernels))
        turn += 1
        ranked = sorted(search.finished, key=lambda pair: -sum(figures(pair[1])))
        lines = ([*(f"{x:.4g}" for x in n.values()), *figures(counts)] for n, counts in ranked)
        write_csv(options.out, [[*RANGES, "mean_iu", "trimap_iu"], *lines])
    print("best", ranked[0][0])
    chen = search.finished[1][1]
    compare(ranked[0][1], chen, "DeepLab's (best of all, in sample)")
    compare(search.out_of_fold(), chen, "DeepLab's (out of fold)")
    print(f"{len(study.trials)} settings, {len(ranked)} of them on all pictures")


if __name__ == "__main__":
    main()
