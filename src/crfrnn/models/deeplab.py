# SPDX-License-Identifier: MIT
"""DeepLabV3 on MobileNetV2, with every batch norm folded into its convolution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crfrnn.crf.validate import check_count
from crfrnn.io.files import PathLike
from crfrnn.io.weights import read_tensors
from crfrnn.models.bottleneck import Row, stacked
from crfrnn.models.logits import enlarge
from crfrnn.models.preprocessing import DEEPLAB, check_batch
from crfrnn.models.registry import Recipe, register_network

WIDTHS = (1.0, 0.5)
STRIDE = 16
LONG_SIDE = 513  # side of the canvas that TensorFlow's weights were trained on
STEM, HEAD = 32, 256
LARGEST_SCALE = 4.0
# MobileNetV2's table; its last 1×1 layer to 1280 channels is part of the ImageNet classifier.
STAGES = (
    Row(1, 3, 1, 1, 16), Row(2, 3, 2, 6, 24), Row(3, 3, 2, 6, 32), Row(4, 3, 2, 6, 64), Row(3, 3, 1, 6, 96),
    Row(3, 3, 2, 6, 160), Row(1, 3, 1, 6, 320),
)  # fmt: skip
CLASSIFIER = "head.classifier."


class MobileNetV2(nn.Module):
    """The convolutions of MobileNetV2 at output stride 16: Float[B, 3, H, W] → Float[B, 320·width, h, w].

    Source: Sandler et al., CVPR 2018, doi:10.1109/CVPR.2018.00474, table 2.
    """

    def __init__(self, width: float) -> None:
        super().__init__()
        stem = int(STEM * width)
        self.stem = nn.Conv2d(3, stem, 3, 2, 1)
        rows = [row._replace(channels=int(row.channels * width)) for row in STAGES]
        self.blocks, _ = stacked(rows, stem, STRIDE, folded=True)
        self.channels = rows[-1].channels

    def forward(self, picture: Tensor) -> Tensor:
        values = F.relu6(self.stem(picture))
        for block in self.blocks:
            values = block(values)
        return values


class Head(nn.Module):
    """1×1 layers on the map and on its mean, concatenated, then the classifier."""

    def __init__(self, channels: int, num_labels: int) -> None:
        super().__init__()
        self.image_pooling = nn.Conv2d(channels, HEAD, 1)
        self.aspp0 = nn.Conv2d(channels, HEAD, 1)
        self.concat_projection = nn.Conv2d(2 * HEAD, HEAD, 1)
        self.classifier = nn.Conv2d(HEAD, num_labels, 1)

    def forward(self, values: Tensor) -> Tensor:
        pooled = F.relu(self.image_pooling(values.mean((2, 3), keepdim=True)))
        local = F.relu(self.aspp0(values))
        both = torch.cat([pooled.expand_as(local), local], 1)
        return self.classifier(F.relu(self.concat_projection(both)))


class DeepLab(nn.Module):
    """DeepLabV3 without atrous branches on MobileNetV2, TensorFlow's export for phones.

    ``logits = enlarge₁₆(classifier(relu(projection(concat(pooling(f), aspp0(f))))))`` with f the backbone's
    map at output stride 16. All batch norms are folded: every convolution has a bias, and training and
    evaluation mode are the same function. Internally, pictures are padded to sides of 16 k + 1 with zeros,
    the mean grey of the preprocessing. At these sizes TensorFlow's "SAME" padding is symmetric and cell
    (i, j) of the last map lies on pixel (16 i, 16 j); logits are enlarged bilinearly with aligned corners and
    cropped to the picture.

    With a `scale` other than 1, pictures are instead enlarged to the sides of 16 k + 1 nearest to scale times
    theirs, bilinearly with aligned corners, and the logits are resized from the last map to the picture in
    the same way. The cell of the map is then 16 / scale pixels wide, so boundaries and small objects are
    found more precisely, in scale² times the time. Of several scales the mean of the logits is taken: the
    smaller ones see more of a large object.

    Args:
        num_labels: L ≥ 1.
        width: 1.0 (2.1 M parameters) or 0.5 (0.7 M): the factor of the backbone's channels.
        scale: enlargement of the picture before the network, 1 to 4; or several.

    Attributes:
        preprocessing: (I - 128) / 128.
        scales: as given.
        recipe: name and arguments with which `build_network` rebuilds it.

    Raises: ValueError for an unsupported width, scale or number of labels.

    Source: Chen et al., *Rethinking Atrous Convolution*, 2017, arXiv:1706.05587; Sandler et al.,
    *MobileNetV2*, CVPR 2018, doi:10.1109/CVPR.2018.00474, section 6.3.

    >>> DeepLab(21, width=0.5)(torch.zeros(1, 3, 50, 43)).shape
    torch.Size([1, 21, 50, 43])
    """

    def __init__(self, num_labels: int, *, width: float = 1.0, scale: float | Sequence[float] = 1.0) -> None:
        super().__init__()
        check_count("num_labels", num_labels, 1, "one channel of the logits for each label")
        if width not in WIDTHS:
            raise ValueError(f"width: expected {' or '.join(map(str, WIDTHS))}, got {width!r}")
        self.scales = _checked_scales(scale)
        recorded = self.scales[0] if len(self.scales) == 1 else list(self.scales)  # as in JSON
        self.recipe = Recipe("deeplab", {"num_labels": num_labels, "width": float(width), "scale": recorded})
        self.preprocessing = DEEPLAB
        self.backbone = MobileNetV2(width)
        self.head = Head(self.backbone.channels, num_labels)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                # Without batch norms, only the weights determine the scale of the activations.
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)
        nn.init.normal_(self.head.classifier.weight, std=0.01)

    def forward(self, picture: Tensor) -> Tensor:
        """Preprocessed Float[B, 3, H, W] of any size → logits Float[B, L, H, W]."""
        check_batch(picture, "grey pictures are repeated over three channels first")
        logits = self._at(picture, self.scales[0])
        for scale in self.scales[1:]:
            logits = logits + self._at(picture, scale)
        return logits if len(self.scales) == 1 else logits / len(self.scales)

    def _at(self, picture: Tensor, scale: float) -> Tensor:
        height, width = picture.shape[2:]
        if scale == 1:
            canvas = F.pad(picture, (0, -(width - 1) % STRIDE, 0, -(height - 1) % STRIDE))
            return enlarge(self.head(self.backbone(canvas)), STRIDE, (height, width))
        sides = [STRIDE * max(round((side - 1) * scale / STRIDE), 1) + 1 for side in (height, width)]
        canvas = F.interpolate(picture, size=sides, mode="bilinear", align_corners=True)
        grid = self.head(self.backbone(canvas))
        return F.interpolate(grid, size=(height, width), mode="bilinear", align_corners=True)


def _checked_scales(scale: float | Sequence[float]) -> tuple[float, ...]:
    given = tuple(scale) if isinstance(scale, Sequence) and not isinstance(scale, str) else (scale,)
    for one in given:
        if isinstance(one, bool) or not isinstance(one, int | float) or not 1 <= one <= LARGEST_SCALE:
            raise ValueError(
                f"scale: expected numbers from 1 to {LARGEST_SCALE:g}, got {scale!r}; 1 keeps the picture"
            )
    if not given or len(set(given)) < len(given):
        raise ValueError(f"scale: expected one number, or several different ones, got {scale!r}")
    return tuple(map(float, given))


register_network("deeplab", DeepLab)


def load_deeplab(network: DeepLab, source: PathLike | Mapping[str, Tensor]) -> tuple[str, ...]:
    """Load weights with the network's tensor names; returns the names of the tensors that were filled.

    Args:
        network: its classifier is left unchanged if the source has another number of labels.
        source: a state dict, or its .safetensors or .pth file, in any precision.

    Raises: ValueError for missing or unknown tensors, or shapes that do not fit the width.
    """
    state = source if isinstance(source, Mapping) else read_tensors(source)
    own = network.state_dict()
    differ = sorted(set(own) ^ set(state))
    if differ:
        raise ValueError(
            f"weights: expected the {len(own)} tensors of DeepLabV3-MobileNetV2, got "
            f"{'none' if differ[0] in own else 'another'} named {differ[0]}; name the right file"
        )
    tensors: dict[str, Tensor] = {}
    for name, value in state.items():
        if own[name].shape != value.shape:
            if name.startswith(CLASSIFIER) and own[name].shape[1:] == value.shape[1:]:
                continue
            raise ValueError(
                f"{name}: expected shape {tuple(own[name].shape)} as the network has, got "
                f"{tuple(value.shape)}; build it with the width of the file, 1.0 or 0.5"
            )
        tensors[name] = value.float()
    network.load_state_dict({**own, **tensors})
    return tuple(tensors)
