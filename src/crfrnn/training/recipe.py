# SPDX-License-Identifier: MIT
"""Everything that a training run depends on, as frozen values that a YAML file holds one to one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from crfrnn.datasets import RandomTransform, Source
from crfrnn.training.config import COMPATIBILITIES, check_least

PARTS = ("network", "head", "crf")
OPTIMISERS, SCHEDULES, LOSSES = ("adamw", "sgd"), ("constant", "poly", "cosine"), ("mean", "sum")
PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}  # ours → Lightning's
LOGS = ("csv", "tensorboard")


@dataclass(frozen=True)
class NetworkChoice:
    """Which network, and what it starts from.

    Attributes:
        name, arguments: as for `crfrnn.models.build_network`; the number of labels comes from the data.
        start: "imagenet" (lite, from the package of the extra ``train``), "none", a file of weights (VGG-16's
            for an FCN, its own for deeplab), or a segmenter that was saved, whose network is taken.
        fresh: beginnings of the names of parameters that are initialised afresh in spite of `start`.
        backbone: beginnings of the names of the parameters that count as "network" in a stage; the others are
            its "head". None: the encoder of lite, the VGG-16 of an FCN, and all of any other network.
    """

    name: str = "lite"
    arguments: Mapping[str, Any] = field(default_factory=dict)
    start: str = "none"
    fresh: tuple[str, ...] = ()
    backbone: tuple[str, ...] | None = None


@dataclass(frozen=True)
class SourceChoice:
    """A data set by name; see `crfrnn.datasets.Source`."""

    kind: str
    root: str
    split: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def source(self, root: str = "") -> Source:
        """With its folders below `root`, unless they are absolute."""
        options = {n: str(Path(root) / v) if n.endswith("root") else v for n, v in self.options.items()}
        return Source(self.kind, Path(root) / self.root, self.split, options)


@dataclass(frozen=True)
class Data:
    """What to learn from.

    Attributes:
        root: the folder that relative folders of all sources start from.
        train: sources by the name that stages give them; a YAML list alone is called "train".
        val: the sources that are only looked at.
        decode, leaks: as for `crfrnn.datasets.prepare`.
        long_side: larger pictures, of train and of val, are reduced to it: see `crfrnn.datasets.reduced`.
        validate: pictures of val, spread evenly, that are looked at after every epoch; 0: none, null: all.
    """

    root: str = ""
    train: Mapping[str, tuple[SourceChoice, ...]] = field(default_factory=dict)
    val: tuple[SourceChoice, ...] = ()
    decode: bool = True
    leaks: str = "refuse"
    long_side: int | None = None
    validate: int | None = None


@dataclass(frozen=True)
class Rates:
    """Learning rates by kind of parameter; 0 freezes. `crf_theta` and `temperature` act on logarithms.

    `crf_theta` is for the CRF's bandwidths and its temperature, `temperature` for that of the loss.
    """

    network: float = 1e-4
    head: float = 1e-3
    crf_weights: float = 1e-2
    crf_compatibility: float = 1e-2
    crf_theta: float = 1e-2
    temperature: float = 0.0


@dataclass(frozen=True)
class Stage:
    """One run of an optimiser over some parts of the segmenter.

    Attributes:
        name: of its folder; data: which sources of `Data.train` ("" where there is one only).
        network: go on with this network, built by ``from_stage`` of the present one; None: the same.
        learn: of "network", "head", "crf"; the rest is frozen, and a frozen network is in evaluation mode.
        crf: whether the CRF takes part.
        freeze_norms: batch norms of the pretrained part keep their running statistics; those of a few
            pictures are so noisy that they spoil what ImageNet has taught.
        loss: "mean" over the pixels that count, or "sum" (the paper's, not normalised).
        robustness: ε of the robust log-likelihood; 0 is the cross-entropy.
        temperature: the CRF's logits are divided by it for the cross-entropy; `rates.temperature` lets it
            learn. Without one the kernels shrink only because cross-entropy wants calibrated probabilities.
        boundary, boundary_width: pixels within so many of void or of another label count 1 + `boundary` in
            the cross-entropy, as in `FitConfig`.
        soft_iou: weight of `crfrnn.training.losses.soft_iou`, of the batch, added to the cross-entropy.
        auxiliary: weight of the same loss on the unary, at temperature 1, which keeps the network a
            classifier by itself.
        epochs, batch, accumulate, workers: passes, pictures per batch, batches per step, loader processes.
        optimiser, momentum, weight_decay: CRF parameters, biases and norms are never decayed.
        crf_optimiser: of the CRF's parameters, where SGD suits the network only; None: the same.
        bias_rate: factor of the rates of biases.
        layers: factors of the rates of some of the network's parameters, by pattern of the name, as
            ``"*.expand.*": 0.1``; those of all patterns that fit are multiplied. 0 freezes.
        schedule, power, warm_up: the rates fall as named, after `warm_up` steps in which they rise.
        clip: largest norm of the gradient, None: none.
        precision: of the network, "32", "bf16" or "16"; the CRF keeps float32.
        compatibility, share_labels: what of the CRF may move, as in `FitConfig`.
    """

    name: str
    data: str = ""
    network: str | None = None
    learn: tuple[str, ...] = PARTS
    crf: bool = True
    freeze_norms: bool = False
    loss: str = "mean"
    robustness: float = 0.0
    temperature: float = 1.0
    boundary: float = 0.0
    boundary_width: int = 5
    soft_iou: float = 0.0
    auxiliary: float = 0.0
    epochs: int = 10
    batch: int = 4
    accumulate: int = 1
    workers: int = 0
    optimiser: str = "adamw"
    crf_optimiser: str | None = None
    momentum: float = 0.9
    weight_decay: float = 0.0
    bias_rate: float = 1.0
    layers: Mapping[str, float] = field(default_factory=dict)
    rates: Rates = Rates()
    schedule: str = "constant"
    power: float = 0.9
    warm_up: int = 0
    clip: float | None = None
    precision: str = "32"
    compatibility: str = "free"
    share_labels: bool = False
    transform: RandomTransform = field(default_factory=RandomTransform)

    def __post_init__(self) -> None:
        _choice(self, "optimiser", OPTIMISERS)
        if self.crf_optimiser is not None:
            _choice(self, "crf_optimiser", OPTIMISERS)
        _choice(self, "schedule", SCHEDULES)
        _choice(self, "loss", LOSSES)
        _choice(self, "precision", tuple(PRECISIONS))
        _choice(self, "compatibility", COMPATIBILITIES)
        for name, least in {
            "epochs": 0,
            "batch": 1,
            "accumulate": 1,
            "workers": 0,
            "warm_up": 0,
            "boundary_width": 1,
        }.items():
            check_least(self, name, least)
        for name in (
            "robustness", "boundary", "soft_iou", "auxiliary", "momentum", "weight_decay", "bias_rate",
            "power",
        ):  # fmt: skip
            check_least(self, name, 0)
        check_least(self, "temperature", 1e-3)
        for rate in fields(self.rates):
            check_least(self.rates, rate.name, 0)
        for pattern, factor in self.layers.items():
            if not 0 <= factor < float("inf"):
                raise ValueError(f"layers: expected factors of at least 0, got {factor} for {pattern!r}")
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"clip: expected null or a number above 0, got {self.clip}")
        strange = [part for part in self.learn if part not in PARTS]
        if strange or not self.learn:
            raise ValueError(
                f"learn: expected some of {', '.join(PARTS)}, got {', '.join(strange) or 'nothing'}"
            )
        if not self.name or not all(c.isalnum() or c in "-_" for c in self.name):
            raise ValueError(f"name: expected letters, digits, - and _, got {self.name!r}")
        if not self.crf and set(self.learn) == {"crf"}:
            raise ValueError(
                f"learn: expected more than the CRF in stage {self.name!r}, which has crf: false"
            )


@dataclass(frozen=True)
class Recipe:
    """A whole training run: everything but the folder it is written to.

    >>> Recipe("short", stages=(Stage("all", epochs=1),)).stages[0].rates.crf_theta
    0.01
    """

    name: str
    seed: int = 0
    network: NetworkChoice = NetworkChoice()
    crf: Mapping[str, Any] = field(default_factory=dict)
    data: Data = Data()
    stages: tuple[Stage, ...] = ()
    log: str = "csv"
    checkpoint_minutes: float = 10.0

    def __post_init__(self) -> None:
        _choice(self, "log", LOGS)
        names = [stage.name for stage in self.stages]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"stages: expected at least one, with names of their own, got {names}")
        for stage in self.stages if self.data.train else ():
            self.group(stage)

    def group(self, stage: Stage) -> str:
        """The name of the sources that a stage learns from."""
        known = tuple(self.data.train)
        if stage.data in known:
            return stage.data
        if not stage.data and len(known) == 1:
            return known[0]
        raise ValueError(
            f"data: expected one of {', '.join(known)} in stage {stage.name!r}, got {stage.data!r}"
        )

    def stage(self, name: str) -> Stage:
        found = [stage for stage in self.stages if stage.name == name]
        if not found:
            raise ValueError(f"stage: expected one of {', '.join(s.name for s in self.stages)}, got {name!r}")
        return found[0]

    def changed(self, **values: Any) -> Recipe:
        return replace(self, **values)


def _choice(owner: Any, name: str, known: tuple[str, ...]) -> None:
    if getattr(owner, name) not in known:
        raise ValueError(f"{name}: expected one of {', '.join(known)}, got {getattr(owner, name)!r}")
