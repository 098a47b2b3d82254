# SPDX-License-Identifier: MIT
"""timm: its feature pyramids as fully convolutional networks."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from crfrnn.crf import CRFRNN
from crfrnn.models.logits import resize_logits
from crfrnn.models.preprocessing import Preprocessing
from crfrnn.models.registry import Recipe, register_network
from crfrnn.models.segmenter import Segmenter
from crfrnn.toolkits.needs import fitting, needs, plain_name

_FINEST = 8  # stride of the finest score map, as in FCN-8s


class TimmFCN(nn.Module):
    """A backbone of timm in the form of FCN-8s: 1×1 scores at strides 32, 16 and 8, each enlarged and added.

    Args:
        backbone: a name for ``timm.create_model(name, features_only=True)``.
        num_labels: L.
        pretrained: download ImageNet weights.

    Attributes:
        preprocessing: the backbone's preprocessing.

    Source: Long, Shelhamer & Darrell, CVPR 2015, arXiv:1411.4038, section 4.2.
    """

    def __init__(self, backbone: str, num_labels: int, pretrained: bool = False) -> None:
        super().__init__()
        timm = needs("timm", "timm")
        self.encoder = timm.create_model(plain_name(backbone), pretrained=pretrained, features_only=True)
        strides, widths = self.encoder.feature_info.reduction(), self.encoder.feature_info.channels()
        self.taken = [k for k, stride in enumerate(strides) if stride >= _FINEST]
        if not self.taken:
            raise ValueError(f"backbone: expected features at stride {_FINEST} or more, got {strides}")
        self.widths = [widths[k] for k in self.taken]
        self.scores = nn.ModuleList(nn.Conv2d(width, num_labels, 1) for width in self.widths)
        found = timm.data.resolve_model_data_config(self.encoder)
        self.preprocessing = Preprocessing(
            tuple(255 * float(v) for v in found["mean"]),  # pyright: ignore[reportArgumentType]
            tuple(255 * float(v) for v in found["std"]),  # pyright: ignore[reportArgumentType]
            multiple=max(strides),
        )
        self.recipe = Recipe("timm-fcn", {"backbone": backbone, "num_labels": num_labels})

    def forward(self, picture: Tensor) -> Tensor:
        """Float[B, 3, H, W] → logits Float[B, L, ⌈H/8⌉, ⌈W/8⌉]."""
        features = self.encoder(picture)
        total: Any = None
        for k, width, score in reversed(list(zip(self.taken, self.widths, self.scores, strict=True))):
            values = features[k]
            if values.shape[1] != width and values.shape[-1] == width:  # some return channels last
                values = values.permute(0, 3, 1, 2)
            own = score(values)
            total = own if total is None else own + resize_logits(total, own.shape[2:])
        return total


def from_timm(
    backbone: str, num_labels: int, *, pretrained: bool = False, crf: CRFRNN | None = None
) -> Segmenter:
    """A `Segmenter` of a `TimmFCN` and a CRF; None: `CRFRNN` with its defaults."""
    return Segmenter(TimmFCN(backbone, num_labels, pretrained), fitting(crf, num_labels))


def build_timm(backbone: str, num_labels: int) -> TimmFCN:
    """A `TimmFCN` with random weights; nothing is downloaded."""
    return TimmFCN(backbone, num_labels)


register_network("timm-fcn", build_timm)
