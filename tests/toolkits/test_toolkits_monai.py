# SPDX-License-Identifier: MIT
"""`CRFd` in a chain of MONAI transforms, and MONAI's networks in a segmenter; random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import monai.data
import monai.networks.nets
import monai.transforms
import numpy as np
import pytest
import torch

from crfrnn import CRFRNN, Segmenter
from crfrnn.inference import refine_volume
from crfrnn.toolkits import from_monai
from crfrnn.toolkits.monai import CRFd

SHAPE, SPACING = (12, 16, 8), (0.9, 1.1, 3.0)


def volume() -> Any:
    """A ball on a slope, MetaTensor [1, X, Y, Z] with an oblique affine of voxels `SPACING`."""
    x, y, z = torch.meshgrid(*(torch.arange(n) for n in SHAPE), indexing="ij")
    ball = ((x - 6) ** 2 + (y - 8) ** 2 + (3 * (z - 4)) ** 2 < 20).float()
    turn = torch.tensor([[0.8, -0.6, 0, 5], [0.6, 0.8, 0, 7], [0, 0, 1, 9], [0, 0, 0, 1]]).double()
    affine = turn @ torch.diag(torch.tensor([*SPACING, 1.0]).double())
    values = 300 * ball + 5 * x + 10 * torch.randn(SHAPE)
    return monai.data.MetaTensor(values[None], affine=affine)


def predicted() -> tuple[Any, Any]:
    """Image and SegResNet's output, split as after a batch."""
    network = monai.networks.nets.SegResNet(
        spatial_dims=3, in_channels=1, out_channels=3, blocks_down=(1, 1), blocks_up=(1,)
    )
    image = volume()
    with torch.no_grad():
        logits = network(image[None]) * 3
    return image, monai.data.MetaTensor(logits[0].as_tensor(), affine=image.affine)


def test_a_chain_of_transforms_gives_the_refined_labels() -> None:
    image, logits = predicted()
    chain = monai.transforms.Compose(
        [CRFd("pred", "image", theta_alpha=6.0), monai.transforms.AsDiscreted("pred", argmax=True)]
    )
    item = {"image": image, "pred": logits, "name": "a"}
    found = chain(item)
    wanted = refine_volume(image[0].numpy(), logits.numpy(), SPACING, theta_alpha=6.0, kind="logits")
    assert np.array_equal(found["pred"][0].numpy(), wanted.labels)
    assert (wanted.labels != wanted.before).mean() > 0.01, "the CRF has done something"
    pred: Any = found["pred"]
    assert isinstance(pred, monai.data.MetaTensor) and found["name"] == "a"
    assert torch.equal(pred.affine, image.affine)
    assert item["pred"] is logits, "the caller's dictionary is left alone"


def test_spacing_is_millimetres_in_the_order_of_the_array() -> None:
    """Against the layer itself, exact kernels: reach in voxels is θ / spacing, x is the last axis."""
    image, logits = predicted()
    lengths = (5.0, 20.0, 2.0, 1.0, 4.0)
    names = ("theta_alpha", "theta_beta", "theta_gamma", "spatial_weight", "bilateral_weight")
    settings = dict(zip(names, lengths, strict=True))
    exact = {"spatial_method": "exact", "bilateral_method": "exact"}
    found = CRFd("pred", "image", rescale=False, **settings, **exact)({"image": image, "pred": logits})
    alpha, gamma = ([length / s for s in SPACING][::-1] for length in (5.0, 2.0))
    crf = CRFRNN(3, alpha, 20.0, gamma, 1.0, 4.0, **exact)
    with torch.no_grad():
        wanted = crf(logits.as_tensor()[None], image.as_tensor()[None])[0].softmax(0)
    torch.testing.assert_close(found["pred"].as_tensor(), wanted, atol=1e-4, rtol=1e-3)


def test_pictures_probabilities_and_plain_tensors() -> None:
    """Two axes and no MetaTensor: the numbers of the layer in two dimensions, exact kernels."""
    image, logits = torch.rand(3, 14, 11) * 255, torch.randn(4, 14, 11)
    exact = {"spatial_method": "exact", "bilateral_method": "exact"}
    given = (6.0, 30.0, 2.0, 1.0, 3.0)
    names = ("theta_alpha", "theta_beta", "theta_gamma", "spatial_weight", "bilateral_weight")
    step = CRFd(
        ["a", "b"], "image", kind="probabilities", rescale=False, allow_missing_keys=True,
        **dict(zip(names, given, strict=True)), **exact,
    )  # fmt: skip
    found = step({"image": image, "a": logits.softmax(0)})
    with torch.no_grad():
        wanted = CRFRNN(4, *given, **exact)(logits[None], image[None])[0].softmax(0)
    assert type(found["a"]) is torch.Tensor and found["a"].shape == (4, 14, 11)
    torch.testing.assert_close(found["a"], wanted, atol=1e-4, rtol=1e-3)


def test_one_channel_is_the_probability_of_the_foreground() -> None:
    """As returned by ``Activationsd(sigmoid=True)``, for a sigmoid's logits and for its probabilities."""
    image, z = torch.rand(3, 14, 11) * 255, torch.randn(1, 14, 11)
    item = {"image": image, "z": z, "p": z.sigmoid(), "both": torch.cat([torch.zeros_like(z), z])}
    found = CRFd(["z", "both"], "image", theta_alpha=6.0)(item)
    assert found["z"].shape == (1, 14, 11)
    torch.testing.assert_close(found["z"], found["both"][1:])
    same = CRFd("p", "image", kind="probabilities", theta_alpha=6.0)(item)["p"]
    torch.testing.assert_close(same, found["z"], atol=1e-4, rtol=1e-3)


def test_outside_the_mask_the_prediction_is_unchanged() -> None:
    image, logits = predicted()
    mask = torch.zeros(1, *SHAPE)
    mask[:, :6] = 1
    found = CRFd("pred", "image", mask_key="mask")({"image": image, "pred": logits, "mask": mask})["pred"]
    before = logits.as_tensor().softmax(0)
    torch.testing.assert_close(found.as_tensor()[:, 6:], before[:, 6:], atol=1e-5, rtol=1e-4)
    assert float((found.as_tensor() - before)[:, :6].abs().max()) > 0.05


def test_the_layer_trains_behind_a_network_of_volumes() -> None:
    network = monai.networks.nets.SegResNet(
        spatial_dims=3, in_channels=1, out_channels=3, blocks_down=(1, 1), blocks_up=(1,)
    )
    image, crf = volume().as_tensor()[None], CRFRNN(3, 4.0, 40.0, 2.0, iterations=2)
    target = (image[:, 0] > 150).long()
    torch.nn.functional.cross_entropy(crf(network(image), image), target).backward()
    for gradient in (network.get_parameter("convInit.conv.weight").grad, crf.bilateral_weights.grad):
        assert gradient is not None and float(gradient.abs().sum()) > 0 and bool(gradient.isfinite().all())


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("UNet", {"channels": [4, 8, 8], "strides": [2, 2], "num_res_units": 1}),
        ("BasicUNet", {"features": [4, 4, 8, 8, 8, 4]}),
        ("SegResNet", {"blocks_down": [1, 1], "blocks_up": [1]}),
    ],
)
def test_networks_for_pictures_are_saved_and_loaded(
    name: str, arguments: dict[str, Any], tmp_path: Path
) -> None:
    segmenter = from_monai(name, 3, **arguments).eval()
    picture = torch.randint(256, (1, 3, 37, 50), dtype=torch.uint8)
    segmenter.save_pretrained(tmp_path)
    again = Segmenter.from_pretrained(tmp_path)
    assert type(again.network) is getattr(monai.networks.nets, name)
    assert segmenter(picture).shape == (1, 3, 37, 50)
    torch.testing.assert_close(again(picture), segmenter(picture), atol=1e-4, rtol=1e-4)


def test_bad_calls_are_named() -> None:
    image, logits = predicted()
    for change, named in (
        ({"pred": logits[:, 1:]}, "pred: expected the grid"),
        ({"pred": logits[None]}, "pred: expected one item with channels first.*decollate_batch"),
        ({"image": image[0, 0]}, "image: expected one item"),
    ):
        with pytest.raises(ValueError, match=f"^{named}"):
            CRFd("pred", "image")({"image": image, "pred": logits, **change})
    with pytest.raises(ValueError, match=r"^spacing: expected 3 numbers"):
        CRFd("pred", "image", spacing=(1, 1))({"image": image, "pred": logits})
    with pytest.raises(ValueError, match="network: expected one of 'BasicUNet'"):
        from_monai("VISTA3D", 3)
