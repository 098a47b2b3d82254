# SPDX-License-Identifier: MIT
"""Build a segmenter from tensors in this package's names and conventions, for all importers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from crfrnn.crf import CRFRNN
from crfrnn.io.palette import VOC_CLASSES
from crfrnn.models.fcn import STAGES, VGG_DEPTHS, VGG_HIDDEN
from crfrnn.models.preprocessing import Preprocessing
from crfrnn.models.segmenter import Segmenter

CRF_PARTS = (
    "spatial_weights",
    "bilateral_weights",
    "compatibility",
)  # in the order of the Caffe layer's blobs
CONVOLUTIONS = tuple(f"conv{b}_{n}" for b, depth in enumerate(VGG_DEPTHS, 1) for n in range(1, depth + 1))
_HEAD = (
    "fc6", "fc7", "score_fr", "score_pool4", "score_pool3",
    "upscore2", "upscore_pool4", "upscore8", "upscore16", "upscore32",
)  # fmt: skip
# Names in published files → ours.
NAMES = {name: name for name in (*CONVOLUTIONS, *_HEAD)} | {
    "score-fr": "score_fr", "score-pool4": "score_pool4", "score-pool3": "score_pool3",
    "score2": "upscore2", "score4": "upscore_pool4", "upsample": "upscore8",  # CRF-RNN
    "upscore": "upscore32",  # FCN-32s
}  # fmt: skip


@dataclass(frozen=True)
class Found:
    """The result of a reader.

    Attributes:
        tensors: tensors by our names, the CRF's under "crf.".
        preprocessing: preprocessing of the converted network, which takes R, G, B.
        guide: preprocessing of the guide that the CRF was trained on.
        bgr: conv1_1 takes B, G, R and must be reversed.
        at_once: whether the pools are scaled.
    """

    tensors: dict[str, Tensor]
    preprocessing: Preprocessing
    guide: Preprocessing
    bgr: bool = False
    at_once: bool = False


@dataclass(frozen=True)
class Converted:
    """A segmenter, the names of the tensors that were filled, and of those that are freshly initialised."""

    segmenter: Segmenter
    filled: tuple[str, ...]
    fresh: tuple[str, ...]


def assemble(found: Found, num_labels: int | None = None) -> Converted:
    """Build the network that the tensors belong to, load them, and add the CRF if there is one.

    The network is FCN-8s, 16s or 32s depending on the score layers, or FCN-8s with fresh scores for VGG-16
    alone. A CRF has the settings of the released model: its thetas (160, 3, 3, which weight files do not
    contain), T = 5 and 10, matrices of label weights, the classic lattice in both kernels.

    Args:
        found: the result of a reader.
        num_labels: labels of fresh score layers (None: 21); score layers in the file keep theirs.

    Raises: ValueError for missing tensors, or shapes that do not match.
    """
    tensors = dict(found.tensors)
    missing = [name for name in CONVOLUTIONS if f"{name}.weight" not in tensors]
    if missing:
        raise ValueError(
            f"weights: expected the 13 convolutions of VGG-16, got none for {', '.join(missing)}; "
            "name another origin with --from, or the right file"
        )
    for name, value in tensors.items():
        axes = 1 if name.endswith(".bias") else 2 if name.startswith("crf.") else 4
        if value.ndim != axes or value.numel() == 0:
            raise ValueError(f"{name}: expected {axes} axes and some numbers, got shape {tuple(value.shape)}")
    if found.bgr:
        tensors["conv1_1.weight"] = tensors["conv1_1.weight"].flip(1)
    trained = "score_fr.weight" in tensors
    labels = tensors["score_fr.weight"].shape[0] if trained else (num_labels or len(VOC_CLASSES))
    if num_labels not in (None, labels):
        raise ValueError(
            f"labels: expected {labels} as in the file, got {num_labels}; omit it here, and train "
            "your own labels with `crfrnn train`"
        )
    matrices = {name: tensors.pop(f"crf.{name}") for name in CRF_PARTS if f"crf.{name}" in tensors}
    stage = "fcn8s"
    if trained and "score_pool3.weight" not in tensors:
        stage = "fcn16s" if "score_pool4.weight" in tensors else "fcn32s"
    arguments: dict[str, Any] = {
        "at_once": found.at_once,
        "widths": [tensors[f"conv{block}_1.weight"].shape[0] for block in range(1, len(VGG_DEPTHS) + 1)],
        "hidden": tensors["fc6.weight"].shape[0] if "fc6.weight" in tensors else VGG_HIDDEN,
    }
    with torch.device("meta"):  # detect contradictory shapes before allocating
        own = STAGES[stage](labels, **arguments).state_dict()
    fitting: dict[str, Tensor] = {}
    for name, value in tensors.items():
        if name not in own:
            raise ValueError(f"{name}: expected only tensors of {stage}, got this one; name another origin")
        fitting[name] = _dense(value) if name.startswith("upscore") and name.endswith("weight") else value
        if fitting[name].shape != own[name].shape:
            raise ValueError(f"{name}: expected shape {tuple(own[name].shape)}, got {tuple(value.shape)}")
    fresh = tuple(name for name in own if name not in fitting)
    # A file may omit fixed bilinear up-convolutions, and the bias that the first one has here.
    lost = [name for name in fresh if trained and not name.startswith("upscore")]
    if lost:
        raise ValueError(f"weights: expected all of {stage}, got none for {', '.join(lost)}; is it complete?")
    network = STAGES[stage](labels, **arguments)
    network.load_state_dict({**network.state_dict(), **fitting})
    network.preprocessing = found.preprocessing
    segmenter = Segmenter(
        network.eval(),
        _crf(matrices, labels) if matrices else None,
        guide=found.guide,
        class_names=VOC_CLASSES if labels == len(VOC_CLASSES) else (),
    )
    filled = (*fitting, *(f"crf.{name}" for name in matrices))
    return Converted(segmenter.eval(), filled, fresh)


def _dense(weight: Tensor) -> Tensor:
    """[L, 1, k, k], one kernel per label, as an equal dense [L, L, k, k]."""
    if weight.ndim == 4 and weight.shape[1] == 1 and weight.shape[0] > 1:
        return torch.eye(weight.shape[0])[:, :, None, None] * weight
    return weight


def _crf(matrices: dict[str, Tensor], labels: int) -> CRFRNN:
    for name in CRF_PARTS:
        got = tuple(matrices[name].shape) if name in matrices else "none"
        if got != (labels, labels):
            raise ValueError(f"crf.{name}: expected shape {(labels, labels)} as the scores have, got {got}")
    crf = CRFRNN(
        labels, preset="crfasrnn", iterations=5, eval_iterations=10, label_weights="matrix",
        quality="classic", spatial_method="lattice",
    )  # fmt: skip
    with torch.no_grad():
        for name, value in matrices.items():
            crf.get_parameter(name).copy_(value)
    return crf
