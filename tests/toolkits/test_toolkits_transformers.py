# SPDX-License-Identifier: MIT
"""SegFormer, UperNet and Mask2Former of transformers with random weights, their processors, files."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crfrnn import CRFRNN, Segmenter
from crfrnn.models import CAFFE, IMAGENET
from crfrnn.toolkits import from_transformers, post_process_semantic_segmentation
from crfrnn.toolkits.transformers import TransformersNetwork, preprocessing_of

transformers = pytest.importorskip("transformers", reason="transformers is not installed")
LABELS = 3


def segformer() -> Any:
    config = transformers.SegformerConfig(
        num_encoder_blocks=2, depths=[1, 1], sr_ratios=[2, 1], hidden_sizes=[4, 8],
        num_attention_heads=[1, 2], patch_sizes=[7, 3], strides=[4, 2], mlp_ratios=[2, 2],
        decoder_hidden_size=8, num_labels=LABELS,
        id2label={0: "sky", 1: "sea", 2: "sand"}, label2id={"sky": 0, "sea": 1, "sand": 2},
    )  # fmt: skip
    return transformers.SegformerForSemanticSegmentation(config).eval()


def upernet() -> Any:
    stages = [f"stage{k}" for k in range(1, 5)]
    backbone = transformers.ConvNextConfig(hidden_sizes=[4, 4, 8, 8], depths=[1] * 4, out_features=stages)
    config = transformers.UperNetConfig(
        backbone_config=backbone, hidden_size=8, num_labels=LABELS, use_auxiliary_head=False
    )
    return transformers.UperNetForSemanticSegmentation(config).eval()


def mask2former() -> Any:
    stages = [f"stage{k}" for k in range(1, 5)]
    backbone = transformers.SwinConfig(
        image_size=64, embed_dim=8, depths=[1] * 4, num_heads=[1, 1, 2, 2], window_size=2, out_features=stages
    )
    config = transformers.Mask2FormerConfig(
        backbone_config=backbone, feature_size=32, mask_feature_size=32, hidden_dim=32, num_labels=LABELS,
        encoder_feedforward_dim=16, dim_feedforward=16, encoder_layers=1, decoder_layers=2,
        num_attention_heads=2, num_queries=5,
    )  # fmt: skip
    return transformers.Mask2FormerForUniversalSegmentation(config).eval()


def processor(name: str, **options: Any) -> Any:
    """The processor that needs no torchvision: another class in newer versions, the only one in older."""
    module = transformers.models
    for part in (name.lower(), f"image_processing_pil_{name.lower()}"):
        module = getattr(module, part)
    return getattr(module, f"{name}ImageProcessorPil")(**options)


MODELS = {"segformer": segformer, "upernet": upernet, "mask2former": mask2former}


def pictures(height: int = 64, width: int = 96) -> Tensor:
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    base = torch.stack([rows * 2, columns * 2, 255 - rows - columns])
    noise = torch.randint(-20, 20, (2, 3, height, width))
    return (base + noise).clamp(0, 255).to(torch.uint8)


def arrays(picture: Tensor) -> list[np.ndarray]:
    return [p.permute(1, 2, 0).numpy() for p in picture]


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_the_segmenter_is_processor_model_and_crf(name: str) -> None:
    model, picture = MODELS[name](), pictures()
    made = processor("Mask2Former" if name == "mask2former" else "Segformer", do_resize=False)
    segmenter = from_transformers(model, made).eval()
    inputs = made(images=arrays(picture), return_tensors="pt")
    outputs = model(inputs["pixel_values"])
    if name == "mask2former":  # the same sum, query by query
        classes, masks = outputs.class_queries_logits.softmax(-1), outputs.masks_queries_logits.sigmoid()
        scores = torch.stack([classes[:, q, :LABELS, None, None] * masks[:, q, None] for q in range(5)]).sum(
            0
        )
        logits = scores.clamp(min=1e-5).log()
    else:
        logits = outputs.logits
    unary = F.interpolate(logits, (64, 96), mode="bilinear", align_corners=False)
    torch.testing.assert_close(segmenter(picture, iterations=0), unary, atol=1e-4, rtol=1e-4)
    assert segmenter.crf is not None
    refined = segmenter(picture)
    torch.testing.assert_close(refined, segmenter.crf(unary, picture), atol=2e-3, rtol=1e-3)
    assert not torch.allclose(refined, unary, atol=0.1), "the CRF has done something"


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_post_process_is_the_processors_with_the_crf_before_its_argmax(name: str) -> None:
    model, picture = MODELS[name](), pictures()
    made = processor("Mask2Former" if name == "mask2former" else "Segformer", do_resize=False)
    outputs = model(made(images=arrays(picture), return_tensors="pt")["pixel_values"])
    if name == "mask2former":  # random weights give every pixel one label: spread them
        outputs.class_queries_logits = 2 * torch.randn(2, 5, LABELS + 1)
        outputs.masks_queries_logits = F.interpolate(3 * torch.randn(2, 5, 4, 6), scale_factor=4)
    else:
        outputs.logits = 50 * (outputs.logits - outputs.logits.mean((2, 3), keepdim=True))
    images = [arrays(picture)[0][:50, :70], arrays(picture)[1]]  # of two sizes
    sizes = [image.shape[:2] for image in images]
    own = made.post_process_semantic_segmentation(outputs, target_sizes=sizes)
    crf = CRFRNN(LABELS, 20.0, 40.0, 3.0)
    plain = post_process_semantic_segmentation(made, outputs, images, crf, iterations=0)
    for found, wanted in zip(plain, own, strict=True):
        assert found.dtype == torch.int64 and torch.equal(found, wanted)
        assert len(wanted.unique()) > 1
    refined = post_process_semantic_segmentation(made, outputs, images, crf)
    assert [tuple(f.shape) for f in refined] == sizes
    guide = torch.tensor(images[0].transpose(2, 0, 1))[None]
    if name == "mask2former":
        scored = made.post_process_semantic_segmentation(outputs, sizes, return_segmentation_scores=True)
        scores = scored[0]["segmentation_scores"][None]
        unary = scores.log()
        assert not torch.equal(refined[0], crf(scores, guide)[0].argmax(0)), "the log makes a difference"
    else:
        unary = F.interpolate(outputs.logits[:1], sizes[0], mode="bilinear", align_corners=False)
    assert torch.equal(refined[0], crf(unary, guide)[0].argmax(0))
    with pytest.raises(ValueError, match="images: expected RGB"):
        post_process_semantic_segmentation(made, outputs, [images[0], images[1] / 255], crf)


class Returns(nn.Module):
    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output

    def forward(self, values: Tensor) -> Any:
        return self.output


@torch.no_grad()
def test_scores_of_queries_are_the_processors() -> None:
    """On masks of 384², which the processor does not resize, the scores must equal the processor's."""
    outputs = SimpleNamespace(
        class_queries_logits=3 * torch.randn(1, 4, LABELS + 1),
        masks_queries_logits=4 * torch.randn(1, 4, 384, 384),
    )
    network = TransformersNetwork(mask2former())
    network.model = Returns(outputs)
    made = processor("Mask2Former")
    (wanted,) = made.post_process_semantic_segmentation(outputs, return_segmentation_scores=True)
    found = network(torch.zeros(1, 3, 8, 8))[0].exp()
    torch.testing.assert_close(found, wanted["segmentation_scores"].clamp(min=1e-5), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("Segformer", {}),
        ("Segformer", {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.5, 1.0], "do_rescale": False}),
        ("Mask2Former", {"size_divisor": 16}),
        ("MobileViT", {"do_center_crop": False}),  # BGR, not normalised
    ],
)
def test_preprocessing_is_the_processors(name: str, options: dict[str, Any]) -> None:
    picture, made = pictures(), processor(name, do_resize=False, **options)
    wanted = made(images=arrays(picture), return_tensors="pt")["pixel_values"]
    found = preprocessing_of(made)
    torch.testing.assert_close(found(picture), wanted.float(), atol=1e-4, rtol=1e-4)
    assert found.multiple == options.get("size_divisor", 1)


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_saved_and_loaded_without_the_hub(name: str, tmp_path: Path) -> None:
    segmenter = from_transformers(MODELS[name](), preprocessing=CAFFE, crf=CRFRNN(LABELS, 20.0)).eval()
    segmenter.save_pretrained(tmp_path)
    again, picture = Segmenter.from_pretrained(tmp_path), pictures()
    assert type(again.network.model) is type(segmenter.network.model)
    assert again.preprocessing == CAFFE and again.class_names == segmenter.class_names
    assert (again.class_names[1] == "sea") == (name == "segformer")
    torch.testing.assert_close(again(picture), segmenter(picture), atol=1e-4, rtol=1e-4)


def test_gradients_reach_the_queries() -> None:
    segmenter = from_transformers(mask2former())
    F.cross_entropy(segmenter(pictures()), torch.randint(LABELS, (2, 64, 96))).backward()
    gradient = segmenter.get_parameter("network.model.class_predictor.weight").grad
    assert gradient is not None and float(gradient.abs().sum()) > 0 and bool(torch.isfinite(gradient).all())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"auto_map": {"AutoConfig": "elsewhere--code.Config"}}, "no 'auto_map'"),
        ({"_attn_implementation": "owner/kernel"}, "no '_attn_implementation'"),
        ({"backbone_config": {"model_type": "timm_backbone", "backbone": "owner/net"}}, "no 'backbone'"),
        ({"model_type": "bert"}, "architecture: expected one of"),
    ],
)
def test_a_file_cannot_make_transformers_fetch_anything(
    change: dict[str, Any], named: str, tmp_path: Path
) -> None:
    from_transformers(upernet()).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    config["network_arguments"]["config"].update(change)
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=named):
        Segmenter.from_pretrained(tmp_path)


def test_bad_calls_are_named() -> None:
    model = segformer()
    with pytest.raises(TypeError, match="model: expected one of transformers, got Conv2d"):
        from_transformers(nn.Conv2d(3, 3, 1))
    with pytest.raises(ValueError, match="crf: expected 3 labels"):
        from_transformers(model, crf=CRFRNN(4))
    with pytest.raises(TypeError, match="processor: expected an image processor, got Segformer"):
        from_transformers(model, model)
    assert from_transformers(model).preprocessing == IMAGENET


def test_one_label_is_background_and_foreground() -> None:
    """num_labels=1, a sigmoid for one thing: transformers' own argmax would be 0 everywhere."""
    picture = np.zeros((16, 24, 3), np.uint8)
    picture[:, 10:] = 200
    z = torch.where(torch.arange(24) >= 10, 2.0, -2.0).expand(1, 1, 16, 24).clone()
    z[..., 4, 4], z[..., 9, 20] = 1.0, -1.0
    want = (torch.arange(24) >= 10).long().expand(16, 24)
    made = processor("Segformer", do_resize=False)
    found = post_process_semantic_segmentation(made, SimpleNamespace(logits=z), [picture], CRFRNN(1))
    assert torch.equal(found[0], want)
    made = processor("Mask2Former", do_resize=False)
    queries = SimpleNamespace(class_queries_logits=torch.tensor([[[9.0, -9.0]]]), masks_queries_logits=z)
    found = post_process_semantic_segmentation(made, queries, [picture], CRFRNN(1))
    assert torch.equal(found[0], want)
