# SPDX-License-Identifier: MIT
"""The packaged checkpoints: they load, have a model card, and segment real pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from conftest import SHARED
from crfrnn import CRFRNN, Segmenter
from crfrnn.datasets import voc_pictures
from crfrnn.evaluation import confusion_matrix, mean_iu_of_truth
from crfrnn.io import VOC_CLASSES
from crfrnn.io.weights import read_tensors
from crfrnn.models.pretrained import CHECKPOINTS

NAMES = sorted(path.name for path in CHECKPOINTS.iterdir() if path.is_dir())
NAME = "deeplab-voc-person"
START = "deeplabv3_mnv2_voc_fp16.safetensors"
PERSON = VOC_CLASSES.index("person")


@pytest.mark.parametrize("name", NAMES)
def test_each_is_small_complete_and_described(name: str) -> None:
    home = CHECKPOINTS / name
    expected = ["LICENSE.apache-2.0", "README.md", "config.json", "model.safetensors"]
    assert sorted(path.name for path in home.iterdir()) == expected
    assert sum(path.stat().st_size for path in home.iterdir()) <= 6e6
    card = (home / "README.md").read_text(encoding="utf-8")
    heads = ("## Origin", "## Data", "## Recipe", "## Scores", "## Limits")
    assert [head for head in heads if head not in card] == []
    config = json.loads((home / "config.json").read_text(encoding="utf-8"))
    with safe_open(home / "model.safetensors", "np") as stream:
        assert json.loads(stream.metadata()["config"]) == config  # the weights file is sufficient
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


def test_its_crf_is_learned() -> None:
    crf, fresh = Segmenter.from_pretrained(NAME).crf, CRFRNN(21)
    assert crf is not None and (crf.iterations, crf.eval_iterations) == (5, 10)
    for name, value in crf.named_parameters():
        assert not torch.equal(value, fresh.get_parameter(name)), name
    # The initial values are one number for all labels, and the symmetric Potts compatibility.
    assert float(crf.bilateral_weights.detach().std()) > 0.05
    assert float(crf.spatial_weights.detach().std()) > 0.05
    assert float((crf.compatibility - crf.compatibility.T).detach().abs().max()) > 0.05


@pytest.mark.real
def test_every_layer_of_its_network_has_learned(shared: Path) -> None:
    start = read_tensors(shared / "weights" / START)
    own = Segmenter.from_pretrained(NAME).network.state_dict()
    assert own.keys() == start.keys()
    # Some biases changed by less than float16 can represent.
    weights = [name for name in own if name.endswith("weight")]
    assert len(weights) == 55
    assert [name for name in weights if torch.equal(own[name], start[name].float())] == []


def test_a_removed_name_is_refused_with_its_successor() -> None:
    with pytest.raises(ValueError, match=r"lite-voc-person.*use deeplab-voc-person"):
        Segmenter.from_pretrained("lite-voc-person")


@pytest.mark.slow
@pytest.mark.real
def test_it_finds_people_on_unseen_pictures() -> None:
    segmenter = Segmenter.from_pretrained(NAME)
    few = voc_pictures(SHARED / "data" / "voc2012-person", "val")
    few = few.select(few.ids[::26])
    ours = np.zeros((len(VOC_CLASSES),) * 2, np.int64)
    for item in few:
        image, truth = item.tensors()
        with torch.no_grad():
            labels = segmenter(image[None])[0].argmax(0).numpy()
        ours += confusion_matrix(truth.numpy(), labels, len(VOC_CLASSES))
    assert len(few) == 12
    person = ours[PERSON, PERSON] / (ours[PERSON].sum() + ours[:, PERSON].sum() - ours[PERSON, PERSON])
    assert person > 0.7
    assert float(mean_iu_of_truth(ours)) > 0.45  # 53 on these twelve before, 70 on all 311
