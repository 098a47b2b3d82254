# SPDX-License-Identifier: MIT
"""Segmenters on disk and on the Hub: loading restores what was saved, and other files are rejected."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import crfrnn
from crfrnn import CRFRNN, Segmenter
from crfrnn.models import (
    CAFFE_GUIDE,
    IMAGENET,
    FCN8s,
    LiteFPN,
    build_network,
    network_names,
    pretrained,
    register_network,
)

SMALL = {"widths": (2, 2, 2, 2, 2), "hidden": 3}


def picture() -> Tensor:
    return torch.randint(256, (1, 3, 20, 28), dtype=torch.uint8)


def segmenter_with_everything() -> Segmenter:
    crf = CRFRNN(
        3, theta_alpha=(20.0, 30.0), iterations=2, eval_iterations=4, label_weights="matrix", temperature=1.5,
        quality="high", damping=0.9,
    )  # fmt: skip
    with torch.no_grad():
        for value in crf.parameters():
            value.add_(0.1 * torch.rand_like(value))
    network = FCN8s(3, at_once=True, **SMALL)
    nn.init.normal_(network.score_fr.weight)
    network.preprocessing = IMAGENET
    names = ("a", "b", "c")
    return Segmenter(network, crf, guide=CAFFE_GUIDE, class_names=names, long_side=320).eval()


@pytest.mark.parametrize("single", [False, True])
def test_saved_and_loaded_is_the_same(tmp_path: Path, single: bool) -> None:
    before = segmenter_with_everything()
    target = tmp_path / ("one.safetensors" if single else "folder")
    before.save_pretrained(target)
    after = Segmenter.from_pretrained(target)
    image = picture()
    with torch.no_grad():
        assert torch.equal(before(image), after(image))
    assert after.crf is not None and before.crf is not None
    assert str(after.crf) == str(before.crf) and after.crf.damping == 0.9 and not after.training
    assert (
        after.preprocessing == IMAGENET
        and after.guide == CAFFE_GUIDE
        and after.class_names == ("a", "b", "c")
        and after.long_side == 320
    )
    assert after.network.recipe == before.network.recipe
    if not single:
        config = json.loads((target / "config.json").read_text())
        assert config["network"] == "fcn8s" and config["network_arguments"]["at_once"] is True
        assert sorted(p.name for p in target.iterdir()) == ["config.json", "model.safetensors"]


def test_one_logit_and_overlapping_labels_come_back_as_such(tmp_path: Path) -> None:
    picture = torch.randint(256, (1, 3, 32, 32), dtype=torch.uint8)
    crfs = (CRFRNN(1), CRFRNN(1, activation="sigmoid"), CRFRNN(3, activation="sigmoid"))
    for k, crf in enumerate(crfs):
        names = ["road"] if crf.num_labels == 1 else ["a", "b", "c"]
        segmenter = Segmenter(LiteFPN(crf.num_labels), crf, class_names=names).eval()
        segmenter.save_pretrained(tmp_path / str(k))
        found = Segmenter.from_pretrained(tmp_path / str(k))
        assert found.crf is not None
        assert (found.crf.num_labels, found.crf.activation) == (crf.num_labels, crf.activation)
        assert found.class_names == tuple(names)
        assert torch.equal(found(picture), segmenter(picture))


def test_half_precision_halves_the_network_alone(tmp_path: Path) -> None:
    before = Segmenter(LiteFPN(21), CRFRNN(21)).eval()
    before.save_pretrained(tmp_path, dtype=torch.float16)
    assert (tmp_path / "model.safetensors").stat().st_size < 7e6
    stored = load_file(tmp_path / "model.safetensors")
    assert {v.dtype for n, v in stored.items() if n.startswith("crf.")} == {torch.float32}
    after = Segmenter.from_pretrained(tmp_path)
    assert {value.dtype for value in after.parameters()} == {torch.float32}
    with torch.no_grad():
        torch.testing.assert_close(after.unary(picture()), before.unary(picture()), atol=0.02, rtol=0.02)
    with pytest.raises(ValueError, match="dtype"):
        before.save_pretrained(tmp_path, dtype=torch.int8)


def test_networks_of_your_own(tmp_path: Path) -> None:
    network = nn.Conv2d(3, 2, 1)
    with pytest.raises(ValueError, match="register_network"):
        Segmenter(network).save_pretrained(tmp_path)
    register_network("test-pixelwise", lambda labels: nn.Conv2d(3, labels, 1))
    assert "test-pixelwise" in network_names()
    with pytest.raises(ValueError, match="unused"):
        register_network("fcn8s", lambda: network)
    with pytest.raises(ValueError, match=r"expected one of .*fcn8s"):
        build_network("no-such")
    with pytest.raises(ValueError, match="arguments that 'fcn8s' takes"):
        build_network("fcn8s", sides=4)
    segmenter = Segmenter(build_network("test-pixelwise", labels=2))
    segmenter.save_pretrained(tmp_path)
    for given in (None, nn.Conv2d(3, 2, 1)):
        again = Segmenter.from_pretrained(tmp_path, network=given)
        assert torch.equal(again.network.weight, segmenter.network.weight) and again.crf is None
    with pytest.raises(ValueError, match=r"network\.bias"):
        Segmenter.from_pretrained(tmp_path, network=nn.Conv2d(3, 3, 1))


def _edit(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"network": "os.system"}, "expected one of"),
        ({"network_arguments": {"num_labels": 10**6}}, "expected shape"),
        ({"network_arguments": [1]}, "expected a mapping"),
        ({"crf": {"num_labels": 10**9}}, "crf.compatibility"),
        ({"preprocessing": {"mean": [0, 0, 0], "code": "x"}}, "preprocessing"),
        ({"network_arguments": {"num_labels": 10**30}}, "config.json"),
        ({"network_arguments": {"num_labels": 3, "widths": "abcde"}}, "config.json"),
        ({"network_arguments": {"num_labels": 3, "__class__": "x"}}, "arguments"),
        ({"crf": "x"}, "config.json"),
        ({"crf": {"num_labels": 3, "label_weights": "matrix", "iterations": [1]}}, "iterations"),
        ({"guide": None}, "preprocessing"),
        ({"format": "other"}, "format"),
        ({"version": 2}, "version 1"),
        ({"class_names": ["only one"]}, "class_names"),
        ({"long_side": 0}, "long_side"),
    ],
)
def test_hostile_configurations_are_refused_before_allocation(
    tmp_path: Path, changes: dict[str, Any], complaint: str
) -> None:
    segmenter_with_everything().save_pretrained(tmp_path)
    _edit(tmp_path, **changes)
    with pytest.raises(ValueError, match=complaint) as caught:
        Segmenter.from_pretrained(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_damaged_and_missing_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such checkpoint"):
        Segmenter.from_pretrained(tmp_path / "no" / "such")
    with pytest.raises(ValueError, match="no such checkpoint"):
        Segmenter.from_pretrained("no-such-checkpoint")
    segmenter_with_everything().save_pretrained(tmp_path / "good")
    weights = tmp_path / "good" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="whole safetensors"):
        Segmenter.from_pretrained(tmp_path / "good")
    weights.write_bytes(whole)
    (tmp_path / "good" / "config.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"config\.json"):
        Segmenter.from_pretrained(tmp_path / "good")
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(ValueError, match="safetensors"):
        Segmenter.from_pretrained(tmp_path / "text.pth")
    tensors = load_file(weights)
    tensors["network.conv1_1.bias"][0] = float("nan")
    save_file(tensors, weights)
    with pytest.raises(ValueError, match="NaN"):
        Segmenter.from_pretrained(tmp_path / "good")


def test_an_impossible_bandwidth_is_refused(tmp_path: Path) -> None:
    segmenter_with_everything().save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["crf.log_theta_beta"] = torch.tensor(1e6)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"model|config"):
        Segmenter.from_pretrained(tmp_path)
    with pytest.raises(TypeError, match="together with private"):
        segmenter_with_everything().save_pretrained(tmp_path, private=True)


def test_nan_is_not_saved(tmp_path: Path) -> None:
    segmenter = segmenter_with_everything()
    with torch.no_grad():
        segmenter.network.get_parameter("score_fr.bias")[0] = 1e6
    with pytest.raises(ValueError, match=r"score_fr\.bias.*float16"):
        segmenter.save_pretrained(tmp_path / "x", dtype=torch.float16)
    assert not (tmp_path / "x" / "model.safetensors").exists()


def test_packaged_checkpoints_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "CHECKPOINTS", tmp_path)
    Segmenter(LiteFPN(2), CRFRNN(2)).save_pretrained(tmp_path / "tiny")
    assert Segmenter.from_pretrained("tiny").crf is not None
    with pytest.raises(ValueError, match="one of tiny"):
        Segmenter.from_pretrained("huge")


def test_the_hub_by_its_mixin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Upload and download, with the two network functions replaced by a folder."""
    from huggingface_hub import hub_mixin as mixin

    from crfrnn.models import hub

    class Api:
        def __init__(self, **_: Any) -> None: ...

        def create_repo(self, repo_id: str, **_: Any) -> Any:
            return SimpleNamespace(repo_id=repo_id)

        def upload_folder(self, *, repo_id: str, folder_path: Path, **_: Any) -> str:
            shutil.copytree(folder_path, tmp_path / repo_id)
            return "done"

    def download(repo_id: str, filename: str, **_: Any) -> str:
        return str(tmp_path / repo_id / filename)

    monkeypatch.setattr(mixin, "HfApi", Api)
    for module in (mixin, hub):
        monkeypatch.setattr(module, "hf_hub_download", download)
    before = segmenter_with_everything()
    before.push_to_hub("me/model")
    assert sorted(p.name for p in (tmp_path / "me/model").iterdir()) == [
        "README.md", "config.json", "model.safetensors",
    ]  # fmt: skip
    after = Segmenter.from_pretrained("me/model")
    image = picture()
    with torch.no_grad():
        assert torch.equal(before(image), after(image))


def test_without_the_hub_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    monkeypatch.delitem(__import__("sys").modules, "crfrnn.models.hub", raising=False)
    with pytest.raises(ImportError, match=r"pip install '\.\[hub\]'"):
        Segmenter.from_pretrained("me/model")


def test_metadata_carries_the_configuration_and_names_are_public(tmp_path: Path) -> None:
    Segmenter(LiteFPN(2)).save_pretrained(tmp_path / "a.safetensors")
    with safe_open(tmp_path / "a.safetensors", "np") as stream:
        config = json.loads(stream.metadata()["config"])
        assert np.isfinite(stream.get_tensor("network.score.weight")).all()
    assert config["crf"] is None and config["network"] == "lite"
    assert crfrnn.FCN8s is FCN8s and crfrnn.Segmenter is Segmenter
