# SPDX-License-Identifier: MIT
"""Every choice of a fit, in one frozen value that goes into the parameter file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from crfrnn.crf import CRFRNN
from crfrnn.crf.validate import check_choice
from crfrnn.training.score import METRICS

COMPATIBILITIES = ("free", "symmetric", "diagonal", "fixed")


@dataclass(frozen=True)
class FitConfig:
    """How to fit.

    Attributes:
        epochs: passes over the training pictures, at most.
        batch: pictures whose gradients are summed for one step.
        seed: of the folds, the order and the crops; the same seed gives the same bits.
        folds, fold: the training ids are split in `folds` parts and part `fold` is held out; fold=None
            holds nothing out and validates on the training pictures themselves.
        patience: stop after so many epochs without a better held-out figure.
        select: the held-out figure that chooses the epoch: "mean_iu", "trimap_iu", "both" (their mean)
            or "loss"; "last" chooses none and keeps the last.
        rate_weights, rate_compatibility, rate_theta, rate_temperature: Adam's, per kind of parameter; those
            of θ and temperature act on logarithms. 0 freezes.
        cosine: let the rates fall along a half cosine to 0 at `epochs`.
        freeze: names of parameters that stay as they are, such as "log_theta_gamma".
        set_iou, set_iou_trimap: weights of the loss `crfrnn.training.SetIoU` over all pixels, and over those
            near borders: the figures of `evaluate`, with probabilities.
        cross_entropy, lovasz: weights of the cross entropy and of the Lovász-softmax of each picture.
        boundary, boundary_width: near borders is within so many pixels of void or of another label in the
            truth; there the cross entropy counts 1 + `boundary`.
        robustness: ε of the cross entropy, -log(Q + ε); 0 is the usual.
        balance: in the cross entropy labels count (their share of the pixels)^-balance; 0 counts pixels,
            1 counts labels.
        anchor: strength of a pull (squared distance) back to the starting parameters.
        crop: side of a random square cut from each picture, None for whole pictures.
        share_labels: one weight per kernel for all labels.
        share_foreground: label 0 has kernel weights of its own, the others share theirs; a matrix is 5
            numbers: (0, 0), the rest of the diagonal, of row 0 and of column 0, and all others.
        compatibility: "free", "symmetric", "diagonal" or "fixed".
    """

    epochs: int = 6
    batch: int = 4
    seed: int = 0
    folds: int = 5
    fold: int | None = 0
    patience: int = 3
    select: str = "both"
    rate_weights: float = 0.05
    rate_compatibility: float = 0.02
    rate_theta: float = 0.05
    rate_temperature: float = 0.05
    cosine: bool = True
    freeze: tuple[str, ...] = ()
    set_iou: float = 1.0
    set_iou_trimap: float = 0.5
    cross_entropy: float = 0.02
    lovasz: float = 0.0
    boundary: float = 2.0
    boundary_width: int = 5
    robustness: float = 0.0
    balance: float = 0.0
    anchor: float = 0.0
    crop: int | None = None
    share_labels: bool = False
    share_foreground: bool = False
    compatibility: str = "free"

    def check(self, crf: CRFRNN) -> None:
        """ValueError for what cannot be done, or not with this layer."""
        floors = {"epochs": 0, "batch": 1, "folds": 2, "patience": 1, "boundary_width": 1}
        for name, least in floors.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name}: expected at least {least}, got {getattr(self, name)}")
        if self.fold is not None and not 0 <= self.fold < self.folds:
            raise ValueError(f"fold: expected None or 0..{self.folds - 1}, got {self.fold}")
        numbers = ("rate_weights", "rate_compatibility", "rate_theta", "rate_temperature", "cross_entropy",
                   "lovasz", "set_iou", "set_iou_trimap", "boundary", "robustness", "balance",
                   "anchor")  # fmt: skip
        for name in numbers:
            check_least(self, name, 0)
        if not any((self.set_iou, self.set_iou_trimap, self.cross_entropy, self.lovasz)):
            raise ValueError(
                "set_iou, set_iou_trimap, cross_entropy, lovasz: expected one above 0, got 0 for each"
            )
        if self.crop is not None and (self.set_iou or self.set_iou_trimap):
            raise ValueError("set_iou: expected whole pictures, got a crop; leave out one of the two")
        check_choice("select", self.select, (*METRICS, "last"))
        if self.crop is not None and self.crop < 8:
            raise ValueError(f"crop: expected None or at least 8 pixels, got {self.crop}")
        check_choice("compatibility", self.compatibility, COMPATIBILITIES)
        if self.share_labels and crf.label_weights == "matrix":
            raise ValueError(
                'share_labels: expected label_weights="vector", got "matrix"; choose one of both'
            )
        if self.share_labels and self.share_foreground:
            raise ValueError("share_foreground: expected one of the two ways to share, got both; choose one")
        names = [name for name, _ in crf.named_parameters()]
        strange = [name for name in self.freeze if name not in names]
        if strange:
            raise ValueError(f"freeze: expected names among {', '.join(names)}, got {', '.join(strange)}")


def check_least(owner: Any, name: str, least: float) -> None:
    """ValueError unless the attribute is a finite number of at least `least`."""
    value = getattr(owner, name)
    if not least <= value < float("inf"):
        raise ValueError(f"{name}: expected a finite number of at least {least}, got {value}")
