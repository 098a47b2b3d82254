# SPDX-License-Identifier: MIT
"""From tensors in this package's names and conventions to a segmenter, whatever file they came from."""

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
# Names in other people's files → ours.
NAMES = {name: name for name in (*CONVOLUTIONS, *_HEAD)} | {
    "score-fr": "score_fr", "score-pool4": "score_pool4", "score-pool3": "score_pool3",
    "score2": "upscore2", "score4": "upscore_pool4", "upsample": "upscore8",  # CRF-RNN
    "upscore": "upscore32",  # FCN-32s
}  # fmt: skip


@dataclass(frozen=True)
class Found:
    """What a reader gives.

    Attributes:
        tensors: by our names, the CRF's under "crf.".
        preprocessing: of the converted network, which takes R, G, B.
        guide: what the CRF was trained on.
        bgr: conv1_1 still takes B, G, R and is to be turned round.
        at_once: the pools are scaled.
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
    """The network that the tensors are of, with them in it, and the CRF if there is one.

    FCN-8s, 16s or 32s by the score layers; FCN-8s with fresh scores for VGG-16 alone. A CRF is the released
    model's: its thetas (160, 3, 3, which no weight file holds), T = 5 and 10, matrices of label weights, the
    classic lattice in both kernels.

    Args:
        found: what a reader gives.
        num_labels: of fresh score layers (None: 21); the file's own where it has them.

    Raises: ValueError for tensors missing, or of shapes that do not fit each other.
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
            f"labels: expected {labels} as the file has, got {num_labels}; leave it out here, and let "
            "`crfrnn train` learn labels of your own"
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
    with torch.device("meta"):  # shapes that contradict each other must not cost memory
        own = STAGES[stage](labels, **arguments).state_dict()
    fitting: dict[str, Tensor] = {}
    for name, value in tensors.items():
        if name not in own:
            raise ValueError(f"{name}: expected only tensors of {stage}, got this one; name another origin")
        fitting[name] = _dense(value) if name.startswith("upscore") and name.endswith("weight") else value
        if fitting[name].shape != own[name].shape:
            raise ValueError(f"{name}: expected shape {tuple(own[name].shape)}, got {tuple(value.shape)}")
    fresh = tuple(name for name in own if name not in fitting)
    # A trained file may leave out fixed bilinear up-convolutions and the bias that the first one has here.
    lost = [name for name in fresh if trained and not name.startswith("upscore")]
    if lost:
        raise ValueError(f"weights: expected all of {stage}, got none for {', '.join(lost)}; is it whole?")
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
    """[L, 1, k, k], one kernel per label, as the dense [L, L, k, k] that it is."""
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
