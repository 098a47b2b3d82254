# SPDX-License-Identifier: MIT
"""segmentation-models-pytorch: any of its decoders on any of its encoders."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn

from crfrnn.crf import CRFRNN
from crfrnn.lattice.validate import check_choice
from crfrnn.models.preprocessing import IMAGENET, Preprocessing
from crfrnn.models.registry import Recipe, register_network
from crfrnn.models.segmenter import Segmenter
from crfrnn.toolkits.needs import fitting, needs, plain_name


def build_smp(arch: str, **arguments: Any) -> nn.Module:
    """A model of segmentation-models-pytorch with random weights; nothing is downloaded."""
    smp = needs("segmentation_models_pytorch", "segmentation-models-pytorch")
    plain_name(arguments.get("encoder_name", "resnet34"))
    known = {kind.__name__.lower(): kind for kind in smp.MODEL_ARCHITECTURES_MAPPING.values()}
    check_choice("arch", arch, sorted(known))
    # A model passes unknown arguments on, and timm accepts paths of checkpoints.
    other = set(arguments) - set(inspect.signature(known[arch].__init__).parameters)
    if other:
        raise ValueError(f"network_arguments: expected those of {arch!r}, got {min(other)!r} too")
    return known[arch](**{**arguments, "encoder_weights": None})


def from_smp(
    model: nn.Module, *, preprocessing: Preprocessing = IMAGENET, crf: CRFRNN | None = None
) -> Segmenter:
    """A `Segmenter` around a model of segmentation-models-pytorch.

    Sides are padded to the multiple that the encoder needs, and the output is cropped again.

    Args:
        model: such as ``smp.Unet("resnet34", classes=21)``, with ``activation=None`` and three channels.
        preprocessing: ImageNet's, as for most of its encoders; some need other means, see
            ``smp.encoders.get_preprocessing_params`` (its numbers times 255).
        crf: for the same number of labels; None: `CRFRNN` with its defaults.

    Raises:
        TypeError: another library's model. ValueError: a model that does not return plain logits.
    """
    config: Any = getattr(model, "config", None)
    if not hasattr(model, "segmentation_head") or not config:
        raise TypeError(
            f"model: expected one of segmentation-models-pytorch, got {type(model).__name__}; use Segmenter"
        )
    for name in ("activation", "aux_params"):
        if config.get(name) is not None:
            raise ValueError(
                f"model: expected one that returns only logits, with {name}=None, got {config[name]!r}"
            )
    wanted = {**preprocessing.as_dict(), "multiple": int(getattr(model.encoder, "output_stride", 32))}
    model.recipe = Recipe("smp", {"arch": type(model).__name__.lower(), **config, "encoder_weights": None})  # type: ignore[assignment]
    return Segmenter(model, fitting(crf, int(config["classes"])), preprocessing=Preprocessing(**wanted))


register_network("smp", build_smp)
