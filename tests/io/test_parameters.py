# SPDX-License-Identifier: MIT
"""Parameter files: values round-trip, and invalid files are rejected."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from crfrnn import CRFRNN
from crfrnn.crf.saved import settings_of
from crfrnn.io import load_parameters, save_parameters

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"


def _crf(**options: Any) -> CRFRNN:
    crf = CRFRNN(3, label_weights="matrix", temperature=1.5, eval_iterations=10, quality="classic", **options)
    with torch.no_grad():
        for parameter in crf.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return crf


def test_round_trip_gives_the_same_bits(tmp_path: Path) -> None:
    crf = _crf(theta_alpha=(40.0, 60.0), theta_beta=(3.0, 4.0, 5.0), normalization="symmetric", damping=0.9)
    path = tmp_path / "crf.safetensors"
    save_parameters(path, crf, class_names=("a", "b", "c"), scores={"mean_iu": 0.7}, provenance={"data": "x"})
    found = load_parameters(path)
    assert {k: v.tolist() for k, v in found.crf.state_dict().items()} == {
        k: v.tolist() for k, v in crf.state_dict().items()
    }
    assert settings_of(found.crf) == settings_of(crf) and not found.crf.training
    assert found.crf.eval_iterations == 10 and found.crf.damping == 0.9
    assert found.class_names == ("a", "b", "c")
    assert found.scores == {"mean_iu": 0.7} and found.provenance == {"data": "x"}
    unary, image = torch.randn(1, 3, 6, 7), torch.rand(1, 3, 6, 7) * 255
    assert torch.equal(found.crf(unary, image), crf.eval()(unary, image))


def test_one_logit_and_overlapping_labels_come_back_as_such(tmp_path: Path) -> None:
    name = tmp_path / "crf.safetensors"
    save_parameters(name, CRFRNN(1), class_names=["road"])
    found = load_parameters(name)
    assert found.crf.num_labels == 1 and found.class_names == ("road",)
    assert found.crf.compatibility.shape == (2, 2)
    _tampered(name, settings='{"one_logit": true, "precision": "auto"}')  # as in older files
    assert load_parameters(name).crf.num_labels == 1
    save_parameters(name, CRFRNN(1), class_names=["ground", "road"])
    assert load_parameters(name).class_names == ("ground", "road")
    with pytest.raises(ValueError, match="class_names"):
        save_parameters(name, CRFRNN(1), class_names=["a", "b", "c"])
    for labels in (1, 3):
        save_parameters(name, CRFRNN(labels, activation="sigmoid"))
        crf = load_parameters(name).crf
        assert (crf.num_labels, crf.activation, len(crf.spatial_weights)) == (labels, "sigmoid", labels)


@pytest.mark.parametrize("name", sorted(str(p.relative_to(RESULTS)) for p in RESULTS.rglob("*.safetensors")))
def test_published_files_load(name: str) -> None:
    with safe_open(RESULTS / name, framework="pt") as stream:
        tensors = {key: stream.get_tensor(key) for key in stream.keys()}  # noqa: SIM118
        settings = json.loads(stream.metadata()["settings"])
    # Written since this release; earlier ones inferred it from the tensors.
    assert settings.get("num_labels") == (21 if name.startswith("deeplab/") else None)
    found = load_parameters(RESULTS / name).crf
    held = found.state_dict()
    assert held.keys() == tensors.keys() and all(torch.equal(held[key], tensors[key]) for key in tensors)
    assert found.num_labels == 21
    known = settings_of(found)
    assert {key: known[key] for key in settings if key in known} == {
        k: settings[k] for k in settings if k in known
    }
    assert set(settings) - set(known) <= {"precision"}


def test_the_file_is_plain_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "crf.safetensors"
    save_parameters(path, CRFRNN(2))
    with safe_open(path, framework="pt") as stream:
        assert json.loads(stream.metadata()["settings"])["label_weights"] == "vector"
        assert stream.get_tensor("compatibility").tolist() == (-torch.eye(2)).tolist()


def _tampered(path: Path, tensors: dict[str, torch.Tensor] | None = None, **metadata: str) -> Path:
    with safe_open(path, framework="pt") as stream:
        meta = {**stream.metadata(), **metadata}
        whole = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
    whole.update(tensors or {})
    save_file({k: v for k, v in whole.items() if v.numel()}, path, meta)
    return path


@pytest.mark.parametrize(
    ("tensors", "metadata", "says"),
    [
        ({}, {"format": "other"}, "format"),
        ({}, {"version": "2"}, "version '1'"),
        ({}, {"settings": "[]"}, "JSON objects"),
        ({}, {"settings": "{"}, "JSON in its metadata"),
        ({}, {"settings": "[" * 100_000}, "JSON in its metadata"),
        ({}, {"settings": '{"num_labels": 4}'}, "shape"),
        ({}, {"settings": '{"num_labels": 1000000000}'}, "shape"),
        ({}, {"settings": '{"weights_only": false}'}, "settings"),
        ({}, {"settings": '{"quality": "best"}'}, "quality"),
        ({}, {"settings": '{"iterations": -1}'}, "iterations"),
        ({}, {"class_names": '["one"]'}, "class_names"),
        ({"spatial_weights": torch.zeros(4)}, {}, "shape"),
        ({"spatial_weights": torch.tensor(1.0)}, {}, "shape"),
        ({"compatibility": torch.full((3, 3), torch.nan)}, {}, "finite"),
        ({"compatibility": torch.zeros(3, 3, dtype=torch.int64)}, {}, "floating"),
        ({"log_theta_alpha": torch.zeros(2, 2)}, {}, "log_theta_alpha"),
        ({"log_theta_alpha": torch.tensor(1000.0)}, {}, "theta_alpha"),
        ({"extra": torch.zeros(1)}, {}, "tensors"),
        ({"log_theta_beta": torch.zeros(0)}, {}, "tensors"),
    ],
)
def test_mismatched_parameters_are_refused(
    tmp_path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str], says: str
) -> None:
    path = tmp_path / "crf.safetensors"
    save_parameters(path, CRFRNN(3))
    with pytest.raises(ValueError, match=says):
        load_parameters(_tampered(path, tensors, **metadata))


def test_damaged_and_foreign_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "crf.safetensors"
    save_parameters(path, CRFRNN(3))
    whole = path.read_bytes()
    for length in (1, 7, 8, 100, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="safetensors"):
            load_parameters(path)
    save_file(CRFRNN(3).state_dict(), path)  # a plain tensor file
    with pytest.raises(ValueError, match="format 'crfrnn-parameters', got None"):
        load_parameters(path)
    for content in (b"\xff" * 64, (2**40).to_bytes(8, "little") + b"{}"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="safetensors"):
            load_parameters(path)
    path.write_bytes(pickle.dumps({"spatial_weights": [1.0]}))
    with pytest.raises(ValueError, match="safetensors"):
        load_parameters(path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="empty"):
        load_parameters(path)
    with pytest.raises(ValueError, match="nothing under that name"):
        load_parameters(tmp_path / "absent.safetensors")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "crf.safetensors"
    save_parameters(path, CRFRNN(3))
    before, broken = path.read_bytes(), CRFRNN(3)
    with torch.no_grad():
        broken.compatibility[0, 0] = torch.nan
    with pytest.raises(ValueError, match="compatibility"):
        save_parameters(path, broken)
    with pytest.raises(TypeError):
        save_parameters(path, CRFRNN(3), scores={"x": object()})
    with pytest.raises(ValueError, match="class_names"):
        save_parameters(path, CRFRNN(3), class_names=("a",))
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == [path.name]
    with pytest.raises(ValueError, match="folder"):
        save_parameters(tmp_path / "absent" / "x.safetensors", CRFRNN(3))
