# SPDX-License-Identifier: MIT
"""Typical scripts for pydensecrf, run with the original and with this package."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from compat_pictures import assert_agree, photograph
from crfrnn.compat import pydensecrf as ours

ANNOTATED_PICTURE = """
import sys
import numpy as np
import pydensecrf.densecrf as dcrf
from PIL import Image
from pydensecrf.utils import unary_from_labels, create_pairwise_bilateral, create_pairwise_gaussian

picture_file, annotation_file, output_file, two_dimensional = sys.argv[1:]
img = np.array(Image.open(picture_file))
painted = np.array(Image.open(annotation_file)).astype(np.uint32)
colours, labels = np.unique(painted @ np.array([1, 256, 65536], np.uint32), return_inverse=True)
unknown = 0 in colours
colours = colours[1:] if unknown else colours
n_labels = len(colours)
U = unary_from_labels(labels, n_labels, gt_prob=0.7, zero_unsure=unknown)
if two_dimensional == "yes":
    d = dcrf.DenseCRF2D(img.shape[1], img.shape[0], n_labels)
    d.setUnaryEnergy(U)
    d.addPairwiseGaussian(sxy=(3, 3), compat=3, kernel=dcrf.DIAG_KERNEL,
                          normalization=dcrf.NORMALIZE_SYMMETRIC)
    d.addPairwiseBilateral(sxy=(80, 80), srgb=(13, 13, 13), rgbim=img, compat=10,
                           kernel=dcrf.DIAG_KERNEL, normalization=dcrf.NORMALIZE_SYMMETRIC)
else:
    d = dcrf.DenseCRF(img.shape[1] * img.shape[0], n_labels)
    d.setUnaryEnergy(U)
    feats = create_pairwise_gaussian(sdims=(3, 3), shape=img.shape[:2])
    d.addPairwiseEnergy(feats, compat=3, kernel=dcrf.DIAG_KERNEL, normalization=dcrf.NORMALIZE_SYMMETRIC)
    feats = create_pairwise_bilateral(sdims=(80, 80), schan=(13, 13, 13), img=img, chdim=2)
    d.addPairwiseEnergy(feats, compat=10, kernel=dcrf.DIAG_KERNEL, normalization=dcrf.NORMALIZE_SYMMETRIC)
Q = d.inference(5)
MAP = np.argmax(Q, axis=0)
paint = np.stack([colours & 255, colours >> 8 & 255, colours >> 16], 1).astype(np.uint8)
Image.fromarray(paint[MAP, :].reshape(img.shape)).save(output_file)
Q2, tmp1, tmp2 = d.startInference()
for i in range(5):
    print("KL-divergence at {}: {}".format(i, d.klDivergence(Q2)))
    d.stepInference(Q2, tmp1, tmp2)
results = [np.array(Q), np.array(Q2)]
"""

SOFTMAX_OF_A_NETWORK = """
import numpy as np
import pydensecrf.densecrf as dcrf
import pydensecrf.utils as utils

def refine(img, probs, t=10, scale_factor=1.0):
    h, w = img.shape[:2]
    n_labels = probs.shape[0]
    d = dcrf.DenseCRF2D(w, h, n_labels)
    unary = utils.unary_from_softmax(probs)
    unary = np.ascontiguousarray(unary)
    img_c = np.ascontiguousarray(img)
    d.setUnaryEnergy(unary)
    d.addPairwiseGaussian(sxy=3 / scale_factor, compat=3)
    d.addPairwiseBilateral(sxy=32 / scale_factor, srgb=13, rgbim=np.copy(img_c), compat=10)
    Q = d.inference(t)
    return np.array(Q).reshape((n_labels, h, w))

probs = np.exp(-DISTANCE)
probs = (probs / probs.sum(0)).astype(np.float32)
maps = [refine(IMAGE, probs), refine(IMAGE, probs.astype(np.float64), t=3, scale_factor=2.0)]
labels = np.argmax(maps[0], axis=0).astype(np.uint8)
assert labels.shape == IMAGE.shape[:2]
results = [m.reshape(len(m), -1) for m in maps]
"""

OTHER_CHANNELS = """
import numpy as np
from pydensecrf import densecrf as dcrf
from pydensecrf.utils import create_pairwise_bilateral, create_pairwise_gaussian, unary_from_softmax

grey = IMAGE.astype(np.float32).mean(2, keepdims=True)
H, W, NLABELS = grey.shape[0], grey.shape[1], 2
bright = grey[..., 0] / 255
U = unary_from_softmax(np.stack([1 - bright, bright]), scale=0.8)
results = []
for compat in (10, np.array([-10, -6], np.float32), np.array([[-10, 1], [1, -6]], dtype=np.float32)):
    d = dcrf.DenseCRF2D(W, H, NLABELS)
    d.setUnaryEnergy(U.reshape((NLABELS, -1)))
    pairwise = create_pairwise_bilateral(sdims=(10, 10), schan=(8,), img=grey, chdim=2)
    d.addPairwiseEnergy(pairwise, compat=compat)
    d.addPairwiseEnergy(create_pairwise_gaussian(sdims=(2, 2), shape=(H, W)), compat=2.5)
    Q, tmp1, tmp2 = d.startInference()
    for _ in range(5):
        d.stepInference(Q, tmp1, tmp2)
    kl = d.klDivergence(Q) / (H * W)
    assert kl == kl
    MAP = np.argmax(Q, axis=0).reshape((H, W))
    results += [np.asarray(Q), np.array(d.inference(5))]
    res = np.array(Q)[1].reshape((H, W))
"""


def run(script, how, variables, monkeypatch):
    """Execute a script; `how`: with the original, with the import line changed, or with install()."""
    if how == "import line":
        script = script.replace("import pydensecrf.", "import crfrnn.compat.pydensecrf.")
        script = script.replace("from pydensecrf", "from crfrnn.compat.pydensecrf")
    with monkeypatch.context() as patch:
        for name in ("pydensecrf", *(f"pydensecrf.{room}" for room in ("densecrf", "eigen", "utils"))):
            patch.delitem(sys.modules, name, raising=False)
        if how == "install":
            ours.install()
        namespace = {"__name__": "__main__", **variables}
        exec(compile(script, how, "exec"), namespace)
        module = namespace["dcrf"].__name__
        for name in [n for n in sys.modules if n.split(".")[0] == "pydensecrf"]:
            patch.delitem(sys.modules, name)
    assert module.startswith("pydensecrf" if how == "original" else "crfrnn.compat.pydensecrf")
    return namespace["results"]


@pytest.fixture
def variables():
    image = photograph("chelsea")
    rng = np.random.default_rng(4)
    centres = np.array([[30, 30, 30], [210, 200, 190], [190, 120, 90]])
    distance = np.linalg.norm(image[None] - centres[:, None, None], axis=-1) / 40
    return {"IMAGE": image, "DISTANCE": distance + 0.5 * rng.standard_normal(distance.shape)}


@pytest.mark.parametrize("how", ["import line", "install"])
@pytest.mark.parametrize("script", [SOFTMAX_OF_A_NETWORK, OTHER_CHANNELS], ids=["softmax", "channels"])
def test_scripts(script, how, variables, monkeypatch):
    mine, theirs = (run(script, h, variables, monkeypatch) for h in (how, "original"))
    assert len(mine) == len(theirs) >= 2
    for one, other in zip(mine, theirs, strict=True):
        assert_agree(one, other)


@pytest.mark.parametrize("two_dimensional", ["yes", "no"])
@pytest.mark.parametrize("how", ["import line", "install"])
def test_script_of_the_command_line(how, two_dimensional, variables, tmp_path, monkeypatch, capsys):
    """An annotated picture with unknown (black) parts in, a painted picture out, numbers printed."""
    image = variables["IMAGE"]
    paint = np.array([[200, 0, 0], [0, 200, 0], [10, 20, 200]], np.uint8)[variables["DISTANCE"].argmin(0)]
    paint[:, 40:60] = 0
    files = [str(tmp_path / name) for name in ("image.png", "annotation.png")]
    for array, file in zip((image, paint), files, strict=True):
        Image.fromarray(array).save(file)
    painted, printed, results = [], [], []
    for way in (how, "original"):
        output = str(tmp_path / f"{way}.png")
        monkeypatch.setattr(sys, "argv", ["inference", *files, output, two_dimensional])
        results.append(run(ANNOTATED_PICTURE, way, {}, monkeypatch))
        printed.append([float(line.split()[-1]) for line in capsys.readouterr().out.splitlines()])
        painted.append(np.array(Image.open(output)))
    for mine, theirs in zip(*results, strict=True):
        assert_agree(mine, theirs)
    assert len(printed[0]) == 5
    np.testing.assert_allclose(*printed, rtol=1e-4)
    assert (painted[0] == painted[1]).all(-1).mean() >= 0.999
    assert (painted[0] != paint).any(-1).mean() > 0.05


def test_the_page_about_it(monkeypatch):
    """The Python code of docs/pydensecrf.md runs unchanged, including its assertion."""
    page = (Path(__file__).parents[2] / "docs" / "pydensecrf.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.S)
    assert len(blocks) == 3
    (labels,) = run("\n".join([*blocks, "results = [labels]"]), "install", {}, monkeypatch)
    assert (labels == (np.arange(60) >= 30)).all()
