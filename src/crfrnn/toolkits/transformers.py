# SPDX-License-Identifier: MIT
"""transformers: models with logits (SegFormer, …) or queries (Mask2Former, …), and post-processing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from crfrnn.crf import CRFRNN
from crfrnn.crf.binary import two_labels
from crfrnn.io.scores import SMALLEST
from crfrnn.models.logits import logits_of
from crfrnn.models.preprocessing import IMAGENET, Preprocessing
from crfrnn.models.registry import Recipe, register_network
from crfrnn.models.segmenter import Segmenter
from crfrnn.toolkits.needs import fitting, needs

# Entries of a configuration with which transformers downloads weights or code from the Hub.
_FETCHING = ("auto_map", "backbone", "use_pretrained_backbone", "quantization_config", "implementation")
_DEEPEST = 8


class TransformersNetwork(nn.Module):
    """A model of transformers as a network that returns logits [B, L, h, w].

    Models with ``.logits`` (SegFormer, UperNet, BEiT, DPT, …) return these. Models with queries (Mask2Former,
    MaskFormer, OneFormer, EoMT) have none; with class probabilities p_q (without "no object") and mask
    probabilities m_q the unary is ``log max(Σ_q p_q(l) m_q(i), 1e-5)``: the log of the score whose argmax
    transformers uses.

    Source: Cheng, Schwing & Kirillov, *Per-Pixel Classification is Not All You Need*, NeurIPS 2021,
    arXiv:2107.06278, section 3.4, semantic inference.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        config: Any = getattr(model, "config", None)
        if not hasattr(config, "num_labels"):
            raise TypeError(f"model: expected one of transformers, got {type(model).__name__}; use Segmenter")
        self.model, self.num_labels = model, int(config.num_labels)
        self.class_names = tuple(str(config.id2label[k]) for k in range(self.num_labels))
        name = type(model).__name__
        if config.model_type in _architectures() and _architectures()[config.model_type] == name:
            settings = json.loads(config.to_json_string(use_diff=False))
            self.recipe = Recipe("transformers", {"architecture": name, "config": settings})

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Float[B, 3, H, W] from the model's processor → logits Float[B, L, h, w]."""
        output = self.model(pixel_values)
        if hasattr(output, "class_queries_logits"):
            classes = output.class_queries_logits.softmax(-1)[..., :-1]
            masks = output.masks_queries_logits.sigmoid()
            return _log(torch.einsum("bqc,bqhw->bchw", classes, masks))
        return logits_of(output)


def from_transformers(
    model: nn.Module,
    processor: Any = None,
    *,
    crf: CRFRNN | None = None,
    preprocessing: Preprocessing | None = None,
) -> Segmenter:
    """A `Segmenter` around a model of transformers: from a picture in 0..255 to refined logits.

    Args:
        model: ``…ForSemanticSegmentation`` or ``…ForUniversalSegmentation``.
        processor: its image processor, for means, deviations and channel order. It resizes pictures; the
            segmenter keeps their size.
        crf: for the same number of labels; None: `CRFRNN` with its defaults.
        preprocessing: used instead of a processor. With neither: ImageNet's.

    Returns:
        The segmenter, with the class names of the configuration. It saves and loads without the Hub.

    Raises:
        TypeError: not a model of transformers. ValueError: another number of labels.
    """
    network = TransformersNetwork(model)
    if preprocessing is None:
        preprocessing = IMAGENET if processor is None else preprocessing_of(processor)
    return Segmenter(
        network,
        fitting(crf, network.num_labels),
        preprocessing=preprocessing,
        class_names=network.class_names,
    )


def preprocessing_of(processor: Any) -> Preprocessing:
    """Means, deviations, channel order and divisor of an image processor, in colour steps of 0..255.

    Raises: TypeError if it has none, ValueError if they are not for three channels.
    """
    processor = getattr(processor, "image_processor", processor)
    if not hasattr(processor, "do_rescale"):
        raise TypeError(f"processor: expected an image processor, got {type(processor).__name__}")
    step = 1 / float(processor.rescale_factor) if processor.do_rescale else 1.0
    normalised = bool(getattr(processor, "do_normalize", False))
    mean = processor.image_mean if normalised else (0.0,) * 3
    std = processor.image_std if normalised else (1.0,) * 3
    return Preprocessing(
        tuple(float(v) * step for v in mean),  # pyright: ignore[reportArgumentType]
        tuple(float(v) * step for v in std),  # pyright: ignore[reportArgumentType]
        "bgr" if getattr(processor, "do_flip_channel_order", False) else "rgb",
        int(getattr(processor, "size_divisor", None) or 1),
    )


@torch.no_grad()
def post_process_semantic_segmentation(
    processor: Any, outputs: Any, images: Sequence[Any], crf: CRFRNN, iterations: int | None = None
) -> list[Tensor]:
    """The processor's method of this name with the CRF before its argmax.

    It refines the scores whose argmax ``processor.post_process_semantic_segmentation`` returns, at each
    picture's size. For models with queries the log of the scores is refined.

    Args:
        processor: the image processor of the model.
        outputs: the model's output for the batch.
        images: the pictures of the batch, PIL or UInt8[H, W, 3] RGB, of any sizes.
        crf: for the model's number of labels; with ``num_labels=1`` this is `CRFRNN(1)`, and the label maps
            hold 0 and 1.
        iterations: iterations in this call; 0 gives the processor's result.

    Returns:
        Label maps Int64[H, W], one per picture.

    Raises:
        ValueError: other shapes or counts.
    """
    pictures = [_picture(image, k) for k, image in enumerate(images)]
    sizes = [tuple(p.shape[1:]) for p in pictures]
    scored = processor.post_process_semantic_segmentation(
        outputs, target_sizes=sizes, return_segmentation_scores=True
    )
    queries = hasattr(outputs, "class_queries_logits")
    found = []
    for picture, one in zip(pictures, scored, strict=True):
        scores = one["segmentation_scores"].float()
        unary = _log(scores) if queries else scores
        logits = crf(unary[None], picture[None].to(unary.device), iterations=iterations)
        found.append(two_labels(logits[0]).max(0).indices)
    return found


def _log(scores: Tensor) -> Tensor:
    """Logits of scores [..., L, h, w]; of one label the logit of its presence."""
    if scores.shape[-3] == 1:
        return scores.clamp(SMALLEST, 1 - SMALLEST).logit()
    return scores.clamp_min(SMALLEST).log()


def _picture(image: Any, number: int) -> Tensor:
    array = np.array(image)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or array.size == 0:
        raise ValueError(
            f"images: expected RGB in uint8 [H, W, 3], got {array.dtype} {array.shape} at {number}; "
            "pass the pictures before the processor's changes"
        )
    return torch.from_numpy(array).permute(2, 0, 1).contiguous()


def _architectures() -> Mapping[str, str]:
    """Model type → class name, from transformers' tables."""
    auto = needs("transformers.models.auto.modeling_auto", "transformers")
    return {
        **auto.MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES,
        **auto.MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING_NAMES,
    }


def _refuse_fetching(config: Any, depth: int = 0) -> None:
    """Reject a configuration from a file that names a source of weights or code to download."""
    if depth > _DEEPEST:
        raise ValueError(f"config: expected at most {_DEEPEST} levels, got more")
    for name, value in config.items():
        if value and (name in _FETCHING or name.endswith(_FETCHING[-1])):
            raise ValueError(
                f"config: expected no {name!r}, which makes transformers download it, got {value!r}"
            )
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, Mapping):
                _refuse_fetching(part, depth + 1)


def build_transformers(architecture: str, config: Mapping[str, Any]) -> TransformersNetwork:
    """The model of a configuration with random weights; nothing is downloaded.

    Raises: ValueError for an architecture that is not in transformers' tables, or a configuration that names
        something to download.
    """
    kind = config.get("model_type") if isinstance(config, Mapping) else None
    if not isinstance(kind, str) or _architectures().get(kind) != architecture:
        raise ValueError(
            f"architecture: expected one of {', '.join(sorted(_architectures().values()))} with its "
            f"configuration, got {architecture!r} of {kind!r}"
        )
    _refuse_fetching(config)
    transformers = needs("transformers", "transformers")
    model = getattr(transformers, architecture)(transformers.CONFIG_MAPPING[kind].from_dict(dict(config)))
    return TransformersNetwork(model)


register_network("transformers", build_transformers)
