# SPDX-License-Identifier: MIT
"""Everything that a training run depends on: frozen values, mapped one to one to YAML files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from crfrnn.crf import CRFRNN
from crfrnn.datasets import RandomTransform, Source
from crfrnn.io.files import FileError, PathLike, read_text, write_text
from crfrnn.lattice.validate import check_choice
from crfrnn.training.config import (
    Amount,
    Count,
    Number,
    Words,
    build,
    changed,
    configuration,
    merged,
    text_of,
    yaml,
)
from crfrnn.training.score import Metric

RECIPES = Path(__file__).with_name("recipes")
MAX_BYTES = 2**20
PARTS = ("network", "head", "crf")
PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}  # our names → Lightning's
Compatibility = Literal["free", "symmetric", "diagonal", "fixed"]
Optimiser = Literal["adamw", "sgd"]


@configuration
class NetworkChoice:
    """The network and its initial weights.

    Attributes:
        name, arguments: as for `crfrnn.models.build_network`; the number of labels comes from the data.
        start: "imagenet" (lite, from the package of the extra ``train``), "none", a file of weights (VGG-16's
            for an FCN, its own for deeplab), or a saved segmenter, whose network is used.
        fresh: name prefixes of parameters that are initialised afresh despite `start`.
        backbone: name prefixes of the parameters that count as "network" in a stage; the others are its
        "head". None: the encoder of lite, the VGG-16 of an FCN, and all of any other network.
    """

    name: str = "lite"
    arguments: Mapping[str, Any] = field(default_factory=dict)
    start: str = "none"
    fresh: tuple[str, ...] = ()
    backbone: tuple[str, ...] | None = None


@configuration
class SourceChoice:
    """A data set by name; see `crfrnn.datasets.Source`."""

    kind: str
    root: str
    split: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def source(self, root: str = "") -> Source:
        """The source with its relative folders resolved against `root`."""
        options = {n: str(Path(root) / v) if n.endswith("root") else v for n, v in self.options.items()}
        return Source(self.kind, Path(root) / self.root, self.split, options)


@configuration
class Data:
    """The training and validation data.

    Attributes:
        root: base of the relative folders of all sources.
        train: sources by the names used in stages; a plain YAML list is named "train".
        val: the sources for validation only.
        decode, leaks: as for `crfrnn.datasets.prepare`.
        long_side: larger pictures of train and val are scaled down to it, see `crfrnn.datasets.reduced`.
        validate: number of pictures of val, spread evenly, evaluated after every epoch; 0: none, null: all.
    """

    root: str = ""
    train: Mapping[str, tuple[SourceChoice, ...]] = field(default_factory=dict)
    val: tuple[SourceChoice, ...] = ()
    decode: bool = True
    leaks: Literal["refuse", "drop", "ignore"] = "refuse"
    long_side: int | None = None
    validate: int | None = None


@configuration
class Rates:
    """Learning rates by kind of parameter; 0 freezes. `crf_theta` and `temperature` act on logarithms.

    `crf_theta` is for the CRF's bandwidths and, without a `crf_temperature`, for its temperature;
    `temperature` is for the loss's temperature.
    """

    network: Amount = 1e-4
    head: Amount = 1e-3
    crf_weights: Amount = 1e-2
    crf_compatibility: Amount = 1e-2
    crf_theta: Amount = 1e-2
    crf_temperature: Amount | None = None
    temperature: Amount = 0.0


@configuration
class Stage:
    """One optimiser run over some parts of the segmenter.

    Attributes:
        name: name of its folder; data: the sources of `Data.train` to use ("" if there is only one).
        network: continue with this network, built by ``from_stage`` of the current one; None: the same.
        learn: any of "network", "head", "crf"; the rest is frozen; a frozen network is in evaluation mode.
        crf: whether the CRF is used.
        freeze_norms: batch norms of the pretrained part keep their running statistics; statistics of a few
        pictures are so noisy that they degrade the pretrained weights.
        loss: "mean" over the pixels that count, or "sum" (as in the paper, not normalised).
        robustness: ε of the robust log-likelihood; 0 is the cross-entropy.
        temperature: divisor of the CRF's logits in the cross-entropy, learned if `rates.temperature` > 0.
            Without one the kernels shrink only because cross-entropy favours calibrated probabilities.
        boundary, boundary_width: pixels within `boundary_width` of void or of another label count
            1 + `boundary` in the cross-entropy, as in `FitConfig`.
        soft_iou: weight of `crfrnn.training.losses.soft_iou` of the batch, added to the cross-entropy.
        auxiliary: weight of the same loss on the unary, at temperature 1, which keeps the network usable
            without the CRF.
        patience: stop after this many epochs without a better validation; None: never stop early.
        epochs, batch, accumulate, workers: passes, pictures per batch, batches per step, loader processes.
        optimiser, momentum, weight_decay: CRF parameters, biases and norms are never decayed.
        second_momentum: AdamW's momentum of the squared gradient.
        crf_optimiser: optimiser of the CRF's parameters, if SGD suits only the network; None: the same.
        bias_rate: factor on the rates of biases.
        layers: factors on the rates of some of the network's parameters, by name pattern, such as
        ``"*.expand.*": 0.1``; the factors of all matching patterns are multiplied. 0 freezes.
        schedule, power, warm_up: decay of the rates, after `warm_up` steps of linear increase.
        clip: largest norm of the gradient; None: no limit.
        precision: precision of the network, "32", "bf16" or "16"; the CRF stays in float32.
        compatibility, share_labels, share_foreground, freeze: constraints on the CRF, as in `FitConfig`.
    """

    name: str
    data: str = ""
    network: str | None = None
    learn: tuple[str, ...] = PARTS
    crf: bool = True
    freeze_norms: bool = False
    loss: Literal["mean", "sum"] = "mean"
    robustness: Amount = 0.0
    temperature: Annotated[float, Field(ge=1e-3, allow_inf_nan=False)] = 1.0
    boundary: Amount = 0.0
    boundary_width: Number = 5
    soft_iou: Amount = 0.0
    auxiliary: Amount = 0.0
    epochs: Count = 10
    patience: Number | None = None
    batch: Number = 4
    accumulate: Number = 1
    workers: Count = 0
    optimiser: Optimiser = "adamw"
    crf_optimiser: Optimiser | None = None
    momentum: Amount = 0.9
    second_momentum: Amount = 0.999
    weight_decay: Amount = 0.0
    bias_rate: Amount = 1.0
    layers: Mapping[str, Amount] = field(default_factory=dict)
    rates: Rates = Rates()
    schedule: Literal["constant", "poly", "cosine"] = "constant"
    power: Amount = 0.9
    warm_up: Count = 0
    clip: Annotated[float, Field(gt=0)] | None = None
    precision: Annotated[Literal["32", "bf16", "16"], Words] = "32"
    compatibility: Compatibility = "free"
    share_labels: bool = False
    share_foreground: bool = False
    freeze: tuple[str, ...] = ()
    transform: RandomTransform = field(default_factory=RandomTransform)

    def __post_init__(self) -> None:
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


@configuration
class Recipe:
    """A complete training run, except for its output folder.

    >>> Recipe("short", stages=(Stage("all", epochs=1),)).stages[0].rates.crf_theta
    0.01
    """

    name: str
    seed: int = 0
    network: NetworkChoice = NetworkChoice()
    crf: Mapping[str, Any] = field(default_factory=dict)
    data: Data = Data()
    stages: tuple[Stage, ...] = ()
    log: Literal["csv", "tensorboard"] = "csv"
    checkpoint_minutes: float = 10.0

    def __post_init__(self) -> None:
        names = [stage.name for stage in self.stages]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"stages: expected at least one, with unique names, got {names}")
        for stage in self.stages if self.data.train else ():
            self.group(stage)

    def group(self, stage: Stage) -> str:
        """The name of the sources that a stage is trained on."""
        known = tuple(self.data.train)
        if stage.data in known:
            return stage.data
        if not stage.data and len(known) == 1:
            return known[0]
        raise ValueError(
            f"data: expected one of {', '.join(known)} in stage {stage.name!r}, got {stage.data!r}"
        )

    def stage(self, name: str) -> Stage:
        found = {stage.name: stage for stage in self.stages}
        return found[check_choice("stage", name, found)]

    def changed(self, **values: Any) -> Recipe:
        return replace(self, **values)


@configuration
class FitConfig:
    """Settings of a fit.

    Attributes:
        epochs: largest number of passes over the training pictures.
        batch: pictures whose gradients are summed for one step.
        seed: seed of the folds, the order and the crops; the same seed gives bit-identical results.
        folds, fold: the training ids are split in `folds` parts and part `fold` is held out; fold=None
            holds nothing out and validates on the training pictures themselves.
        patience: stop after this many epochs without a better held-out figure.
        select: the held-out figure that selects the epoch: "mean_iu", "trimap_iu", "both" (their mean)
        or "loss"; "last" keeps the last epoch.
        rate_weights, rate_compatibility, rate_theta, rate_temperature: Adam's rates by kind of parameter;
        those of θ and temperature act on logarithms. 0 freezes.
        cosine: decrease the rates along a half cosine to 0 at `epochs`.
        freeze: names of parameters to keep fixed, such as "log_theta_gamma".
        set_iou, set_iou_trimap: weights of the loss `crfrnn.training.SetIoU` over all pixels, and over those
            near borders: soft versions of the figures of `evaluate`.
        cross_entropy, lovasz: weights of the cross entropy and of the Lovász-softmax of each picture.
        boundary, boundary_width: "near borders" means within `boundary_width` pixels of void or of another
            label in the truth; such pixels count 1 + `boundary` in the cross entropy.
        robustness: ε of the cross entropy, -log(Q + ε); 0 is the usual cross entropy.
        balance: weight of a label in the cross entropy: (its share of the pixels)^-balance; 0 weights
            pixels equally, 1 weights labels equally.
        anchor: strength of a pull (squared distance) back to the starting parameters.
        crop: side of a random square cut from each picture, None for whole pictures.
        share_labels: one weight per kernel for all labels.
        share_foreground: label 0 has separate kernel weights, all others share theirs; a matrix then has 5
            free numbers: (0, 0), the rest of the diagonal, of row 0 and of column 0, and all others.
        compatibility: "free", "symmetric", "diagonal" or "fixed".
    """

    epochs: Count = 6
    batch: Number = 4
    seed: int = 0
    folds: Annotated[int, Field(strict=True, ge=2)] = 5
    fold: Count | None = 0
    patience: Number = 3
    select: Literal[Metric, "last"] = "both"
    rate_weights: Amount = 0.05
    rate_compatibility: Amount = 0.02
    rate_theta: Amount = 0.05
    rate_temperature: Amount = 0.05
    cosine: bool = True
    freeze: tuple[str, ...] = ()
    set_iou: Amount = 1.0
    set_iou_trimap: Amount = 0.5
    cross_entropy: Amount = 0.02
    lovasz: Amount = 0.0
    boundary: Amount = 2.0
    boundary_width: Number = 5
    robustness: Amount = 0.0
    balance: Amount = 0.0
    anchor: Amount = 0.0
    crop: Annotated[int, Field(strict=True, ge=8)] | None = None
    share_labels: bool = False
    share_foreground: bool = False
    compatibility: Compatibility = "free"

    def __post_init__(self) -> None:
        if self.fold is not None and self.fold >= self.folds:
            raise ValueError(f"fold: expected None or 0..{self.folds - 1}, got {self.fold}")
        if not any((self.set_iou, self.set_iou_trimap, self.cross_entropy, self.lovasz)):
            raise ValueError(
                "set_iou, set_iou_trimap, cross_entropy, lovasz: expected one above 0, got 0 for each"
            )
        if self.crop is not None and (self.set_iou or self.set_iou_trimap):
            raise ValueError("set_iou: expected whole pictures, got a crop; leave one of them out")
        if self.share_labels and self.share_foreground:
            raise ValueError("share_foreground: expected one of the two ways to share, got both; choose one")

    @property
    def stage(self) -> Stage:
        """The fit as a stage of a training run; its batches are single pictures of any size."""
        return Stage(
            "fit",
            learn=("crf",),
            epochs=self.epochs,
            patience=self.patience,
            batch=1,
            accumulate=self.batch,
            momentum=0.8,
            second_momentum=0.98,
            rates=Rates(
                crf_weights=self.rate_weights,
                crf_compatibility=self.rate_compatibility,
                crf_theta=self.rate_theta,
                crf_temperature=self.rate_temperature,
            ),
            schedule="cosine" if self.cosine else "constant",
            warm_up=7,  # Adam's estimate of the gradients' scale is poor at first
            compatibility=self.compatibility,
            share_labels=self.share_labels,
            share_foreground=self.share_foreground,
            freeze=self.freeze,
        )

    def check(self, crf: CRFRNN) -> None:
        """ValueError for settings that are impossible with this layer."""
        if self.share_labels and crf.label_weights == "matrix":
            raise ValueError('share_labels: expected label_weights="vector", got "matrix"; choose one')


def recipe_names() -> tuple[str, ...]:
    """The recipes that come with the package."""
    return tuple(sorted(path.stem for path in RECIPES.glob("*.yaml")))


def load_recipe(name_or_file: PathLike, settings: Sequence[str] = ()) -> Recipe:
    """A packaged recipe or a YAML file, with values replaced by ``key=value``.

    A key is a path of names with dots: ``seed``, ``network.name``, ``stages.joint.rates.crf_theta`` (stages
    by name or number, ``*`` for all of them), ``defaults.batch``. Values are YAML.

    Raises:
        ValueError: no such recipe, no YAML, unknown keys, invalid values; each names key and remedy.
        ImportError: PyYAML is not installed.

    >>> load_recipe("cpu-small", ["seed=3", "stages.*.epochs=1"]).seed
    3
    """
    path = Path(name_or_file)
    if str(name_or_file) in recipe_names():
        path = RECIPES / f"{name_or_file}.yaml"
    elif not path.is_file():
        raise FileError(
            "recipe", name_or_file, f"one of {', '.join(recipe_names())}, or a YAML file", "neither",
            "check the spelling",
        )  # fmt: skip
    if path.stat().st_size > MAX_BYTES:
        raise FileError("recipe", path, f"at most {MAX_BYTES} bytes", "more", "name the right file")
    try:
        content = yaml().safe_load(read_text(path, "recipe"))
    except yaml().YAMLError as error:
        raise FileError("recipe", path, "YAML", " ".join(str(error).split()), "correct that line") from error
    if not isinstance(content, dict):
        raise FileError("recipe", path, "keys and values", type(content).__name__, "see docs/training.md")
    return recipe_from(content, settings)


def recipe_from(content: Mapping[str, Any], settings: Sequence[str] = ()) -> Recipe:
    """A recipe from nested mappings; ``defaults`` applies to every stage that does not override it."""
    tree = changed(content, settings)
    defaults = tree.pop("defaults", {}) or {}
    if not isinstance(defaults, dict):
        raise ValueError(f"defaults: expected a mapping of keys to values, got {defaults!r}")
    stages = tree.get("stages", [])
    if not isinstance(stages, list) or not all(isinstance(stage, dict) for stage in stages):
        raise ValueError("stages: expected a list of mappings, each with a name")
    tree["stages"] = [merged(defaults, stage) for stage in stages]
    data = tree.get("data")
    if isinstance(data, dict) and isinstance(data.get("train"), list):
        tree["data"] = {**data, "train": {"train": data["train"]}}
    return build(Recipe, tree)


def save_recipe(recipe: Recipe, path: PathLike) -> None:
    """Write the recipe atomically as YAML that reads back to the same value."""
    write_text(path, text_of(recipe))
