# SPDX-License-Identifier: MIT
"""DeepLabV3-MobileNetV2: its layers against the published table, its labels on real pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crfrnn.datasets import DeepLabUnaries, voc_pictures
from crfrnn.evaluation import confusion_matrix, mean_iu_of_truth
from crfrnn.io import VOC_CLASSES
from crfrnn.models import DEEPLAB, DeepLab, Segmenter, build_network, load_deeplab

FILES = {1.0: "deeplabv3_mnv2_voc_fp16.safetensors", 0.5: "deeplabv3_mnv2_dm05_voc_fp16.safetensors"}
PARAMETERS = {1.0: 2_097_013, 0.5: 688_357}
# Side of each block's input and output at 513 × 513, and the output's channels at width 1.0.
BLOCKS = [
    (257, 257, 16), (257, 129, 24), (129, 129, 24), (129, 65, 32), (65, 65, 32), (65, 65, 32), (65, 33, 64),
    *[(33, 33, 64)] * 3, *[(33, 33, 96)] * 3, *[(33, 33, 160)] * 3, (33, 33, 320),
]  # fmt: skip


def layers_at(network: DeepLab, side: int) -> dict[str, tuple[Any, int, int]]:
    """Every convolution with the sides of its input and output, in the order in which they run."""
    found: dict[str, tuple[Any, int, int]] = {}

    def noted(name: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda layer, given, out: found.update({name: (layer, given[0].shape[-1], out.shape[-1])})

    for name, layer in network.named_modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(noted(name))
    network(torch.zeros(1, 3, side, side, device="meta"))
    return found


@pytest.mark.parametrize("width", PARAMETERS)
def test_sizes_at_513(width: float) -> None:
    with torch.device("meta"):
        network = DeepLab(21, width=width)
    assert sum(value.numel() for value in network.parameters()) == PARAMETERS[width]
    found = layers_at(network, 513)
    assert len(found) == 55 and all(layer.bias is not None for layer, *_ in found.values())
    assert found["backbone.stem"][1:] == (513, 257)
    for number, (before, after, channels) in enumerate(BLOCKS):
        layer, _, side = found[f"backbone.blocks.{number}.project"]
        assert (side, layer.out_channels) == (after, int(channels * width)), number
        assert found[f"backbone.blocks.{number}.depthwise"][1] == before
    assert found["head.image_pooling"][1:] == (1, 1) and found["head.aspp0"][1:] == (33, 33)


@pytest.mark.real
@pytest.mark.parametrize("width", PARAMETERS)
def test_every_layer_is_that_of_the_published_table(shared: Path, width: float) -> None:
    text = (shared / "weights" / "deeplabv3_mnv2.md").read_text()
    half = text.index("## Depth multiplier 0.5")
    rows = [
        [cell.strip(" `") for cell in line.strip("|\n").split("|")]
        for line in (text[:half] if width == 1.0 else text[half:]).splitlines()
        if line.startswith("| `")
    ]
    with torch.device("meta"):
        network = DeepLab(21, width=width)
    found = layers_at(network, 513)
    assert [row[0] for row in rows if "head" not in row[0]] == [n for n in found if "head" not in n]
    assert {row[0] for row in rows} == set(found)
    for name, kind, kernel, stride, dilation, padding, inward, outward, _, before, after, residual, _ in rows:
        layer, was, now = found[name]
        assert layer.kernel_size == (int(kernel[0]), int(kernel[-1])), name
        assert layer.stride == (int(stride),) * 2 and layer.dilation == (int(dilation),) * 2, name
        assert [layer.padding[0], layer.padding[1]] * 2 == [int(p) for p in padding.split(",")], name
        assert (layer.in_channels, layer.out_channels) == (int(inward), int(outward)), name
        assert layer.groups == (int(inward) if kind == "depthwise" else 1), name
        assert (was, now) == (int(before), int(after)), name
        if name.endswith("project"):
            block = network.get_submodule(name.removesuffix(".project"))
            assert block.residual == residual.startswith("+"), name


def written_down(network: DeepLab, picture: Tensor) -> Tensor:
    """The network reimplemented as in TensorFlow's graph: "SAME" padding computed from each size."""
    w = network.state_dict()

    def conv(x: Tensor, name: str, stride: int = 1, dilation: int = 1) -> Tensor:
        weight = w[f"{name}.weight"]
        kernel, groups = weight.shape[-1], x.shape[1] // weight.shape[1]
        pads: list[int] = []
        for n in (x.shape[3], x.shape[2]):
            total = max((-(-n // stride) - 1) * stride + (kernel - 1) * dilation + 1 - n, 0)
            pads += [total // 2, total - total // 2]
        return F.conv2d(F.pad(x, pads), weight, w[f"{name}.bias"], stride, 0, dilation, groups)

    height, width = picture.shape[2:]
    sides = [16 * -(-(n - 1) // 16) + 1 for n in (height, width)]
    x = picture.new_zeros(1, 3, *sides)
    x[:, :, :height, :width] = picture
    x = conv(x, "backbone.stem", 2).clamp(0, 6)
    for number in range(17):
        name = f"backbone.blocks.{number}"
        y = conv(x, f"{name}.expand").clamp(0, 6) if number else x
        y = conv(y, f"{name}.depthwise", 2 if number in (1, 3, 6) else 1, 2 if number > 13 else 1).clamp(0, 6)
        y = conv(y, f"{name}.project")
        x = x + y if number in (2, 4, 5, 7, 8, 9, 11, 12, 14, 15) else y
    pooled = conv(x.mean((2, 3), keepdim=True), "head.image_pooling").clamp_min(0)
    both = torch.cat([pooled.expand(1, 256, *x.shape[2:]), conv(x, "head.aspp0").clamp_min(0)], 1)
    grid = conv(conv(both, "head.concat_projection").clamp_min(0), "head.classifier")
    return F.interpolate(grid, sides, mode="bilinear", align_corners=True)[:, :, :height, :width]


@pytest.mark.parametrize("size", [(1, 1), (17, 33), (16, 50), (64, 81)])
def test_any_size_against_the_network_written_out(size: tuple[int, int]) -> None:
    network = with_random_biases(DeepLab(3, width=0.5).double().eval())
    with torch.no_grad():
        picture = torch.randn(1, 3, *size, dtype=torch.float64)
        got = network(picture)
        assert got.shape == (1, 3, *size)
        torch.testing.assert_close(got, written_down(network, picture), rtol=1e-9, atol=1e-9)


def with_random_biases(network: DeepLab) -> DeepLab:
    with torch.no_grad():
        for name, value in network.named_parameters():
            if name.endswith("bias") or "classifier" in name:
                value.copy_(torch.randn_like(value) * 0.3)
    return network


def test_scale_keeps_cells_on_the_pixels_that_they_describe() -> None:
    """At sides of 16 k + 1 a scale close to 1 chooses the same canvas, so the network must be the same."""
    network = with_random_biases(DeepLab(3, width=0.5).double())
    near = DeepLab(3, width=0.5, scale=1.001).double()
    near.load_state_dict(network.state_dict())
    picture = torch.randn(1, 3, 49, 65, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(near(picture), network(picture), rtol=1e-9, atol=1e-9)


def test_several_scales_are_averaged() -> None:
    both = with_random_biases(DeepLab(3, width=0.5, scale=(1, 1.5)))
    one, other = DeepLab(3, width=0.5), DeepLab(3, width=0.5, scale=1.5)
    for network in (one, other):
        network.load_state_dict(both.state_dict())
    picture = torch.randn(2, 3, 40, 33)
    with torch.no_grad():
        torch.testing.assert_close(both(picture), (one(picture) + other(picture)) / 2)
    assert both.recipe.arguments["scale"] == [1.0, 1.5] and one.recipe.arguments["scale"] == 1.0
    again = build_network(**{"name": "deeplab", **both.recipe.arguments})
    assert isinstance(again, DeepLab) and again.scales == (1.0, 1.5)
    for scale in ((), (1, 1)):
        with pytest.raises(ValueError, match="scale: expected one number, or several different ones"):
            DeepLab(2, scale=scale)


@pytest.mark.parametrize("size", [(1, 1), (40, 7), (49, 65)])
def test_scale_enlarges_the_canvas_and_not_the_logits(size: tuple[int, int]) -> None:
    network = with_random_biases(DeepLab(3, width=0.5, scale=2))
    seen: list[tuple[int, ...]] = []
    network.backbone.register_forward_hook(lambda _, given, out: seen.append(tuple(given[0].shape[2:])))
    picture = torch.randn(2, 3, *size)
    logits = network(picture)
    logits.sum().backward()
    assert logits.shape == (2, 3, *size)
    (sides,) = seen
    assert all(
        abs(canvas - 1 - 2 * (side - 1)) <= 8 or canvas == 17
        for canvas, side in zip(sides, size, strict=True)
    )
    assert all(value.grad is not None for value in network.parameters())


def test_padded_pixels_have_the_mean_grey() -> None:
    """A grey border of the picture changes nothing; a mask pads with the same grey."""
    network = DeepLab(3, width=0.5)
    nn.init.normal_(network.head.classifier.weight)
    segmenter = Segmenter(network).eval()
    picture = torch.randint(256, (1, 3, 35, 40), dtype=torch.uint8)
    grey = torch.full((1, 3, 49, 49), 128, dtype=torch.uint8)
    grey[:, :, :35, :40] = picture
    black = torch.zeros_like(grey)
    black[:, :, :35, :40] = picture
    mask = torch.zeros(1, 49, 49, dtype=torch.bool)
    mask[:, :35, :40] = True
    with torch.no_grad():
        alone, filled, masked = segmenter(picture), segmenter(grey), segmenter(black, mask)
    assert torch.equal(alone, filled[:, :, :35, :40]) and torch.equal(alone, masked[:, :, :35, :40])


def test_built_by_name_and_refusals() -> None:
    network = build_network("deeplab", num_labels=4, width=0.5)
    assert isinstance(network, DeepLab) and network.preprocessing == DEEPLAB
    assert network.recipe.arguments == {"num_labels": 4, "width": 0.5, "scale": 1.0}
    with pytest.raises(ValueError, match=r"num_labels: .* got 0"):
        DeepLab(0)
    with pytest.raises(ValueError, match=r"width: expected 1\.0 or 0\.5, got 0\.75"):
        DeepLab(2, width=0.75)
    for scale in (0.9, 4.5, float("nan"), True, "2", (1, 0.5)):
        with pytest.raises(ValueError, match=r"scale: expected numbers from 1 to 4, got"):
            DeepLab(2, scale=scale)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"picture: expected \[B, 3, H, W\]"):
        DeepLab(2, width=0.5)(torch.zeros(1, 1, 9, 9))


def test_weights_of_another_number_of_labels_leave_the_classifier_fresh() -> None:
    state = {name: value.half() for name, value in DeepLab(21, width=0.5).state_dict().items()}
    network = DeepLab(2, width=0.5)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert len(load_deeplab(network, state)) == 108
    after = network.state_dict()
    assert torch.equal(after["backbone.stem.weight"], state["backbone.stem.weight"].float())
    assert torch.equal(after["head.classifier.weight"], before["head.classifier.weight"])
    again = DeepLab(21, width=0.5)
    assert len(load_deeplab(again, state)) == 110
    with pytest.raises(ValueError, match=r"backbone\.\S+: .* width of the file"):
        load_deeplab(DeepLab(21), state)
    with pytest.raises(ValueError, match=r"got another named head\.more"):
        load_deeplab(again, {**state, "head.more": torch.zeros(1)})
    del state["head.aspp0.bias"]
    with pytest.raises(ValueError, match=r"got none named head\.aspp0\.bias"):
        load_deeplab(again, state)


@pytest.mark.slow
@pytest.mark.real
def test_labels_on_real_pictures(shared: Path) -> None:
    """The float network against the quantised one: its logits on 12 pictures, and both widths against truth.

    The unaries of the person subset come from a quantised run on a canvas of 513 × 513 pixels; the published
    agreement of the float network with them is a correlation of 0.993 and 99 % of the labels.
    """
    folder = shared / "data" / "voc2012-person"
    unaries = DeepLabUnaries.load(folder / "unaries" / "val.npz")
    pictures = voc_pictures(folder, "val")
    segmenters = {}
    for width, file in FILES.items():
        network = DeepLab(21, width=width)
        assert len(load_deeplab(network, shared / "weights" / file)) == 110
        segmenters[width] = Segmenter(network, class_names=VOC_CLASSES).eval()
    ours, theirs, agree = [], [], []
    counts = {name: np.zeros((21, 21), np.int64) for name in (*FILES, "given")}
    for index, item in enumerate(pictures.select(pictures.ids[::13])):
        picture = torch.from_numpy(item.image).permute(2, 0, 1)[None]
        height, width = picture.shape[2:]
        given = unaries.logits(item.id, (height, width))
        with torch.no_grad():
            guesses = {name: segmenter.unary(picture)[0].argmax(0) for name, segmenter in segmenters.items()}
        for name, guess in {**guesses, "given": given.argmax(0)}.items():
            counts[name] += confusion_matrix(item.mask, guess.numpy(), 21)
        if index % 2:
            continue
        canvas = torch.full((1, 3, 513, 513), 128, dtype=torch.uint8)
        canvas[:, :, :height, :width] = picture
        with torch.no_grad():
            logits = segmenters[1.0].unary(canvas)[0, :, :height, :width]
        agree.append(float((logits.argmax(0) == given.argmax(0)).float().mean()))
        ours.append(logits[:, ::16, ::16].flatten())
        theirs.append(given[:, ::16, ::16].flatten())
    assert np.corrcoef(torch.cat(ours), torch.cat(theirs))[0, 1] > 0.99
    assert np.mean(agree) > 0.98
    scores = {name: 100 * float(mean_iu_of_truth(matrix)) for name, matrix in counts.items()}
    # On 24 pictures a label's score depends on a few of them; on all 311 they are 67.6, 60.6 and 67.4.
    assert abs(scores[1.0] - scores["given"]) < 3 and abs(scores[0.5] - scores["given"]) < 3, scores
