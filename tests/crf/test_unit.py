# SPDX-License-Identifier: MIT
"""Guides and unaries in other units than the CRF's cause one warning, and no others do."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data, transform

from crfrnn import CRFRNN, Segmenter
from crfrnn.crf import InputWarning
from crfrnn.inference import refine_tiles, refine_volume
from crfrnn.inference.pseudo import Job, refine_labels, write_pseudo_labels
from crfrnn.io import InMemory
from crfrnn.io.scores import scores_to_logits

PHOTO = torch.from_numpy(transform.resize(data.astronaut(), (24, 32))).permute(2, 0, 1)[None].float()  # 0..1
MEAN, STD = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
NORMALISED = (PHOTO - MEAN) / STD
LOGITS = torch.randn(1, 2, 24, 32, generator=torch.Generator().manual_seed(0))


def said(call) -> list[str]:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        call()
    return [str(w.message) for w in seen if issubclass(w.category, InputWarning)]


@pytest.mark.parametrize("preset", [None, "crfasrnn"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["0..1", "normalised", "grey z-scores"])
def test_a_guide_in_another_unit_causes_a_warning(name, dtype, preset):
    grey = PHOTO.mean(1, keepdim=True)
    guide, range_, remedy = {
        "0..1": (PHOTO, "0..1", "255 * image"),
        "normalised": (NORMALISED, "-3..3", "as it was before"),
        "grey z-scores": ((grey - grey.mean()) / grey.std(), "-2..2", "as it was before"),
    }[name]
    (text,) = said(lambda: CRFRNN(2, preset=preset)(LOGITS, guide.to(dtype)))
    assert text.startswith("image: expected values in 0..255") and f"got {range_}," in text and remedy in text
    mask = torch.ones(1, 24, 32, dtype=torch.bool)
    mask[:, :, 20:] = False
    padded = guide.to(dtype).masked_fill(~mask.unsqueeze(1), torch.nan)
    assert len(said(lambda: CRFRNN(2, preset=preset)(LOGITS, padded, mask=mask))) == 1


def test_the_remedies_avoid_the_warning_and_restore_the_edges():
    crf = CRFRNN(2).eval()
    text = said(lambda: crf(LOGITS, PHOTO))[0]
    assert not said(lambda: crf(LOGITS, 255 * PHOTO))
    own = float(text.rsplit(" ", 1)[1])
    assert own == pytest.approx(5.6 / 255, rel=0.1)
    assert not said(lambda: CRFRNN(2, theta_beta=own)(LOGITS, PHOTO))
    near = (crf(LOGITS, 255 * PHOTO) - CRFRNN(2, theta_beta=5.6 / 255).eval()(LOGITS, PHOTO)).abs().max()
    with pytest.warns(InputWarning):
        far = (crf(LOGITS, 255 * PHOTO) - crf(LOGITS, PHOTO)).abs().max()
    assert near < 1e-2 < 0.1 < far


@pytest.mark.parametrize(
    "guide",
    [
        255 * PHOTO,
        (PHOTO * 255).to(torch.uint8),
        (PHOTO * 3).to(torch.uint8),  # a dark picture
        (PHOTO * 9).round(),  # the same as float
        torch.zeros_like(PHOTO),
        torch.full_like(PHOTO, 0.5),
        180 + 4 * PHOTO,  # a crop of the sky
        255 * PHOTO - torch.tensor([124.0, 117, 104]).view(1, 3, 1, 1),  # Caffe's guide
        100 * NORMALISED,
    ],
)
def test_other_guides_cause_no_warning(guide):
    assert not said(lambda: CRFRNN(2)(LOGITS, guide))


def test_bandwidths_in_the_guides_unit_and_few_pixels_cause_no_warning():
    assert not said(lambda: CRFRNN(2, theta_beta=0.05)(LOGITS, PHOTO))
    assert not said(lambda: CRFRNN(2, theta_beta=0.3)(LOGITS, NORMALISED))
    assert not said(lambda: CRFRNN(2, theta_beta=[0.05, 0.05, 90.0])(LOGITS, PHOTO))
    assert not said(lambda: CRFRNN(2)(LOGITS[..., :3, :4], PHOTO[..., :3, :4]))


@pytest.mark.slow
def test_it_warns_once_and_not_under_the_compiler_or_torch_func():
    crf = CRFRNN(2, bilateral_method="exact")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("default")
        for scale in (1.0, 0.97, 0.93):  # batches whose ranges differ
            crf(LOGITS, scale * PHOTO)
    assert len(seen) == 1 and seen[0].filename == __file__
    assert not said(lambda: torch.func.grad(lambda u: crf(u, PHOTO).sum())(LOGITS))
    assert not said(lambda: torch.compile(crf, backend="eager")(LOGITS, PHOTO))


def test_a_dark_tile_causes_no_warning_but_a_picture_in_another_unit_does():
    photo = np.tile(PHOTO[0].numpy(), (1, 4, 8))
    image = 255 * photo
    image[:, :, :128] *= 0.005  # the first tiles hold 0..1
    unary = np.tile(LOGITS[0].numpy(), (1, 4, 8))
    crf = CRFRNN(2, theta_alpha=1.0).eval()

    def work(guide):
        refine_tiles(InMemory(guide), InMemory(unary), crf, lambda *_: None, tile=96, overlap=4)

    assert not said(lambda: work(image))
    assert len(said(lambda: work(photo))) == 1


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_warnings_of_processes_are_forwarded(tmp_path, processes):
    jobs = []
    for k in range(2):
        Image.fromarray((255 * PHOTO[0].permute(1, 2, 0)).byte().numpy()).save(tmp_path / f"{k}.png")
        np.save(tmp_path / f"{k}.npy", LOGITS[0].softmax(0).numpy())
        jobs.append(Job(str(k), tmp_path / f"{k}.png", tmp_path / f"{k}.npy"))
    options = {"kind": "logits", "axes": "lhw", "processes": processes}
    texts = said(lambda: write_pseudo_labels(jobs, tmp_path / "out", **options))
    assert len(set(texts)) == 1 and "kind='probabilities'" in texts[0]
    assert (tmp_path / "out" / "1.png").is_file()


def test_probabilities_in_place_of_logits_cause_a_warning():
    p, sigmoid = LOGITS.softmax(1), LOGITS.sigmoid()
    guide = (PHOTO * 255).to(torch.uint8)
    network = torch.nn.Identity()
    network.forward = lambda x: p  # type: ignore[method-assign]
    photo = guide[0].permute(1, 2, 0).numpy()
    volume = 255 * PHOTO[0, :1].permute(0, 1, 2).numpy()
    for call in (
        lambda: CRFRNN(2)(p, guide),
        lambda: Segmenter(network, CRFRNN(2))(guide),
        lambda: scores_to_logits(p[0].clone(), "logits"),
        lambda: refine_labels([photo], [p[0]]),
        lambda: refine_volume(volume, p[0, :, None].numpy(), kind="logits"),
        lambda: CRFRNN(1)(sigmoid[:, :1], guide),
        lambda: CRFRNN(2, activation="sigmoid")(sigmoid, guide),
    ):
        texts = said(call)
        assert len(set(texts)) == 1 and "kind='probabilities'" in texts[0] and "unary.clamp" in texts[0]
    # The remedies: they mean the same as the network's own logits.
    ours = CRFRNN(2)(p.clamp_min(1e-5).log(), guide).softmax(1)
    torch.testing.assert_close(ours, CRFRNN(2)(LOGITS, guide).softmax(1), atol=1e-3, rtol=1e-3)
    z = sigmoid[:, :1].clamp(1e-5, 1 - 1e-5).logit()
    assert not said(lambda: CRFRNN(1)(z, guide))
    mask = torch.ones(1, 24, 32, dtype=torch.bool)
    mask[:, :5] = False
    assert len(said(lambda: CRFRNN(2)(p.masked_fill(~mask.unsqueeze(1), 0), guide, mask=mask))) == 1
    for fine in (LOGITS, torch.full_like(LOGITS, 0.5), torch.zeros_like(LOGITS), 0.7 * p, p[..., :2, :2]):
        part = guide[..., : fine.shape[2], : fine.shape[3]]
        assert not said(lambda fine=fine, part=part: CRFRNN(2)(fine, part))
    assert not said(lambda: CRFRNN(2)(sigmoid, guide))
    assert not said(lambda: CRFRNN(1)(0.2 + 0.3 * sigmoid[:, :1], guide))  # as from an untrained network
