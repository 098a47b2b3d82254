# SPDX-License-Identifier: MIT
"""`crfrnn convert` as a user runs it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import command_line
import foreign
from crfrnn import Segmenter
from crfrnn.models.registry import recipe_of


def run(*words: object) -> tuple[int, str, str]:
    return command_line.run("convert", *words)


def test_caffe_to_folder_and_to_one_file(tmp_path: Path) -> None:
    source = foreign.caffemodel(tmp_path / "net.caffemodel", foreign.weights())
    code, said, _ = run(source, "--from", "caffe", "-o", tmp_path / "new" / "folder")
    assert code == 0 and "fcn8s, 3 labels, with its CRF; 43 tensors filled" in said and "fresh" not in said
    code, _, _ = run(source, "--from", "caffe", "-o", tmp_path / "one.safetensors", "--half")
    assert code == 0
    folder = Segmenter.from_pretrained(tmp_path / "new" / "folder")
    single = Segmenter.from_pretrained(tmp_path / "one.safetensors")
    picture = torch.randint(256, (1, 3, 9, 10), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(single.unary(picture), folder.unary(picture), atol=0.05, rtol=0.02)
    assert folder.crf is not None and single.crf is not None
    assert torch.equal(folder.crf.compatibility, single.crf.compatibility)


def test_torchvision_reports_freshly_initialised_layers(tmp_path: Path) -> None:
    torch.save(foreign.vgg_state(), tmp_path / "vgg16.pth")
    out = tmp_path / "start.safetensors"
    code, said, _ = run(tmp_path / "vgg16.pth", "--from", "torchvision", "--labels", 5, "-o", out)
    assert code == 0 and "5 labels, no CRF" in said
    assert "freshly initialised: score_fr.weight" in " ".join(said.split())
    assert recipe_of(Segmenter.from_pretrained(out).network).arguments["num_labels"] == 5


def test_errors_are_one_line_and_leave_nothing(tmp_path: Path) -> None:
    (tmp_path / "bad").write_bytes(b"\x12\xff\xff\xff\xff\x7f")
    out = tmp_path / "out"
    for words, complaint in (
        ([tmp_path / "bad", "--from", "caffe", "-o", out], "a whole Caffe network"),
        ([tmp_path / "none", "--from", "keras", "-o", out], "nothing under that name"),
        (
            [tmp_path / "bad", "--from", "onnx", "-o", out],
            "expected one of 'caffe', 'keras', 'pytorch', 'torchvision', 'deeplab'",
        ),
        ([tmp_path / "bad", "--from", "caffe", "-o", tmp_path / "x.pth"], "a folder or FILE.safetensors"),
    ):
        code, said, complained = run(*words)
        assert code == 2 and said == "" and complaint in complained and complained.count("\n") == 1
        assert not out.exists()


def test_a_source_is_never_overwritten(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "vgg.safetensors"
    save_file(foreign.vgg_state(), path)
    before = path.read_bytes()
    code, _, complained = run(path, "--from", "torchvision", "-o", path)
    assert code == 2 and "would overwrite the input" in complained and path.read_bytes() == before


@pytest.mark.slow
@pytest.mark.real
def test_given_vgg16_in_half_precision(shared: Path) -> None:
    from safetensors.torch import load_file

    source = shared / "weights" / "vgg16_imagenet_features_fp16.safetensors"
    from crfrnn.models.importers import convert

    network = convert(source, "torchvision", 2).segmenter.network
    given = load_file(source)
    assert torch.equal(network.get_parameter("conv5_3.weight"), given["features.28.weight"].float())
    assert torch.equal(network.get_parameter("conv1_1.weight"), given["features.0.weight"].float())
