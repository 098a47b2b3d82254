# SPDX-License-Identifier: MIT
"""Scores of a CRF on pictures with truths: counts that are summed over pictures, and their figures."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from crfrnn.crf import CRFRNN
from crfrnn.crf.likeliest import likeliest
from crfrnn.datasets import Sample, UnaryDataset
from crfrnn.evaluation import (
    confusion_matrix,
    mean_iu_of_truth,
    pixel_accuracy,
    trimap_bins,
    trimap_confusion,
)
from crfrnn.training.losses import weighted_cross_entropy

TRIMAP_WIDTH = 5
Metric = Literal["mean_iu", "trimap_iu", "both", "loss"]


@dataclass(frozen=True)
class Counts:
    """Counts of one picture or of many; add with `+`.

    Attributes:
        confusion: Int64[L, L], all pixels except void.
        trimap: Int64[L, L], only pixels within 5 pixels of void.
        loss: sum over pictures of the mean cross entropy of their pixels.
        pictures: the number of pictures.
    """

    confusion: NDArray[np.int64]
    trimap: NDArray[np.int64]
    loss: float
    pictures: int = 1

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.confusion + other.confusion,
            self.trimap + other.trimap,
            self.loss + other.loss,
            self.pictures + other.pictures,
        )

    def figures(self) -> dict[str, float]:
        """ "mean_iu", "trimap_iu", "pixel_accuracy" as fractions of 1, "loss" per picture."""
        return {
            "mean_iu": float(mean_iu_of_truth(self.confusion)),
            "trimap_iu": float(mean_iu_of_truth(self.trimap)),
            "pixel_accuracy": float(pixel_accuracy(self.confusion)),
            "loss": self.loss / self.pictures,
        }

    def selection(self, metric: Metric) -> float:
        """The figure to maximise: "both" is the mean of mean IU and trimap IU, "loss" is negated."""
        figures = self.figures()
        if metric == "both":
            # Masks without void have no trimap; use the mean IU alone.
            return float(np.nanmean([figures["mean_iu"], figures["trimap_iu"]]))
        return -figures["loss"] if metric == "loss" else figures[metric]


@torch.no_grad()
def score(crf: CRFRNN, data: UnaryDataset, sample: Sample) -> Counts:
    """Run the CRF, in evaluation mode, on one picture of the data."""
    was_training = crf.training
    logits = crf.eval()(sample.unary[None], sample.image[None])[0]
    crf.train(was_training)
    truth, labels = sample.truth.numpy(), likeliest(logits)
    bins = data.kept(("trimap", sample.id), lambda: trimap_bins(truth, TRIMAP_WIDTH).astype(np.uint8))
    near = trimap_confusion(truth, labels, data.num_labels, TRIMAP_WIDTH, bins=bins.astype(np.int64))
    loss = float(weighted_cross_entropy(logits, sample.truth))
    return Counts(confusion_matrix(truth, labels, data.num_labels), near[-1], loss)


def total(counts: Iterable[Counts]) -> Counts:
    """The sum; ValueError if there is nothing to sum."""
    found: Counts | None = None
    for part in counts:
        found = part if found is None else found + part
    if found is None:
        raise ValueError("data: expected at least one picture, got none")
    return found


def fit_line(epoch: int, loss: float, counts: Counts, crf: CRFRNN, seconds: float) -> dict[str, Any]:
    """A line of the log of a fit: the loss, the held-out figures, and the mean of each kind of parameter."""
    line: dict[str, Any] = {"epoch": epoch, "train_loss": loss}
    line |= {f"validation_{name}": value for name, value in counts.figures().items()}
    for name, parameter in crf.named_parameters():
        values = parameter.detach()
        shown = values.exp() if name.startswith("log_") else values
        if name == "compatibility" or values.ndim == 2:
            shown = shown.diagonal()
        line[f"mean_{name.removeprefix('log_')}"] = float(shown.mean())
    return {**line, "seconds": seconds}
