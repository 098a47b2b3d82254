# SPDX-License-Identifier: MIT
"""torchvision: its segmentation models by name, with random or published weights."""

from __future__ import annotations

from typing import Any

from torch import nn

from crfrnn.crf import CRFRNN
from crfrnn.lattice.validate import check_choice
from crfrnn.models.preprocessing import IMAGENET, Preprocessing
from crfrnn.models.registry import Recipe, build_network, register_network
from crfrnn.models.segmenter import Segmenter
from crfrnn.toolkits.needs import fitting, needs, outputs_of


def build_torchvision(model: str, num_labels: int, aux_loss: bool = False) -> nn.Module:
    """A segmentation model of torchvision with random weights; nothing is downloaded."""
    models = needs("torchvision.models", "torchvision")
    known = models.list_models(module=models.segmentation)
    check_choice("model", model, known)
    options = {} if model.startswith("lraspp") else {"aux_loss": aux_loss}
    return models.get_model(model, weights=None, weights_backbone=None, num_classes=num_labels, **options)


def from_torchvision(
    model: str | nn.Module,
    num_labels: int | None = None,
    *,
    weights: Any = None,
    crf: CRFRNN | None = None,
) -> Segmenter:
    """A `Segmenter` around a segmentation model of torchvision.

    Args:
        model: a name such as "deeplabv3_resnet50"; or a model, which then cannot be saved by name.
        num_labels: L, for a name without weights.
        weights: for a name: weights for ``torchvision.models.get_model``, such as "DEFAULT", which downloads;
            they define the number of labels, the class names and the preprocessing.
        crf: for the same number of labels; None: `CRFRNN` with its defaults.

    Raises:
        ValueError: an unknown name, the number of labels given twice or not at all.
    """
    names, preprocessing = (), IMAGENET
    if isinstance(model, str) and weights is not None:
        models = needs("torchvision.models", "torchvision")
        chosen = models.get_model_weights(model)[weights] if isinstance(weights, str) else weights
        names, preprocessing = tuple(chosen.meta["categories"]), _preprocessing(chosen.transforms())
        if num_labels not in (None, len(names)):
            raise ValueError(f"num_labels: expected {len(names)} as in weights, got {num_labels}")
        network = models.get_model(model, weights=chosen)
        arguments: dict[str, Any] = {"model": model, "num_labels": len(names)}
        if getattr(network, "aux_classifier", None) is not None:
            arguments["aux_loss"] = True
        network.recipe = Recipe("torchvision", arguments)
    elif isinstance(model, str):
        if num_labels is None:
            raise ValueError("num_labels: expected a number for a model without weights, got None")
        network = build_network("torchvision", model=model, num_labels=num_labels)
    elif weights is None:
        network = model
    else:
        raise ValueError("weights: expected None with a model, which has its own, got some")
    count = outputs_of(network.classifier)  # type: ignore[arg-type]
    if num_labels not in (None, count):
        raise ValueError(f"num_labels: expected {count} as in the model, got {num_labels}")
    return Segmenter(network, fitting(crf, count), preprocessing=preprocessing, class_names=names)


def _preprocessing(transforms: Any) -> Preprocessing:
    return Preprocessing(
        tuple(255 * float(v) for v in transforms.mean),  # pyright: ignore[reportArgumentType]
        tuple(255 * float(v) for v in transforms.std),  # pyright: ignore[reportArgumentType]
    )


register_network("torchvision", build_torchvision)
