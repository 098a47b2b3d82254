# SPDX-License-Identifier: MIT
"""torchvision, and packages based on it: timm and segmentation-models-pytorch; random weights."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crfrnn import CRFRNN, Segmenter
from crfrnn.models import CAFFE, IMAGENET, build_network
from crfrnn.toolkits import TimmFCN, from_smp, from_timm, from_torchvision

if importlib.util.find_spec("torchvision") is None:
    pytest.skip("torchvision is not installed", allow_module_level=True)

try:
    import torchvision
except RuntimeError:  # built for another torch: it looks up schemas of operators that were not loaded
    DECLARED = torch.library.Library("torchvision", "DEF")
    DECLARED.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    DECLARED.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    for name in [n for n in sys.modules if n.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    import torchvision

LABELS = 3


def picture(height: int = 64, width: int = 96) -> Tensor:
    return torch.randint(256, (1, 3, height, width), dtype=torch.uint8)


def normalised(image: Tensor) -> Tensor:
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (image / 255 - mean[:, None, None]) / std[:, None, None]


@torch.no_grad()
def same_after_a_round_trip(segmenter: Segmenter, folder: Path) -> None:
    segmenter.eval().save_pretrained(folder)
    again, image = Segmenter.from_pretrained(folder), picture(45, 70)
    assert type(again.network) is type(segmenter.network)
    assert again.preprocessing == segmenter.preprocessing
    torch.testing.assert_close(again(image), segmenter(image), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "name", ["lraspp_mobilenet_v3_large", "deeplabv3_mobilenet_v3_large", "fcn_resnet50"]
)
@torch.no_grad()
def test_torchvision_models_meet_the_crf(name: str, tmp_path: Path) -> None:
    segmenter, image = from_torchvision(name, LABELS).eval(), picture()
    wanted = segmenter.network(normalised(image))["out"]
    torch.testing.assert_close(segmenter(image, iterations=0), wanted, atol=1e-4, rtol=1e-4)
    assert segmenter.crf is not None
    torch.testing.assert_close(segmenter(image), segmenter.crf(wanted, image), atol=2e-3, rtol=1e-3)
    if name != "fcn_resnet50":
        same_after_a_round_trip(segmenter, tmp_path)


def test_weights_of_torchvision_bring_their_labels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its own enum of weights; the download is replaced by random weights."""
    name = "deeplabv3_mobilenet_v3_large"
    weights = torchvision.models.get_model_weights(name).DEFAULT
    random = torchvision.models.get_model(
        name, weights=None, weights_backbone=None, num_classes=21, aux_loss=True
    )
    monkeypatch.setattr(type(weights), "get_state_dict", lambda *_, **__: random.state_dict())
    segmenter = from_torchvision(name, weights="DEFAULT")
    assert segmenter.class_names[15] == "person" and len(segmenter.class_names) == 21
    assert torch.equal(segmenter.network.classifier[4].weight, random.classifier[4].weight)
    assert segmenter.preprocessing.mean == pytest.approx(IMAGENET.mean)
    transforms = weights.transforms(resize_size=None)
    torch.testing.assert_close(
        segmenter.preprocessing(picture(5, 6) * 0 + 9),
        transforms(picture(5, 6) * 0 + 9),
        atol=1e-4,
        rtol=1e-4,
    )
    same_after_a_round_trip(segmenter, tmp_path)
    with pytest.raises(ValueError, match="num_labels: expected 21"):
        from_torchvision(name, 20, weights="DEFAULT")


def test_an_unchanged_model_of_torchvision() -> None:
    model = torchvision.models.get_model(
        "lraspp_mobilenet_v3_large", weights=None, weights_backbone=None, num_classes=5
    )
    segmenter = from_torchvision(model)
    assert segmenter.network is model and segmenter.crf is not None and segmenter.crf.num_labels == 5
    for call, named in (
        (lambda: from_torchvision(model, 4), "num_labels: expected 5"),
        (lambda: from_torchvision(model, crf=CRFRNN(4)), "crf: expected 5 labels"),
        (lambda: from_torchvision("fcn_resnet50"), "num_labels: expected a number"),
        (lambda: from_torchvision("resnet18", 4), "model: expected one of 'deeplabv3"),
        (lambda: from_torchvision(model, weights="DEFAULT"), "weights: expected None"),
    ):
        with pytest.raises(ValueError, match=f"^{named}"):
            call()


SMP = pytest.mark.skipif(
    importlib.util.find_spec("segmentation_models_pytorch") is None,
    reason="segmentation-models-pytorch is not installed",
)


@SMP
@pytest.mark.parametrize(
    ("arch", "stride"), [("Unet", 32), ("FPN", 32), ("DeepLabV3Plus", 16), ("PSPNet", 8), ("Segformer", 32)]
)
@torch.no_grad()
def test_smp_models_meet_the_crf(arch: str, stride: int, tmp_path: Path) -> None:
    smp: Any = importlib.import_module("segmentation_models_pytorch")
    model = getattr(smp, arch)("resnet18", encoder_weights=None, classes=LABELS).eval()
    segmenter, image = from_smp(model), picture(45, 70)
    filled = F.pad(normalised(image), (0, -70 % stride, 0, -45 % stride))
    wanted = model(filled)[:, :, :45, :70]
    torch.testing.assert_close(segmenter.eval()(image, iterations=0), wanted, atol=1e-4, rtol=1e-4)
    same_after_a_round_trip(segmenter, tmp_path)


@SMP
def test_smp_refusals() -> None:
    smp: Any = importlib.import_module("segmentation_models_pytorch")
    with pytest.raises(ValueError, match="activation=None, got 'sigmoid'"):
        from_smp(smp.Unet("resnet18", encoder_weights=None, classes=3, activation="sigmoid"))
    with pytest.raises(TypeError, match="model: expected one of segmentation-models-pytorch"):
        from_smp(nn.Conv2d(3, 3, 1))
    with pytest.raises(ValueError, match="network: expected the name of an architecture"):
        build_network("smp", arch="unet", encoder_name="tu-hf-hub:owner/net", classes=3)
    with pytest.raises(ValueError, match="arch: expected one of 'deeplabv3"):
        build_network("smp", arch="nnunet", classes=3)
    with pytest.raises(ValueError, match=r"network_arguments: .* got 'checkpoint_path' too"):
        build_network("smp", arch="unet", encoder_name="tu-resnet18", classes=3, checkpoint_path="x.pth")
    assert from_smp(
        smp.Unet("resnet18", encoder_weights=None, classes=3), preprocessing=CAFFE
    ).preprocessing.mean == pytest.approx(CAFFE.mean)


TIMM = pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed")


@TIMM
@pytest.mark.parametrize("backbone", ["resnet18", "mobilenetv3_small_050", "swin_tiny_patch4_window7_224"])
def test_timm_backbones_in_fcn_form(backbone: str, tmp_path: Path) -> None:
    if backbone.startswith("swin"):  # of a fixed size; gives channels last
        network = TimmFCN(backbone, LABELS)
        assert network(torch.zeros(1, 3, 224, 224)).shape == (1, LABELS, 28, 28)
        return
    segmenter, image = from_timm(backbone, LABELS), picture()
    network = segmenter.eval().network
    with torch.no_grad():
        features = network.encoder(normalised(image))[-3:]  # strides 8, 16, 32
        fine, middle, coarse = (s(f) for s, f in zip(network.scores, features, strict=True))
        up = {"mode": "bilinear", "align_corners": False, "scale_factor": 2}
        wanted = F.interpolate(F.interpolate(coarse, **up) + middle, **up) + fine
        torch.testing.assert_close(network(normalised(image)), wanted, atol=1e-4, rtol=1e-4)
    F.cross_entropy(segmenter(image), torch.randint(LABELS, (1, 64, 96))).backward()
    assert all(float(s.weight.grad.abs().sum()) > 0 for s in network.scores)
    same_after_a_round_trip(segmenter, tmp_path)


@TIMM
def test_timm_preprocessing_is_the_backbones_and_nothing_is_fetched(tmp_path: Path) -> None:
    timm: Any = importlib.import_module("timm")
    name = "mobilenetv3_small_050"
    config = timm.get_pretrained_cfg(name)
    found = from_timm(name, LABELS)
    assert found.preprocessing.std == pytest.approx([255 * v for v in config.std])
    with pytest.raises(ValueError, match="network: expected the name of an architecture"):
        from_timm("hf-hub:owner/net", 3)
    found.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    changed = json.loads(path.read_text())
    changed["network_arguments"]["pretrained"] = True
    path.write_text(json.dumps(changed))
    with pytest.raises(ValueError, match="unexpected keyword argument 'pretrained'"):
        Segmenter.from_pretrained(tmp_path)
