# SPDX-License-Identifier: MIT
"""The `train` pictures of the person subset as used by voc_person_{tune,recalls,fit}.py.

Two shortcuts make them ten times as fast on two cores: every second pixel of every second row, with θ_α and
θ_γ halved to match, and only the labels that are possible somewhere in the picture according to the unary.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crfrnn import GaussianKernel
from crfrnn.crf.presets import Preset
from crfrnn.datasets import DeepLabUnaries, voc_person_folder, voc_pictures
from crfrnn.evaluation import confusion_matrix, mean_iu_of_truth, paired_bootstrap, trimap_bins
from crfrnn.io import VOC_CLASSES, VOID

LABELS, STRIDE, WIDTH, STEPS_OF_TEST = len(VOC_CLASSES), 2, 5, 5


@dataclass(frozen=True)
class Picture:
    """One picture on the coarser grid, with only its possible labels, which are listed in `labels`."""

    id: str
    image: Tensor  # UInt8[1, 3, h, w]
    truth: Tensor  # Int64[h, w]
    valid: Tensor  # Bool[h, w]
    near: Tensor  # Bool[h, w], the trimap
    labels: Tensor  # Int64[K]
    unary: Tensor  # Float32[1, K, h, w]

    @classmethod
    def read(cls, item: Any, unaries: DeepLabUnaries, least: float = 0.1, most: int = 9) -> Picture:
        """`least`: a label is possible if its probability at temperature 2 is above this somewhere."""
        near = trimap_bins(item.mask, WIDTH) <= WIDTH
        image, truth, band = (
            torch.from_numpy(array.copy())[::STRIDE, ::STRIDE].contiguous()
            for array in (item.image, item.mask, near)
        )
        unary = unaries.logits(item.id, item.mask.shape)[:, ::STRIDE, ::STRIDE]
        likely = (unary / 2).softmax(0).flatten(1).amax(1)
        count = int((likely > least).sum().clamp(2, most))
        labels = likely.topk(count).indices.sort().values
        valid = truth != VOID
        return cls(
            item.id, image.permute(2, 0, 1)[None].contiguous(), truth.long(), valid, valid & band, labels,
            unary[labels][None].contiguous(),
        )  # fmt: skip

    @torch.no_grad()
    def kernels(self, numbers: Preset) -> tuple[GaussianKernel, GaussianKernel]:
        """The spatial and the bilateral kernel on this grid."""
        spatial = GaussianKernel.spatial(tuple(self.truth.shape), numbers.theta_gamma / STRIDE)
        alpha = numbers.theta_alpha / STRIDE
        return spatial, GaussianKernel.bilateral(self.image, alpha, numbers.theta_beta)

    def confusion(self, guess: Tensor) -> NDArray[np.int64]:
        """Int64[2, L, L] of a label map Int64[h, w]: of all pixels that count, and of the trimap."""
        return np.stack(
            [
                confusion_matrix(self.truth[where].numpy(), guess[where].numpy(), LABELS)
                for where in (self.valid, self.near)
            ]
        )


def scores(counts: NDArray[np.int64]) -> dict[str, float]:
    """Mean IU and trimap IU on the coarser grid."""
    return {
        name: float(mean_iu_of_truth(counts[:, k].sum(0))) for k, name in enumerate(("mean_iu", "trimap_iu"))
    }


def compare(ours: NDArray[np.int64], theirs: NDArray[np.int64], name: str) -> None:
    """Print both figures and their paired bootstrap intervals against another method."""
    for region, (metric, value) in enumerate(scores(ours).items()):
        found = paired_bootstrap(ours[:, region], theirs[:, region], mean_iu_of_truth).percent()
        print(f"{metric} {100 * value:.2f}; minus {name}: {found}", flush=True)


def pictures_of_train(limit: int | None = None, least: float = 0.1, most: int = 9) -> list[Picture]:
    """The `train` pictures in random order, of which fold f of k is ``[f::k]``; see `Picture.read`."""
    folder = voc_person_folder()
    if folder is None:
        raise SystemExit("the real pictures are not here: set $CRFRNN_SHARED to the folder that holds data/")
    unaries = DeepLabUnaries.load(folder / "unaries" / "train.npz")
    items = sorted(voc_pictures(folder, "train"), key=lambda item: item.id)
    random.Random(0).shuffle(items)
    return [Picture.read(item, unaries, least, most) for item in items[:limit]]
