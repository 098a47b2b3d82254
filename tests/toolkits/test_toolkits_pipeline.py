# SPDX-License-Identifier: MIT
"""`CRFPostProcessor` in transformers' pipeline, with random weights: against the steps done by hand."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("transformers", reason="transformers is not installed")
import transformers
from test_toolkits_transformers import LABELS, mask2former, processor, segformer

from crfrnn import CRFRNN
from crfrnn.toolkits import post_process_semantic_segmentation
from crfrnn.toolkits.pipeline import FILE, CRFPostProcessor

SIZES = ((50, 70), (64, 40), (33, 48))


@pytest.fixture(scope="module")
def model() -> Any:
    """SegFormer with labels that vary over the picture."""
    torch.manual_seed(3)
    made = segformer()
    for parameter in made.decode_head.parameters():
        parameter.data *= 30
    return made


@pytest.fixture
def pictures() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in SIZES]


def crf() -> CRFRNN:
    return CRFRNN(LABELS, theta_alpha=20.0, theta_beta=60.0, bilateral_weight=8.0)


def resizing() -> Any:
    return processor("Segformer", size={"height": 64, "width": 64})


def by_hand(model: Any, picture: Image.Image, layer: CRFRNN, iterations: int | None = None) -> np.ndarray:
    made = resizing()
    with torch.no_grad():
        outputs = model(**made(images=[picture], return_tensors="pt"))
    (labels,) = post_process_semantic_segmentation(made, outputs, [picture], layer.eval(), iterations)
    return labels.numpy()


def of_pipeline(found: list[dict[str, Any]]) -> np.ndarray:
    names = {"sky": 0, "sea": 1, "sand": 2}
    labels = np.full(np.asarray(found[0]["mask"]).shape, -1)
    for part in found:
        labels[np.asarray(part["mask"]) == 255] = names[part["label"]]
    return labels


@pytest.mark.parametrize("options", [{}, {"batch_size": 2}, {"batch_size": 2, "num_workers": 1}])
def test_a_pipeline_refines_each_picture_at_its_own_size(
    model: Any, pictures: list[Image.Image], options: dict[str, int]
) -> None:
    post = CRFPostProcessor(resizing(), crf())
    pipe: Any = transformers.pipeline("image-segmentation", model=model, image_processor=post)  # pyright: ignore
    found = [of_pipeline(one) for one in pipe(pictures, **options)]
    wanted = [by_hand(model, picture, crf()) for picture in pictures]
    assert [one.shape for one in found] == list(SIZES)
    assert all(np.array_equal(*pair) for pair in zip(found, wanted, strict=True))
    plain = [by_hand(model, picture, crf(), 0) for picture in pictures]
    assert any((a != b).mean() > 0.01 for a, b in zip(wanted, plain, strict=True)), "the CRF does something"
    if not options:
        assert np.array_equal(of_pipeline(pipe(pictures[1])), wanted[1])
        own: Any = transformers.pipeline("image-segmentation", model=model, image_processor=resizing())  # pyright: ignore
        still = CRFPostProcessor(resizing(), crf(), iterations=0)
        none: Any = transformers.pipeline("image-segmentation", model=model, image_processor=still)  # pyright: ignore
        assert np.array_equal(of_pipeline(none(pictures[0])), of_pipeline(own(pictures[0])))


def test_panoptic_and_instance_segmentation_stay_the_processors(pictures: list[Image.Image]) -> None:
    torch.manual_seed(0)
    model, made = mask2former(), processor("Mask2Former", size={"height": 64, "width": 64})
    own: Any = transformers.pipeline("image-segmentation", model=model, image_processor=made)  # pyright: ignore
    post = CRFPostProcessor(made, crf())
    pipe: Any = transformers.pipeline("image-segmentation", model=model, image_processor=post)  # pyright: ignore
    options = {"threshold": 0.0, "mask_threshold": 0.4}
    for subtask in ("panoptic", "instance", None):
        both = [p(pictures[0], subtask=subtask, **options) for p in (own, pipe)]
        for a, b in zip(*both, strict=True):
            assert a["label"] == b["label"] and a["score"] == b["score"] and a["mask"] == b["mask"]
    found = pipe(pictures[0], subtask="semantic")
    assert np.asarray(found[0]["mask"]).shape == SIZES[0]


def test_it_is_saved_and_loaded_with_the_processor(
    model: Any, pictures: list[Image.Image], tmp_path: Path
) -> None:
    post = CRFPostProcessor(resizing(), crf(), iterations=3)
    post.save_pretrained(tmp_path)
    assert (tmp_path / FILE).is_file() and (tmp_path / "preprocessor_config.json").is_file()
    outputs = model(**post([pictures[0]], return_tensors="pt"))
    wanted = post.post_process_semantic_segmentation(outputs, images=pictures[:1])[0]
    for again in (
        CRFPostProcessor.from_pretrained(tmp_path, processor=resizing()),
        pickle.loads(pickle.dumps(post)),
    ):
        assert again.iterations == 3 and again.size == post.size
        assert torch.equal(again.post_process_semantic_segmentation(outputs, images=pictures[:1])[0], wanted)
    assert np.array_equal(wanted.numpy(), by_hand(model, pictures[0], crf(), 3))
    read = CRFPostProcessor.from_pretrained(tmp_path)
    assert read.size == {"height": 64, "width": 64} or read.size["height"] == 64


def test_missing_packages_are_named(model: Any, pictures: list[Image.Image]) -> None:
    post = CRFPostProcessor(resizing(), crf())
    outputs = model(**post(pictures[0], return_tensors="pt"))
    with pytest.raises(ValueError, match=r"images: expected the pictures, got none; outside a pipeline"):
        post.post_process_semantic_segmentation(outputs, target_sizes=[(50, 70)])
    with pytest.raises(ValueError, match=r"target_sizes: expected \(50, 70\) of the picture, got \(5, 7\)"):
        post.post_process_semantic_segmentation(outputs, [(5, 7)], images=[pictures[0]])
    with pytest.raises(TypeError, match=r"processor: expected an image processor .* got dict"):
        CRFPostProcessor({}, crf())
    with pytest.raises(TypeError, match="crf: expected a CRFRNN, got NoneType"):
        CRFPostProcessor(resizing(), None)  # pyright: ignore[reportArgumentType]
