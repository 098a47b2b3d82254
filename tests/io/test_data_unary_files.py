# SPDX-License-Identifier: MIT
from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from crfrnn.io import read_unary, unary_from_labels
from crfrnn.io.axes import PICTURE

L, H, W = 3, 4, 5
LOGITS = np.random.default_rng(0).normal(size=(L, H, W)).astype(np.float32)
PROBABILITIES = np.exp(LOGITS) / np.exp(LOGITS).sum(0)


def save(path, array):
    if path.suffix == ".npy":
        np.save(path, array)
    elif path.suffix == ".npz":
        np.savez_compressed(path, array)
    else:
        torch.save(torch.as_tensor(np.ascontiguousarray(array)), path)
    return path


@pytest.mark.parametrize("ending", ["npy", "npz", "pt", "pth"])
@pytest.mark.parametrize("axes", PICTURE)
@pytest.mark.parametrize("batch", [False, True])
def test_every_order_of_axes(tmp_path, ending, axes, batch):
    array = LOGITS.transpose(["lhw".index(a) for a in axes])
    path = save(tmp_path / f"a.{ending}", array[None] if batch else array)
    unary = read_unary(path, kind="logits", axes=axes, size=(H, W), num_labels=L)
    assert unary.logits.dtype == torch.float32
    assert unary.logits.is_contiguous()
    assert unary.clamp is None
    assert (unary.logits.numpy() == LOGITS).all()


@pytest.mark.parametrize(
    "array",
    [np.asfortranarray(LOGITS), LOGITS.astype(">f4"), LOGITS.astype(np.float64), LOGITS[::-1, :, ::-1]],
    ids=["fortran", "big-endian", "float64", "flipped"],
)
def test_memory_orders(tmp_path, array):
    unary = read_unary(save(tmp_path / "a.npy", array), kind="logits", axes="lhw")
    assert np.allclose(unary.logits.numpy(), array)


@pytest.mark.parametrize("axes", ["lhw", "hwl"])
def test_half_precision_is_kept_on_request(tmp_path, axes):
    half = LOGITS.astype(np.float16)
    path = save(tmp_path / "a.npy", half.transpose(["lhw".index(a) for a in axes]))
    kept = read_unary(path, kind="logits", axes=axes, keep_half=True).logits
    assert kept.dtype == torch.float16 and kept.is_contiguous()
    assert torch.equal(kept, torch.as_tensor(half))
    assert torch.equal(read_unary(path, kind="logits", axes=axes).logits, kept.float())
    for other, kind in ((LOGITS, "logits"), (PROBABILITIES.astype(np.float16), "probabilities")):
        unary = read_unary(save(tmp_path / "b.npy", other), kind=kind, axes="lhw", keep_half=True)
        assert unary.logits.dtype == torch.float32
    half[1, 2, 3] = np.inf
    with pytest.raises(ValueError, match="1 NaN or infinite in float16"):
        read_unary(save(tmp_path / "c.npy", half), kind="logits", axes="lhw", keep_half=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_torch_types_and_keys(tmp_path, dtype):
    tensor = torch.as_tensor(LOGITS).to(dtype).requires_grad_()
    torch.save({"a": tensor, "b": torch.zeros(1)}, tmp_path / "a.pt")
    unary = read_unary(tmp_path / "a.pt", kind="logits", axes="lhw", key="a")
    assert torch.equal(unary.logits, tensor.detach().float())
    with pytest.raises(ValueError, match=r"entries a, b.*key="):
        read_unary(tmp_path / "a.pt", kind="logits", axes="lhw")


def test_named_entries_of_an_npz(tmp_path):
    np.savez(tmp_path / "a.npz", first=LOGITS, second=LOGITS + 1)
    unary = read_unary(tmp_path / "a.npz", kind="logits", axes="lhw", key="second")
    assert (unary.logits.numpy() == LOGITS + 1).all()
    with pytest.raises(ValueError, match=r"entry 'third'.*first, second"):
        read_unary(tmp_path / "a.npz", kind="logits", axes="lhw", key="third")


def test_probabilities_become_their_logarithm(tmp_path):
    probabilities = PROBABILITIES.copy()
    probabilities[:, 0, 0] = [0, 0, 1]
    unary = read_unary(save(tmp_path / "a.npy", probabilities), kind="probabilities", axes="lhw")
    assert np.allclose(unary.logits.numpy(), np.log(probabilities.clip(1e-5)), atol=1e-6)


def test_probabilities_as_pydensecrf_reads_them(tmp_path):
    from pydensecrf import utils

    unary = read_unary(save(tmp_path / "a.npy", PROBABILITIES), kind="probabilities", axes="lhw")
    theirs = -utils.unary_from_softmax(PROBABILITIES, clip=1e-5).reshape(L, H, W)
    assert np.allclose(unary.logits.numpy(), theirs, atol=1e-6)


@pytest.mark.parametrize("gt_prob", [0.5, 0.7, 0.99])
def test_labels_as_pydensecrf_reads_them(gt_prob):
    from pydensecrf import utils

    labels = np.random.default_rng(1).integers(0, 4, (H, W))
    ours = unary_from_labels(torch.as_tensor(labels), 4, gt_prob=gt_prob)
    theirs = -utils.unary_from_labels(labels, 4, gt_prob, zero_unsure=False).reshape(4, H, W)
    assert np.allclose(ours, theirs, atol=1e-6)
    unsure = -utils.unary_from_labels(labels, 3, gt_prob, zero_unsure=True).reshape(3, H, W)
    ours = unary_from_labels(torch.as_tensor(labels - 1), 3, gt_prob=gt_prob, unknown=-1)
    assert np.allclose(ours, unsure, atol=1e-6)


def test_labels_odd_but_valid():
    assert unary_from_labels(torch.zeros(2, 2, dtype=torch.uint8), 1).shape == (1, 2, 2)
    assert unary_from_labels(torch.zeros(0, 2, dtype=torch.int64), 3).shape == (3, 0, 2)
    volume = unary_from_labels(torch.full((2, 3, 4), 255, dtype=torch.uint8), 5)
    assert torch.allclose(volume.exp(), torch.tensor(0.2))
    for gt_prob in (0, 1, -1, float("nan")):
        with pytest.raises(ValueError, match="gt_prob"):
            unary_from_labels(torch.zeros(1, 1, dtype=torch.int64), 2, gt_prob=gt_prob)
    with pytest.raises(ValueError, match=r"labels: expected 0\.\.1 or 255, got 2"):
        unary_from_labels(torch.tensor([[2]]), 2)


@pytest.mark.parametrize(
    ("array", "options", "said"),
    [
        (LOGITS, {"kind": "guess", "axes": "lhw"}, "kind: expected one of 'logits'"),
        (LOGITS, {"kind": "logits"}, "axes: expected the order.*got None"),
        (LOGITS, {"kind": "logits", "axes": "chw"}, "axes: .*got 'chw'"),
        (LOGITS, {"kind": "labels"}, "num_labels: expected"),
        (LOGITS, {"kind": "labels", "num_labels": 3}, r"axes \[H, W\].*for scores pass kind='logits'"),
        (LOGITS, {"kind": "probabilities", "axes": "lhw"}, "numbers in 0..1.*kind='logits'"),
        (PROBABILITIES * 0.9, {"kind": "probabilities", "axes": "lhw"}, "sum 1 over the labels.*background"),
        (np.eye(3)[[[0, 2]]] * 2, {"kind": "probabilities", "axes": "hwl"}, "got 0..2.*kind='labels'"),
        (PROBABILITIES, {"kind": "probabilities", "axes": "hwl"}, "sum 1 over the labels"),
        (LOGITS.astype(int), {"kind": "logits", "axes": "lhw"}, "floating-point logits, got dtype int64"),
        (LOGITS[0], {"kind": "logits", "axes": "lhw"}, r"\[L, H, W\].*got shape \(4, 5\)"),
        (np.stack([LOGITS] * 2), {"kind": "logits", "axes": "lhw"}, "one file for each picture"),
        (LOGITS[:, :0], {"kind": "logits", "axes": "lhw"}, "none empty"),
        (LOGITS, {"kind": "logits", "axes": "lhw", "size": (5, 4)}, "5 rows × 4 columns.*'lwh'.*would fit"),
        (LOGITS, {"kind": "logits", "axes": "lhw", "size": (9, 9)}, "9 rows.*resize the unary"),
        (LOGITS, {"kind": "logits", "axes": "hwl", "num_labels": 3}, "3 labels, got 5.*axes='lhw'"),
        (LOGITS + np.nan, {"kind": "logits", "axes": "lhw"}, "60 NaN or infinite"),
        (np.float64(1e300) * LOGITS, {"kind": "logits", "axes": "lhw"}, "NaN or infinite in float32"),
        (LOGITS.astype(complex), {"kind": "logits", "axes": "lhw"}, "real numbers"),
        (LOGITS, {"kind": "logits", "axes": "lhw", "max_bytes": 239}, "at most 239 bytes in memory, got 240"),
        (np.full((2, 2), 3), {"kind": "labels", "num_labels": 3}, "labels 0..2 or -1, got 3|got 3 at row 0"),
        (np.zeros((2, 2), int), {"kind": "labels", "num_labels": 3, "size": (3, 2)}, "3 rows × 2 columns"),
        (np.array([[7, 255]]), {"kind": "labels", "num_labels": 300}, "unknown: expected a value outside"),
    ],
)
@pytest.mark.parametrize("ending", ["npy", "pt"])
def test_mismatched_input_is_named(tmp_path, array, options, said, ending):
    path = save(tmp_path / f"a.{ending}", array)
    with np.errstate(over="ignore"), pytest.raises(ValueError, match=said) as caught:
        read_unary(path, **options)
    assert "; " in str(caught.value)  # suggests a fix


def test_probabilities_read_as_logits_cause_a_warning(tmp_path):
    with pytest.warns(UserWarning, match="kind='probabilities'") as caught:
        read_unary(save(tmp_path / "a.npy", PROBABILITIES), kind="logits", axes="lhw")
    assert caught[0].filename == __file__  # points to the caller's code
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_unary(save(tmp_path / "b.npy", LOGITS), kind="logits", axes="lhw")


def test_one_score_per_pixel_is_a_binary_problem(tmp_path):
    """As for a sigmoid: its probability, and one minus that for the background, which comes first."""
    z = LOGITS[:1]
    p = 1 / (1 + np.exp(-z))
    for kind, values in (("logits", z), ("probabilities", p)):
        forms = {"lhw": values, "hwl": values[0, ..., None], "hw": values[0], "wh": values[0].T}
        for axes, form in forms.items():
            path = save(tmp_path / f"{kind}.npy", form)
            found = read_unary(path, kind=kind, axes=axes, size=z.shape[1:], num_labels=2).logits
            assert np.allclose(found.softmax(0).numpy(), np.concatenate([1 - p, p]), atol=1e-6)
    with pytest.raises(ValueError, match="axes='hw' for one score per pixel"):
        read_unary(save(tmp_path / "a.npy", z[0]), kind="logits", axes="lhw")
    with pytest.raises(ValueError, match="axes='wh' would fit"):
        read_unary(save(tmp_path / "a.npy", z[0].T), kind="logits", axes="hw", size=z.shape[1:])
    with pytest.warns(UserWarning, match=r"all values lie in 0\.\.1; .*kind='probabilities'"):
        read_unary(save(tmp_path / "a.npy", p), kind="logits", axes="lhw")
