# SPDX-License-Identifier: MIT
"""The checkpoints in the package: they load, they say what they are, and they segment real pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from conftest import SHARED
from crfrnn import Segmenter
from crfrnn.datasets import reduced, voc_pictures
from crfrnn.evaluation import confusion_matrix, mean_iu
from crfrnn.io import VOC_CLASSES
from crfrnn.models.pretrained import CHECKPOINTS

NAMES = sorted(path.name for path in CHECKPOINTS.iterdir() if path.is_dir())
NAME = "lite-voc-person"
PERSON = VOC_CLASSES.index("person")


@pytest.mark.parametrize("name", NAMES)
def test_each_is_small_complete_and_described(name: str) -> None:
    home = CHECKPOINTS / name
    assert sorted(path.name for path in home.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert sum(path.stat().st_size for path in home.iterdir()) <= 16e6
    card = (home / "README.md").read_text(encoding="utf-8")
    assert [head for head in ("## Data", "## Recipe", "## Scores", "## Limits") if head not in card] == []
    config = json.loads((home / "config.json").read_text(encoding="utf-8"))
    with safe_open(home / "model.safetensors", "np") as stream:
        assert json.loads(stream.metadata()["config"]) == config  # the weights alone are enough
        kinds = {str(stream.get_tensor(key).dtype) for key in stream.keys() if key.startswith("network.")}  # noqa: SIM118
    assert kinds <= {"float16", "int64"}
    segmenter = Segmenter.from_pretrained(name)
    assert segmenter.crf is not None and not segmenter.training
    assert len(segmenter.class_names) == segmenter.crf.num_labels
    assert f"`{name}`" in card and str(segmenter.long_side) in card


def test_the_weights_alone_load_too(tmp_path: Path) -> None:
    alone = tmp_path / "alone.safetensors"
    alone.write_bytes((CHECKPOINTS / NAME / "model.safetensors").read_bytes())
    one, other = Segmenter.from_pretrained(NAME), Segmenter.from_pretrained(alone)
    picture = torch.randint(256, (1, 3, 48, 40), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.equal(one(picture), other(picture))
    assert one.class_names == VOC_CLASSES


def test_its_crf_is_learned_and_does_something() -> None:
    crf = Segmenter.from_pretrained(NAME).crf
    assert crf is not None and (crf.iterations, crf.eval_iterations) == (1, 10)
    for weights in (
        crf.bilateral_weights,
        crf.spatial_weights,
    ):  # one number for all labels is what it began with
        assert float(weights.detach().std()) > 0.05
    # Weight decay shrinks a CRF to nothing; this one still weighs something.
    assert (
        float(crf.bilateral_weights.detach().abs().mean()) > 0.1
        and float(crf.spatial_weights.detach().abs().mean()) > 0.01
    )


@pytest.mark.slow
@pytest.mark.real
def test_it_finds_people_on_pictures_that_it_never_saw() -> None:
    segmenter = Segmenter.from_pretrained(NAME)
    pictures = voc_pictures(SHARED / "data" / "voc2012-person", "val")
    assert segmenter.long_side is not None
    few = reduced(pictures.select(pictures.ids[::26]), segmenter.long_side)
    ours = np.zeros((len(VOC_CLASSES),) * 2, np.int64)
    nothing = ours.copy()
    for item in few:
        image, truth = item.tensors()
        with torch.no_grad():
            labels = segmenter(image[None])[0].argmax(0).numpy()
        ours += confusion_matrix(truth.numpy(), labels, len(VOC_CLASSES))
        nothing += confusion_matrix(truth.numpy(), np.zeros_like(labels), len(VOC_CLASSES))
    assert len(few) == 12
    person = ours[PERSON, PERSON] / (ours[PERSON].sum() + ours[:, PERSON].sum() - ours[PERSON, PERSON])
    assert person > 0.3
    assert float(mean_iu(ours)) > float(mean_iu(nothing)) + 0.05
