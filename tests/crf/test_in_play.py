# SPDX-License-Identifier: MIT
"""Messages only from labels in play: the native core against plain torch, and proven properties of both."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import interpolate

from conformance import LATTICES
from crfrnn import CRFRNN, GaussianKernel, mean_field
from crfrnn.crf import ops
from crfrnn.crf.mean_field import mean_field_labels
from crfrnn.datasets import DeepLabUnaries, shared_folder, voc_pictures
from crfrnn.lattice import backend
from threads import threads

GRID = (13, 17)


def smooth(random: torch.Generator, *shape: int, grid: tuple[int, ...] = GRID) -> Tensor:
    """Blobs, as from a network or a camera: few labels are close to the best one."""
    return interpolate(torch.randn(*shape, 4, 5, generator=random), grid, mode="bilinear")


def random_problem(
    seed: int, labels: int, kind: str = "vector", batch: int = 2, **chosen: Any
) -> dict[str, Any]:
    """Arguments of `mean_field`; kind: of weights and compatibility."""
    random = torch.Generator().manual_seed(seed)
    # Weaker from label to label, so that some are in play, some are not, and some change.
    unary = 4 * smooth(random, batch, labels) - torch.linspace(0, 14, labels).view(-1, 1, 1)
    mask = torch.rand(batch, *GRID, generator=random) > 0.2 if chosen.pop("mask", False) else None
    known = torch.randint(labels, (batch, *GRID), generator=random)
    known = torch.where(torch.rand(batch, *GRID, generator=random) > 0.9, known, -1)
    image = 128 + 60 * smooth(random, batch, 3)
    options: dict[str, Any] = {"mask": mask, "normalization": chosen.pop("normalization", "after")}
    kernels = {
        "s": lambda: GaussianKernel.spatial(GRID, chosen.get("theta", 1.5), **options),
        "b": lambda: GaussianKernel.bilateral(image, 8.0, 30.0, **options),
        "c": lambda: GaussianKernel.bilateral(image, 3.0, 60.0, **options),
    }
    size = 0.02 if options["normalization"] == "none" else 1.0  # sums, not averages
    built = [kernels[name]() for name in chosen.pop("kernels", "sb")]
    chosen.pop("theta", None)
    shape = (labels, labels) if kind == "matrix" else (labels,)
    weights = [size * 3 * torch.rand(*shape, generator=random) / len(shape) for _ in built]
    mixing = 0.2 * torch.randn(labels, labels, generator=random) if kind == "compatibility" else 0
    start = 4 * smooth(random, batch, labels) if chosen.pop("initial", False) else None
    return {
        "unary": unary, "kernels": built, "weights": weights, "compatibility": mixing - torch.eye(labels),
        "iterations": 4, "mask": mask, "clamp": known if chosen.pop("clamp", False) else None,
        "initial": start,
    } | chosen  # fmt: skip


def in_plain_torch(monkeypatch: pytest.MonkeyPatch, **arguments: Any) -> Tensor:
    with monkeypatch.context() as patch:
        patch.setattr(ops, "can", lambda problem: "disabled in this test")
        return mean_field(**arguments)


def sets_in_play(monkeypatch: pytest.MonkeyPatch, in_play: float, **arguments: Any) -> list[list[int]]:
    """The labels in play before each iteration, from the start and the results of fewer iterations."""
    found = []
    for done in range(arguments["iterations"]):
        x = in_plain_torch(monkeypatch, **(arguments | {"iterations": done, "in_play": in_play}))
        found.append((x.softmax(1).amax((0, 2, 3)) >= in_play).nonzero().flatten().tolist())
    return found


CASES = [
    (7, "vector", {}),
    (40, "vector", {}),
    (21, "vector", {"theta": 4.0}),
    (21, "vector", {"mask": True, "clamp": True}),
    (18, "vector", {"initial": True}),
    (21, "vector", {"kernels": "bsc", "mask": True}),
    (9, "vector", {"kernels": "s"}),
    (9, "vector", {"kernels": "b", "normalization": "none"}),
    (21, "vector", {"damping": 0.6, "normalization": "symmetric"}),
    (19, "matrix", {}),
    (19, "compatibility", {"mask": True, "clamp": True, "damping": 0.7, "initial": True}),
    (70, "compatibility", {"kernels": "cbs", "normalization": "before"}),
]


@pytest.mark.parametrize("in_play", [0.003, 0.1])
@pytest.mark.parametrize(("labels", "kind", "chosen"), CASES)
def test_the_native_core_equals_plain_torch(
    monkeypatch: pytest.MonkeyPatch, labels: int, kind: str, chosen: dict[str, Any], in_play: float
) -> None:
    arguments = random_problem(5, labels, kind, **chosen)
    ours = mean_field(**arguments, in_play=in_play)
    torch.testing.assert_close(
        ours, in_plain_torch(monkeypatch, **arguments, in_play=in_play), rtol=1e-4, atol=1e-4
    )
    if in_play == 0.1:  # some label must be out of play, or the test shows nothing
        assert not torch.allclose(ours, mean_field(**arguments), rtol=1e-4, atol=1e-4)


@pytest.mark.skipif("triton" not in LATTICES, reason="a GPU is here (gpu_smoke.py runs there), or no Triton")
@pytest.mark.parametrize(
    ("labels", "kind", "chosen"),
    [CASES[0], CASES[1], CASES[3], CASES[5], CASES[6], CASES[7], CASES[10], (150, "vector", {})],
)
def test_triton_equals_plain_torch(
    monkeypatch: pytest.MonkeyPatch, labels: int, kind: str, chosen: dict[str, Any]
) -> None:
    forward = pytest.importorskip("crfrnn.crf.triton.forward")
    monkeypatch.setitem(backend.BY_DEVICE, "cpu", "triton")
    arguments = random_problem(5, labels, kind, **chosen) | {"iterations": 3}
    expected = in_plain_torch(monkeypatch, **arguments, in_play=0.1)
    counts = []

    class Watched(forward.Senders):
        def __init__(self, plan: Any, count: int) -> None:
            counts.append(count)
            super().__init__(plan, count)

    monkeypatch.setattr(forward, "Senders", Watched)
    torch.testing.assert_close(mean_field(**arguments, in_play=0.1), expected, rtol=1e-4, atol=1e-4)
    assert min(counts) < labels  # only the columns of labels in play were filtered


@pytest.mark.skipif("triton" not in LATTICES, reason="a GPU is here (gpu_smoke.py runs there), or no Triton")
def test_triton_with_all_labels_and_with_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(backend.BY_DEVICE, "cpu", "triton")
    arguments = random_problem(3, 5, mask=True) | {"iterations": 2}
    assert torch.equal(mean_field(**arguments, in_play=1e-12), mean_field(**arguments))
    silent = {"unary": torch.zeros(2, 12, *GRID), "weights": [1.0, 1.0], "compatibility": -torch.eye(12)}
    assert torch.equal(mean_field(**(arguments | silent), in_play=0.5), silent["unary"])


@pytest.mark.parametrize("kind", ["vector", "compatibility"])
def test_any_number_of_threads_gives_the_same_bits(kind: str) -> None:
    arguments = random_problem(2, 21, kind, clamp=True)
    first = mean_field(**arguments, in_play=0.02)
    for count in (2, 3, 8):
        with threads(count):
            assert torch.equal(mean_field(**arguments, in_play=0.02), first)


@pytest.mark.parametrize("in_play", [0.0, 0.003, 0.1])
@pytest.mark.parametrize(
    ("labels", "kind", "chosen"),
    [CASES[0], CASES[1], (21, "vector", {"mask": True}), CASES[5], CASES[6], CASES[9], CASES[11]],
)
def test_labels_are_those_of_the_largest_logits(
    labels: int, kind: str, chosen: dict[str, Any], in_play: float
) -> None:
    arguments = random_problem(5, labels, kind, **chosen)
    del arguments["clamp"], arguments["initial"]
    expected = mean_field(**arguments, in_play=in_play).max(1).indices
    for count in (1, 3):
        with threads(count):
            assert torch.equal(mean_field_labels(**arguments, in_play=in_play).long(), expected)


@pytest.mark.parametrize("in_play", [0.0, 0.3])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_equal_logits_give_the_lower_label(dtype: torch.dtype, in_play: float) -> None:
    arguments = random_problem(5, 30)
    del arguments["clamp"], arguments["initial"]
    unary = torch.randint(4, (2, 30, *GRID), generator=torch.Generator().manual_seed(1))
    arguments |= {"unary": unary.to(dtype), "weights": [0.0, 0.0]}
    best = mean_field_labels(**arguments, in_play=in_play).long().unsqueeze(1)
    top = unary.amax(1, keepdim=True)
    lower = torch.arange(30).view(-1, 1, 1) < best
    assert torch.equal(unary.gather(1, best), top) and not bool(((unary == top) & lower).any())


def test_with_every_label_in_play_it_is_mean_field() -> None:
    for chosen in ({}, {"mask": True, "clamp": True}, {"initial": True}):
        arguments = random_problem(3, 5, **chosen)
        for in_play in (0, 1e-12):
            assert torch.equal(mean_field(**arguments, in_play=in_play), mean_field(**arguments))


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    labels=st.integers(2, 24),
    kind=st.sampled_from(["vector", "matrix", "compatibility"]),
    in_play=st.floats(1e-4, 0.5),
    double=st.booleans(),
)
def test_one_update_moves_logits_by_the_bound_at_most(
    seed: int, labels: int, kind: str, in_play: float, double: bool
) -> None:
    arguments: dict[str, Any] = random_problem(seed, labels, kind, batch=1, initial=True) | {"iterations": 1}
    if double:
        arguments |= {"unary": arguments["unary"].double()}
    start = arguments["initial"].softmax(1).amax((0, 2, 3))
    out = start < in_play
    mixed = [arguments["compatibility"] @ (w if w.ndim == 2 else w.diag()) for w in arguments["weights"]]
    rows = sum(a[:, out].abs().sum(1) for a in mixed)
    moved = (mean_field(**arguments, in_play=in_play) - mean_field(**arguments)).abs().amax((0, 2, 3))
    assert (moved <= rows * in_play + 2e-5 * (1 + rows)).all()


def test_a_batch_takes_the_labels_of_all_its_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = random_problem(4, 6, batch=1)
    few = arguments["unary"].clone()
    few[:, 3:] -= 30  # three labels that the second picture has
    pair = torch.cat([few, few])
    pair[1, 3:] += 45
    guide = torch.rand(2, 3, *GRID) * 255
    guide[1] = guide[0]
    alone = [GaussianKernel.bilateral(guide[:1], 8.0, 30.0)]
    both = [GaussianKernel.bilateral(guide, 8.0, 30.0)]
    rest = {"weights": [2.0], "compatibility": -torch.eye(6), "iterations": 1}
    # A label out of play keeps its unary; in the batch it receives its own message.
    single = mean_field(few, alone, **rest, in_play=0.01)
    assert torch.equal(single[:, 3:], few[:, 3:])
    joint = mean_field(pair, both, **rest, in_play=0.01)
    torch.testing.assert_close(
        joint, in_plain_torch(monkeypatch, unary=pair, kernels=both, **rest, in_play=0.01)
    )
    torch.testing.assert_close(joint, mean_field(pair, both, **rest))


@pytest.mark.parametrize(("kind", "seed", "in_play"), [("vector", 7, 0.4), ("compatibility", 0, 0.03)])
def test_labels_come_into_play_and_leave(
    monkeypatch: pytest.MonkeyPatch, kind: str, seed: int, in_play: float
) -> None:
    arguments: dict[str, Any] = random_problem(seed, 12, kind, batch=1, initial=True) | {"iterations": 6}
    # The start has only labels 0 and 1; the unary has others, some of which messages remove again.
    arguments["initial"] = arguments["unary"].clone()
    arguments["initial"][:, 2:] -= 40
    arguments["weights"] = [2 * weight for weight in arguments["weights"]]
    sets = [set(found) for found in sets_in_play(monkeypatch, in_play, **arguments)]
    assert sets[0] == {0, 1} and sets[1] - sets[0] and sets[1] - sets[-1]
    ours = mean_field(**arguments, in_play=in_play)
    torch.testing.assert_close(
        ours, in_plain_torch(monkeypatch, **arguments, in_play=in_play), rtol=1e-4, atol=1e-4
    )


def test_without_labels_in_play_there_are_no_messages() -> None:
    arguments: dict[str, Any] = random_problem(1, 12) | {"unary": torch.zeros(1, 12, *GRID)}
    arguments["kernels"] = [GaussianKernel.spatial(GRID, 1.5)] * 2
    assert torch.equal(mean_field(**arguments, in_play=0.5), arguments["unary"])


def test_marginals_far_from_the_unary() -> None:
    """Weights of several hundred: exponentials of the change of the columns would overflow."""
    arguments = random_problem(8, 12)
    arguments["weights"] = [400.0 * w for w in arguments["weights"]]
    ours, exact = mean_field(**arguments, in_play=0.01), mean_field(**arguments, in_play=1e-12)
    assert torch.isfinite(ours).all()
    torch.testing.assert_close(ours, exact, rtol=0.02, atol=5.0)


def test_values_that_are_not_finite_are_refused() -> None:
    arguments = random_problem(6, 5, mask=True)
    broken = arguments["unary"].clone()
    broken[~arguments["mask"].unsqueeze(1).expand_as(broken)] = float("nan")  # padding may have any value
    valid = arguments["mask"][:, 0, 0].nonzero()
    clean = mean_field(**arguments, in_play=0.05)
    ours = mean_field(**(arguments | {"unary": broken}), in_play=0.05)
    seen = arguments["mask"].unsqueeze(1).expand_as(ours)
    assert torch.equal(ours[seen], clean[seen]) and len(valid)
    place = arguments["mask"][0].nonzero()[0]
    broken[0, 1, place[0], place[1]] = float("inf")
    with pytest.raises(ValueError, match="unary: expected finite"):
        mean_field(**(arguments | {"unary": broken}), in_play=0.05)


def test_the_derivative_is_that_of_the_operator_that_runs() -> None:
    arguments: dict[str, Any] = random_problem(9, 6, batch=1, initial=True) | {"iterations": 3}
    unary = arguments["unary"][:, :, :4, :5].double().requires_grad_()
    guide = torch.rand(1, 3, 4, 5, dtype=torch.float64) * 255
    kernels = [GaussianKernel.bilateral(guide, 3.0, 60.0, method="exact")]
    weights = torch.rand(6, dtype=torch.float64).requires_grad_()

    def run(unary: Tensor, weights: Tensor) -> Tensor:
        eye = torch.eye(6, dtype=torch.float64)
        return mean_field(unary, kernels, [weights], -eye, 3, in_play=0.2).softmax(1)

    assert not torch.allclose(
        run(unary, weights), mean_field(unary, kernels, [weights], -torch.eye(6), 3).softmax(1)
    )
    assert torch.autograd.gradcheck(run, (unary, weights))


def test_gradients_flow_where_the_native_core_would_run() -> None:
    arguments = random_problem(9, 6)
    arguments["unary"].requires_grad_()
    out = mean_field(**arguments, in_play=0.05)
    out.square().sum().backward()
    assert arguments["unary"].grad.abs().sum() > 0
    with torch.no_grad():
        torch.testing.assert_close(mean_field(**arguments, in_play=0.05), out, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("value", "error"), [(1.0, ValueError), (-0.1, ValueError), ("0.1", TypeError)])
def test_other_thresholds_are_refused(value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"in_play: expected a number in \[0, 1\) or None"):
        CRFRNN(3, in_play=value)


def test_overlapping_labels_refuse_a_threshold() -> None:
    with pytest.raises(ValueError, match="in_play: expected 0 or None with activation='sigmoid'"):
        CRFRNN(3, activation="sigmoid", in_play=0.01)


@pytest.mark.real
def test_marginals_of_real_pictures_stay_within_a_thousandth() -> None:
    """T = 10, the default parameters and the default threshold of evaluation."""
    shared = shared_folder()
    assert shared is not None
    folder = shared / "data" / "voc2012-person"
    pictures, unaries = voc_pictures(folder, "val"), DeepLabUnaries.load(folder / "unaries" / "val.npz")
    crf = CRFRNN(21, preset="default").eval()
    exact = CRFRNN(21, preset="default", in_play=0).eval()
    equal = pixels = 0
    for item in pictures.select(pictures.ids[::52]):
        image, _ = item.tensors()
        unary = unaries.logits(item.id, image.shape[1:])[None]
        with torch.no_grad():
            ours, all_labels = (layer(unary, image[None], iterations=10) for layer in (crf, exact))
        assert not torch.equal(ours, all_labels)
        assert (ours.softmax(1) - all_labels.softmax(1)).abs().max() < 1e-3
        equal += int((ours.argmax(1) == all_labels.argmax(1)).sum())
        pixels += ours[0, 0].numel()
    assert equal >= 0.9999 * pixels
