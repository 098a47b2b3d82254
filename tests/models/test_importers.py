# SPDX-License-Identifier: MIT
"""Published weights: the converted system against the formulas of the system that wrote the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import foreign
from crfrnn import CRFRNN, Segmenter
from crfrnn.io import VOC_CLASSES
from crfrnn.models import CAFFE, IMAGENET, FCN8s
from crfrnn.models.importers import READERS, convert
from crfrnn.models.registry import recipe_of

THETAS = (
    5.1234,
    83.21,
    1.7321,
)  # away from the borders between simplices, so that equal numbers can be required


def write_h5(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    import h5py

    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array
    return path


def old_names(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Keras 1: conv1_1/conv1_1_W_1:0, whole models under model_weights."""
    return {
        "model_weights/"
        + name.replace(f"/{name.split('/')[0]}/", "/")
        .replace("kernel:0", "l_W_1:0")
        .replace("bias:0", "l_b_1:0"): a
        for name, a in arrays.items()
    } | {"optimizer_weights/SGD/conv1_1/kernel:0": np.zeros((1, 1, 1, 1), np.float32)}


def write_pth(path: Path, state: object) -> Path:
    torch.save(state, path)
    return path


WRITERS: dict[str, tuple[str, Callable[[Path, dict[str, list[np.ndarray]]], Path]]] = {
    "caffe-v1": ("caffe", foreign.caffemodel),
    "caffe-new": ("caffe", lambda p, m: foreign.caffemodel(p, m, v1=False)),
    "caffe-double": ("caffe", lambda p, m: foreign.caffemodel(p, m, v1=False, double=True)),
    "caffe-unpacked": ("caffe", lambda p, m: foreign.caffemodel(p, m, packed=False)),
    "keras": ("keras", lambda p, m: write_h5(p, foreign.keras_arrays(m))),
    "keras-old": ("keras", lambda p, m: write_h5(p, old_names(foreign.keras_arrays(m)))),
    "pytorch": ("pytorch", lambda p, m: write_pth(p, foreign.port_state(m))),
    "pytorch-nested": (
        "pytorch",
        lambda p, m: write_pth(
            p, {"epoch": 3, "state_dict": {f"module.{k}": v for k, v in foreign.port_state(m).items()}}
        ),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", WRITERS)
def test_the_converted_system_is_the_original(kind: str, tmp_path: Path) -> None:
    origin, write = WRITERS[kind]
    made = foreign.weights()
    converted = convert(write(tmp_path / "weights", made), origin)
    assert converted.fresh == () and len(converted.filled) == 2 * 18 + 2 + 1 + 1 + 3
    converted.segmenter.save_pretrained(tmp_path / "out")
    segmenter = Segmenter.from_pretrained(tmp_path / "out").double()
    crf = segmenter.crf
    assert isinstance(crf, CRFRNN) and (crf.iterations, crf.eval_iterations) == (5, 10)
    thetas = [crf.log_theta_alpha, crf.log_theta_beta, crf.log_theta_gamma]
    assert [float(t.detach().exp()) for t in thetas] == pytest.approx([160, 3, 3], rel=1e-6)
    with torch.no_grad():
        for log, theta in zip(thetas, THETAS, strict=True):
            log.fill_(np.log(theta))
        picture = torch.randint(256, (1, 3, 7, 8)).double()
        unary = segmenter.unary(picture)
        bgr = picture.flip(1) - torch.tensor(foreign.MEAN_BGR).double().reshape(1, 3, 1, 1)
        torch.testing.assert_close(unary, foreign.caffe_unary(made, bgr), rtol=1e-5, atol=1e-4)
        want = foreign.caffe_output(made, picture, THETAS)
        torch.testing.assert_close(segmenter(picture), want, rtol=1e-4, atol=1e-3)
        assert float((want - unary).abs().max()) > 1  # the CRF has an effect


def test_signs_of_the_three_systems(tmp_path: Path) -> None:
    """Caffe and Keras subtract, the port adds: a Potts model there must be one here."""
    made = foreign.weights()
    made["inference1"][2] = -np.eye(foreign.LABELS, dtype=np.float32)
    state = foreign.port_state(made)
    assert torch.equal(state["crfrnn.compatibility_matrix"], torch.eye(foreign.LABELS))
    for kind in ("caffe-v1", "keras", "pytorch"):
        origin, write = WRITERS[kind]
        crf = convert(write(tmp_path / kind, made), origin).segmenter.crf
        assert crf is not None and torch.equal(crf.compatibility, -torch.eye(foreign.LABELS))


def test_keras_layouts_by_their_definition(tmp_path: Path) -> None:
    """out[o] = Σ in[y+i, x+j, c] K[i, j, c, o]; transposed: out[s·y+i, s·x+j, o] += in[c] K[i, j, o, c]."""
    arrays = foreign.keras_arrays(foreign.weights())
    network = convert(write_h5(tmp_path / "w.h5", arrays), "keras").segmenter.network
    assert isinstance(network, FCN8s)
    rng = np.random.default_rng(1)
    kernel, values = arrays["conv2_1/conv2_1/kernel:0"], rng.standard_normal((5, 6, 2)).astype(np.float32)
    want = (
        sum(
            np.einsum("yxc,co->yxo", values[i : i + 3, j : j + 4], kernel[i, j])
            for i in range(3)
            for j in range(3)
        )
        + arrays["conv2_1/conv2_1/bias:0"]
    )
    layer = network.get_submodule("conv2_1")
    with torch.no_grad():
        got = layer(torch.from_numpy(values).permute(2, 0, 1)[None])[0].permute(1, 2, 0)[1:-1, 1:-1]
    np.testing.assert_allclose(got, want, atol=1e-5)
    kernel, values = arrays["score4/score4/kernel:0"], rng.standard_normal((3, 2, 3)).astype(np.float32)
    want = np.zeros((8, 6, 3), np.float32)
    for y, x, i, j in np.ndindex(3, 2, 4, 4):
        want[2 * y + i, 2 * x + j] += kernel[i, j] @ values[y, x]
    with torch.no_grad():
        got = network.get_submodule("upscore_pool4")(torch.from_numpy(values).permute(2, 0, 1)[None])
    np.testing.assert_allclose(got[0].permute(1, 2, 0), want, atol=1e-5)


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_torchvision_vgg16(ending: str, tmp_path: Path) -> None:
    state, path = foreign.vgg_state(), tmp_path / f"vgg16{ending}"
    save_file(state, path) if ending == ".safetensors" else torch.save(state, path)
    converted = convert(path, "torchvision", num_labels=5)
    network = converted.segmenter.network
    assert isinstance(network, FCN8s) and network.num_labels == 5
    assert converted.segmenter.preprocessing == IMAGENET and converted.segmenter.crf is None
    assert torch.equal(network.get_parameter("conv1_1.weight"), state["features.0.weight"])  # RGB stays
    assert torch.equal(network.fc6.weight.flatten(1), state["classifier.0.weight"])
    assert set(converted.fresh) == {
        "score_fr.weight", "score_fr.bias", "score_pool4.weight", "score_pool4.bias", "score_pool3.weight",
        "score_pool3.bias", "upscore2.weight", "upscore2.bias", "upscore_pool4.weight", "upscore8.weight",
    }  # fmt: skip


def test_plain_fcns_of_caffe(tmp_path: Path) -> None:
    """FCN-8s at once with one fixed kernel per label and no bias there, FCN-16s, FCN-32s, VGG-16 itself."""
    made = foreign.weights()
    del made["inference1"]
    for caffe, fcn in foreign.PORT.items():
        made[fcn] = made.pop(caffe)
    made["upscore2"] = [made["upscore2"][0][:, :1]]
    eight = convert(foreign.caffemodel(tmp_path / "8", {**made, "scale_pool4": []}, v1=False), "caffe")
    network = eight.segmenter.network
    assert isinstance(network, FCN8s) and network.at_once and eight.fresh == ("upscore2.bias",)
    assert eight.segmenter.crf is None and eight.segmenter.preprocessing == CAFFE
    dense = network.get_parameter("upscore2.weight")
    assert torch.equal(dense.diagonal().permute(2, 0, 1), torch.from_numpy(made["upscore2"][0][:, 0]))
    assert float(dense.detach().abs().sum()) == pytest.approx(
        float(np.abs(made["upscore2"][0]).sum()), rel=1e-5
    )
    sixteen = {k: v for k, v in made.items() if k not in ("score_pool3", "upscore_pool4", "upscore8")}
    rest = {k: v for k, v in sixteen.items() if k not in ("score_pool4", "upscore2")}
    rest["upscore"] = [np.ones((3, 3, 64, 64), np.float32)]
    for layers, name in ((sixteen, "fcn16s"), (rest, "fcn32s")):
        found = convert(foreign.caffemodel(tmp_path / name, layers), "caffe").segmenter
        assert recipe_of(found.network).name == name
    assert float(found.network.get_parameter("upscore32.weight").detach().min()) == 1
    vgg = {k: v for k, v in made.items() if k.startswith(("conv", "fc"))}
    vgg["fc6"] = [vgg["fc6"][0].reshape(1, 1, foreign.HIDDEN, -1), vgg["fc6"][1]]  # an inner product
    vgg["fc8"] = [np.ones((1, 1, 9, foreign.HIDDEN), np.float32)]
    plain = convert(foreign.caffemodel(tmp_path / "vgg", vgg), "caffe").segmenter
    assert plain.class_names == VOC_CLASSES
    np.testing.assert_array_equal(plain.network.get_parameter("fc6.weight").detach(), made["fc6"][0])


def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    made = foreign.weights()
    path = foreign.caffemodel(tmp_path / "a", {k: v for k, v in made.items() if k != "fc7"})
    with pytest.raises(ValueError, match=r"none for fc7\.weight, fc7\.bias"):
        convert(path, "caffe")
    path = foreign.caffemodel(tmp_path / "a", {k: v for k, v in made.items() if k != "conv3_2"})
    with pytest.raises(ValueError, match="none for conv3_2"):
        convert(path, "caffe")
    with pytest.raises(ValueError, match="labels: expected 3"):
        convert(foreign.caffemodel(tmp_path / "a", made), "caffe", num_labels=21)
    four = {**made, "inference1": [np.eye(4, dtype=np.float32)] * 3}
    with pytest.raises(ValueError, match=r"crf\.spatial_weights: expected shape \(3, 3\)"):
        convert(foreign.caffemodel(tmp_path / "a", four), "caffe")
    huge = {**made, "conv2_1": [np.zeros((10**6, 1, 1, 1), np.float32)]}  # would claim 10^13 numbers
    with pytest.raises(ValueError, match="expected shape"):
        convert(foreign.caffemodel(tmp_path / "a", huge), "caffe")
    flat = {**made, "conv1_1": [np.zeros(7, np.float32)]}
    with pytest.raises(ValueError, match=r"conv1_1\.weight|axes"):
        convert(foreign.caffemodel(tmp_path / "a", flat, v1=False), "caffe")
    with pytest.raises(ValueError, match="origin: expected one of 'caffe'"):
        convert(path, "mxnet")
    assert set(READERS) == {"caffe", "keras", "pytorch", "torchvision", "deeplab"}
    with pytest.raises(ValueError, match="VGG-16"):
        convert(write_pth(tmp_path / "b", {"weight": torch.zeros(3)}), "torchvision")
