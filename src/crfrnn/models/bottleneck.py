# SPDX-License-Identifier: MIT
"""The inverted bottleneck of MobileNetV2 and EfficientNet-Lite, and stacks of it at any output stride."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

EPSILON, MOMENTUM = 1e-3, 0.01


class Row(NamedTuple):
    """One line of a table of stages; the stride is that of the first block of `repeats`."""

    repeats: int
    kernel: int
    stride: int
    expansion: int
    channels: int


def norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=EPSILON, momentum=MOMENTUM)


class InvertedBottleneck(nn.Module):
    """Widen (1×1), filter per channel, narrow (1×1), and add the input if the shapes match.

    Padding by half the kernel keeps cell i of every map at picture coordinate stride·i, for any size. With
    `folded`, batch norms are folded into the convolutions, which then have biases.

    Source: Sandler et al., *MobileNetV2*, CVPR 2018, doi:10.1109/CVPR.2018.00474, section 3.3.
    """

    def __init__(
        self, before: int, row: Row, stride: int = 1, dilation: int = 1, *, folded: bool = False
    ) -> None:
        super().__init__()
        wide, kernel, after = before * row.expansion, row.kernel, row.channels

        def folded_or_norm(channels: int) -> nn.Module:
            return nn.Identity() if folded else norm(channels)

        widens = row.expansion > 1
        self.expand = nn.Conv2d(before, wide, 1, bias=folded) if widens else None
        self.expand_norm = folded_or_norm(wide) if widens else None
        self.depthwise = nn.Conv2d(
            wide, wide, kernel, stride, dilation * (kernel // 2), dilation, groups=wide, bias=folded
        )
        self.depthwise_norm = folded_or_norm(wide)
        self.project = nn.Conv2d(wide, after, 1, bias=folded)
        self.project_norm = folded_or_norm(after)
        self.residual = stride == 1 and before == after

    def forward(self, values: Tensor) -> Tensor:
        wide = values
        if self.expand is not None and self.expand_norm is not None:
            wide = F.relu6(self.expand_norm(self.expand(wide)))
        wide = F.relu6(self.depthwise_norm(self.depthwise(wide)))
        narrow = self.project_norm(self.project(wide))
        return values + narrow if self.residual else narrow


def stacked(
    rows: Sequence[Row], before: int, last_stride: int, *, folded: bool = False
) -> tuple[nn.ModuleList, list[int]]:
    """The blocks of a table after a stem of stride 2 with `before` channels, and the stride of each output.

    No map is coarser than `last_stride`: a stage that would exceed it keeps its resolution, and the following
    filters are dilated so that they read the same neighbours.
    """
    blocks: list[nn.Module] = []
    strides: list[int] = []
    now, dilation = 2, 1
    for row in rows:
        for repeat in range(row.repeats):
            step, spread = (row.stride, dilation) if repeat == 0 else (1, dilation)
            if step > 1 and now * step > last_stride:
                # The first filter keeps its dilation; that of the following ones is doubled.
                dilation, step = dilation * step, 1
            blocks.append(InvertedBottleneck(before, row, step, spread, folded=folded))
            before, now = row.channels, now * step
            strides.append(now)
    return nn.ModuleList(blocks), strides
