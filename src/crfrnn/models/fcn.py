# SPDX-License-Identifier: MIT
"""FCN-32s, FCN-16s and FCN-8s on VGG-16, with the layers of the paper's network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crfrnn.crf.validate import check_count
from crfrnn.models.alignment import Grid
from crfrnn.models.preprocessing import CAFFE, check_batch
from crfrnn.models.registry import Recipe, register_network

PADDING = 100  # of conv1_1, so that fc6 accepts a picture of any size
VGG_WIDTHS, VGG_HIDDEN = (64, 128, 256, 512, 512), 4096
VGG_DEPTHS = (2, 2, 3, 3, 3)  # convolutions per block
AT_ONCE = {"pool4": 0.01, "pool3": 0.0001}  # fixed scales for training all three streams together
Network = TypeVar("Network", bound="FCN")


class FCN(nn.Module, ABC):
    """Convolutional VGG-16, shared by the three stages. Use `FCN32s`, `FCN16s` or `FCN8s`.

    Layers have the original names: conv1_1 … conv5_3, fc6 (7×7), fc7, score_fr, score_pool4, score_pool3 and
    the transposed convolutions. Pools round up. Dropout of fc6 and fc7 is element-wise, as in Caffe.
    Score layers start at zero and up-convolutions as bilinear interpolation per label (dense L×L).

    Args:
        num_labels: L ≥ 1.
        at_once: scale pool4 by 0.01 and pool3 by 0.0001 before their score layers (the variant that
            trains all streams at once; the network of CRF-RNN has no such scales).
        learn_upsampling: False fixes the up-convolutions, as in the original FCN.
        widths, hidden: channels of the five blocks, and of fc6 and fc7; VGG-16's by default.

    Attributes:
        preprocessing: as used to train the weights; the paper's mean colour until weights are loaded.
        recipe: name and arguments with which `build_network` rebuilds it.

    Source: Long, Shelhamer & Darrell, CVPR 2015, doi:10.1109/CVPR.2015.7298965; Zheng et al., ICCV 2015,
    doi:10.1109/ICCV.2015.179, section 5.
    """

    name: ClassVar[str]

    def __init__(
        self,
        num_labels: int,
        *,
        at_once: bool = False,
        learn_upsampling: bool = True,
        widths: Sequence[int] = VGG_WIDTHS,
        hidden: int = VGG_HIDDEN,
    ) -> None:
        super().__init__()
        check_count("num_labels", num_labels, 1, "one channel of the logits for each label")
        if len(widths) != len(VGG_DEPTHS) or min(*widths, hidden) < 1:
            raise ValueError(
                f"widths, hidden: expected five counts and one, all above 0, got {widths!r}, {hidden!r}"
            )
        self.num_labels, self.at_once = num_labels, bool(at_once)
        arguments: dict[str, Any] = {"num_labels": num_labels, "at_once": self.at_once}
        arguments |= {"learn_upsampling": bool(learn_upsampling), "widths": list(widths), "hidden": hidden}
        self.recipe, self.preprocessing = Recipe(self.name, arguments), CAFFE

        grid, before = Grid(), 3
        self._pools: dict[str, Grid] = {}
        for block, (width, depth) in enumerate(zip(widths, VGG_DEPTHS, strict=True), 1):
            for number in range(1, depth + 1):
                padding = PADDING if (block, number) == (1, 1) else 1
                self.add_module(f"conv{block}_{number}", nn.Conv2d(before, width, 3, padding=padding))
                grid, before = grid.window(3, padding=padding), width
            grid = grid.window(2, stride=2)
            self._pools[f"pool{block}"] = grid
        self.fc6, self.fc7 = nn.Conv2d(before, hidden, 7), nn.Conv2d(hidden, hidden, 1)
        self.dropout = nn.Dropout(0.5)
        self.score_fr = nn.Conv2d(hidden, num_labels, 1)
        self._grid = grid.window(7)  # grid of the latest scores; updated by the stages
        self.crops: dict[str, int] = {}  # first row and column to keep, by cropped layer
        self._widths = dict(zip(self._pools, widths, strict=True))
        self._build_head()
        self._initialise(learn_upsampling)

    @abstractmethod
    def _build_head(self) -> None:
        """Add the layers after the scores of fc7."""

    def _add_upsampling(self, name: str, stride: int, *, bias: bool = False) -> None:
        labels = self.num_labels
        self.add_module(name, nn.ConvTranspose2d(labels, labels, 2 * stride, stride, bias=bias))
        self._grid = self._grid.transposed(2 * stride, stride)

    def _add_skip(self, pool: str) -> None:
        self.add_module(f"score_{pool}", nn.Conv2d(self._widths[pool], self.num_labels, 1))
        self.crops[f"score_{pool}"] = self._grid.offset_in(self._pools[pool])

    def _add_output(self, name: str, stride: int) -> None:
        self._add_upsampling(name, stride)
        self.crops[name] = Grid().offset_in(self._grid)

    def _initialise(self, learn_upsampling: bool) -> None:
        for name, layer in self.named_children():
            if isinstance(layer, nn.ConvTranspose2d):
                with torch.no_grad():
                    layer.weight.copy_(bilinear_kernel(self.num_labels, layer.stride[0]))
                    if layer.bias is not None:
                        layer.bias.zero_()
                layer.requires_grad_(learn_upsampling)
            elif isinstance(layer, nn.Conv2d):
                if name.startswith("score"):
                    nn.init.zeros_(layer.weight)
                else:
                    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)

    @classmethod
    def from_stage(cls: type[Network], stage: FCN, **changes: Any) -> Network:
        """A network initialised from a trained coarser one: 16s from 32s, 8s from 16s.

        Layers of equal name and shape are copied; new score layers start at zero and new up-convolutions as
        bilinear ones, so that the first output equals the stage's output up to the interpolation.

        Args:
            stage: the trained network.
            changes: arguments to override, such as ``learn_upsampling``.

        >>> coarse = FCN32s(2, widths=(1, 1, 1, 1, 1), hidden=2)
        >>> FCN16s.from_stage(coarse).num_labels
        2
        """
        network = cls(**{**stage.recipe.arguments, **changes})
        own, preprocessing = network.state_dict(), stage.preprocessing
        fitting = {n: v for n, v in stage.state_dict().items() if n in own and own[n].shape == v.shape}
        network.load_state_dict({**own, **fitting})
        network.preprocessing = preprocessing
        return network.train(stage.training)

    def features(self, picture: Tensor) -> dict[str, Tensor]:
        """pool3, pool4 and fc7 of a preprocessed picture, Float[B, C, h, w] each."""
        kept: dict[str, Tensor] = {}
        values = picture
        for block, depth in enumerate(VGG_DEPTHS, 1):
            for number in range(1, depth + 1):
                values = F.relu(self.get_submodule(f"conv{block}_{number}")(values))
            values = F.max_pool2d(values, 2, 2, ceil_mode=True)
            if block in (3, 4):
                kept[f"pool{block}"] = values
        values = self.dropout(F.relu(self.fc6(values)))
        kept["fc7"] = self.dropout(F.relu(self.fc7(values)))
        return kept

    def fused(self, scores: Tensor, pool: str, pooled: Tensor) -> Tensor:
        """`scores` plus the cropped scores of a pool."""
        scaled = pooled * AT_ONCE[pool] if self.at_once else pooled
        skip = self.get_submodule(f"score_{pool}")(scaled)
        return scores + crop(skip, self.crops[f"score_{pool}"], scores.shape[2:])

    def forward(self, picture: Tensor) -> Tensor:
        """Preprocessed Float[B, 3, H, W] of any size → logits Float[B, L, H, W]."""
        check_batch(picture, "grey pictures are repeated over three channels first")
        name, scores = self.scores(self.features(picture))
        return crop(self.get_submodule(name)(scores), self.crops[name], picture.shape[2:])

    @abstractmethod
    def scores(self, features: dict[str, Tensor]) -> tuple[str, Tensor]:
        """The name and the input of the last up-convolution."""


class FCN32s(FCN):
    """FCN-32s: fc7 scores, ×32 (crop 19). See `FCN`.

    >>> FCN32s(3, widths=(1, 1, 1, 1, 1), hidden=2)(torch.zeros(1, 3, 40, 33)).shape
    torch.Size([1, 3, 40, 33])
    """

    name = "fcn32s"

    def _build_head(self) -> None:
        self._add_output("upscore32", 32)

    def scores(self, features: dict[str, Tensor]) -> tuple[str, Tensor]:
        return "upscore32", self.score_fr(features["fc7"])


class FCN16s(FCN):
    """FCN-16s: fc7 scores ×2, plus pool4 (crop 5), ×16 (crop 27). See `FCN`."""

    name = "fcn16s"

    def _build_head(self) -> None:
        self._add_upsampling("upscore2", 2, bias=True)
        self._add_skip("pool4")
        self._add_output("upscore16", 16)

    def scores(self, features: dict[str, Tensor]) -> tuple[str, Tensor]:
        scores = self.get_submodule("upscore2")(self.score_fr(features["fc7"]))
        return "upscore16", self.fused(scores, "pool4", features["pool4"])


class FCN8s(FCN):
    """FCN-8s: fc7 scores ×2, plus pool4 (crop 5), ×2, plus pool3 (crop 9), ×8 (crop 31). See `FCN`.

    >>> FCN8s(3, widths=(1, 1, 1, 1, 1), hidden=2)(torch.zeros(1, 3, 40, 33)).shape
    torch.Size([1, 3, 40, 33])
    """

    name = "fcn8s"

    def _build_head(self) -> None:
        self._add_upsampling("upscore2", 2, bias=True)
        self._add_skip("pool4")
        self._add_upsampling("upscore_pool4", 2)
        self._add_skip("pool3")
        self._add_output("upscore8", 8)

    def scores(self, features: dict[str, Tensor]) -> tuple[str, Tensor]:
        scores = self.get_submodule("upscore2")(self.score_fr(features["fc7"]))
        scores = self.get_submodule("upscore_pool4")(self.fused(scores, "pool4", features["pool4"]))
        return "upscore8", self.fused(scores, "pool3", features["pool3"])


STAGES = {stage.name: stage for stage in (FCN32s, FCN16s, FCN8s)}
for _name, _stage in STAGES.items():
    register_network(_name, _stage)


def bilinear_kernel(labels: int, stride: int) -> Tensor:
    """Float[L, L, 2s, 2s]: bilinear interpolation ×s of each label separately.

    ``k(i) = 1 - |i + ½ - s| / s`` on both axes, on the diagonal of the labels; zero elsewhere.

    >>> bilinear_kernel(1, 2)[0, 0, 0]
    tensor([0.0625, 0.1875, 0.1875, 0.0625])
    """
    line = 1 - (torch.arange(2 * stride) + 0.5 - stride).abs() / stride
    return torch.eye(labels)[:, :, None, None] * torch.outer(line, line)


def crop(values: Tensor, first: int, size: Sequence[int]) -> Tensor:
    """The window of `size` that starts at (first, first)."""
    height, width = size
    return values[:, :, first : first + height, first : first + width]
