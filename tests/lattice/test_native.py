# SPDX-License-Identifier: MIT
"""The native core when memory runs out, a signal arrives or a table is damaged."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from crfrnn import CRFRNN, _native
from crfrnn.lattice import Lattice
from crfrnn.lattice.quality import QUALITIES, Quality
from threads import threads


def arrays(shape: tuple[int, ...], dtype: type = np.float32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def build(dtype: type, dimension: int, quality: Quality, threads: int) -> list[np.ndarray]:
    features = arrays((2, 300, dimension), dtype)
    mask = (np.arange(600).reshape(2, 300) % 7 > 0).astype(np.uint8)
    return list(_native.build(features, mask, *quality[:4], threads))


def filter_and_gradients(
    dtype: type, channels: int, dimension: int, threads: int, quality: str = "default"
) -> Callable[[], list[np.ndarray]]:
    weights, table = build(dtype, dimension, QUALITIES[quality], 1)
    x, g = arrays((600, channels), dtype, 1), arrays((600, channels), dtype, 2)

    def work() -> list[np.ndarray]:
        outs = [np.zeros_like(x), np.zeros_like(x), np.zeros_like(weights), np.zeros((600, dimension), dtype)]
        for reverse in (False, True):
            _native.filter(x, weights, table, reverse, threads, outs[reverse])
        _native.weight_gradient(x, g, weights, table, threads, outs[2])
        _native.feature_gradient(outs[2], table, threads, outs[3])
        return outs

    return work


def inference(count: int, labels: int, masked: bool, **options: Any) -> Callable[[], list[np.ndarray]]:
    """Forward and backward of the layer, every gradient included."""
    crf = CRFRNN(labels, iterations=2, **options)
    image = torch.from_numpy(arrays((2, 3, 9, 11))) * 60 + 128
    unary = torch.from_numpy(arrays((2, labels, 9, 11)))
    mask = torch.arange(198).view(2, 9, 11) % 5 > 0 if masked else None

    def work() -> list[np.ndarray]:
        with threads(count):
            leaf, picture = unary.clone().requires_grad_(), image.clone().requires_grad_()
            out = crf(leaf, picture, mask=mask)
            grads = torch.autograd.grad(out.square().sum(), [leaf, picture, *crf.parameters()])
        return [out.detach().numpy(), *(grad.numpy() for grad in grads)]

    return work


WORK = {
    "build": lambda threads: lambda: build(np.float32, 3, QUALITIES["default"], threads),
    "build with rings": lambda threads: lambda: build(np.float64, 5, QUALITIES["finest"], threads),
    "build with groups": lambda threads: lambda: build(np.float64, 5, QUALITIES["high"], threads),
    "filter": lambda threads: filter_and_gradients(np.float32, 40, 5, threads),
    "filter by groups": lambda threads: filter_and_gradients(np.float32, 40, 7, threads, "high"),
    "filter of one channel": lambda threads: filter_and_gradients(np.float64, 1, 3, threads),
    "inference": lambda threads: inference(threads, 3, masked=False),
    "inference, masked": lambda threads: inference(threads, 70, masked=True, theta_gamma=1.5),
    "inference, two lattices": lambda threads: inference(
        threads, 5, masked=True, spatial_method="lattice", damping=0.5, label_weights="matrix"
    ),
}


@pytest.mark.parametrize("dimension", [1, 5, 6])
def test_same_lattice_for_any_number_of_threads(dimension: int) -> None:
    """Of more points than one band has, and with more threads than a loop has ranges of tasks."""
    features = 3 * arrays((2, 10_000, dimension), np.float32)
    expected = _native.build(features, None, *QUALITIES["classic"][:4], 1)
    for count in (2, 70):
        for a, b in zip(
            _native.build(features, None, *QUALITIES["classic"][:4], count), expected, strict=True
        ):
            np.testing.assert_array_equal(a, b)


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("name", WORK)
def test_every_refused_allocation_is_a_memory_error(name: str, threads: int) -> None:
    """For every refused block: an exception, no leak, and a correct next call."""
    work = WORK[name](threads)
    expected = work()
    in_use, refused = _native.memory_in_use(), 0
    # Many blocks of one kind are allocated in sequence: test each of the first, then some.
    for count in [*range(1, 120), *range(120, 4000, 37)]:
        _native.refuse_memory(count)
        try:
            done = work()
        except MemoryError:
            refused += 1
        else:
            del done
            break
        finally:
            _native.refuse_memory(0)
        assert _native.memory_in_use() == in_use
    else:
        pytest.fail("the work never ends for lack of refusals")
    assert refused >= 2
    for a, b in zip(work(), expected, strict=True):
        np.testing.assert_array_equal(a, b)


def interrupted(work: Callable[[], Any], after: float) -> float:
    """Seconds until `work` ends after Ctrl-C at `after` seconds; it must raise KeyboardInterrupt."""
    timer = threading.Timer(after, lambda: os.kill(os.getpid(), signal.SIGINT))
    start = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        timer.start()
        try:
            work()
        finally:
            timer.join()
        time.sleep(5)
    return time.perf_counter() - start


def endless_inference(count: int) -> Callable[[], Any]:
    crf = CRFRNN(4, iterations=10**7)
    unary, image = torch.randn(1, 4, 90, 90), torch.rand(1, 3, 90, 90) * 255

    def work() -> None:
        with threads(count), torch.no_grad():
            crf(unary, image)

    return work


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="os.kill sends no Ctrl-C there")
@pytest.mark.parametrize("threads", [1, 2])
def test_ctrl_c_ends_an_inference(threads: int) -> None:
    in_use = _native.memory_in_use()
    assert interrupted(endless_inference(threads), 0.3) < 3
    assert _native.memory_in_use() == in_use
    work = inference(threads, 3, masked=False)
    for a, b in zip(work(), work(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="os.kill sends no Ctrl-C there")
@pytest.mark.parametrize("name", ["build", "filter", "gradient", "backward"])
def test_ctrl_c_ends_every_long_call(name: str) -> None:
    """Each takes a second or more; after an early signal most of that time must not be spent."""
    points = 400_000
    if name == "build":
        features = arrays((1, 5 * points, 3))

        def work() -> Any:
            return _native.build(features, None, 1.0, 0, 1, 1, 1)

    elif name == "backward":
        crf = CRFRNN(30, iterations=8)
        unary = torch.randn(1, 30, 250, 250, requires_grad=True)
        loss = crf(unary, torch.rand(1, 3, 250, 250) * 255).square().sum()

        def work() -> Any:
            loss.backward(retain_graph=True)

    else:
        weights, table = _native.build(arrays((1, points, 3)), None, 1.0, 0, 1, 1, 1)
        x = arrays((points, 100))
        out = np.zeros_like(x if name == "filter" else weights)

        def work() -> Any:
            if name == "filter":
                for reverse in (False, True) * 4:
                    _native.filter(x, weights, table, reverse, 1, out)
            else:
                _native.weight_gradient(x, x, weights, table, 1, out)

    start = time.perf_counter()
    whole = work()
    full = time.perf_counter() - start
    del whole
    in_use = _native.memory_in_use()
    assert interrupted(work, 0.1 * full) < 0.7 * full + 0.3
    assert _native.memory_in_use() == in_use


@pytest.mark.skipif(sys.platform == "win32", reason="os.kill sends no Ctrl-C there")
def test_a_handler_may_compute_and_continue_the_call() -> None:
    """An exception of the handler at the second signal ends the call, despite a nested call in between."""
    small = filter_and_gradients(np.float32, 3, 3, 1)
    expected, seen = small(), []

    def handler(*_: object) -> None:
        seen.append(small())
        if len(seen) == 2:
            raise RuntimeError("enough")
        threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT)).start()

    before = signal.signal(signal.SIGINT, handler)
    try:
        threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        with pytest.raises(RuntimeError, match="enough"):
            endless_inference(1)()
    finally:
        signal.signal(signal.SIGINT, before)
    for result in seen:
        for a, b in zip(result, expected, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="os.kill sends no Ctrl-C there")
def test_other_threads_are_not_interrupted() -> None:
    crf = CRFRNN(4, iterations=400)
    unary, image = torch.randn(1, 4, 60, 60), torch.rand(1, 3, 60, 60) * 255
    with torch.no_grad():
        expected, results = crf(unary, image), []

        def work() -> None:
            with torch.no_grad():
                results.extend(crf(unary, image) for _ in range(3))

        thread = threading.Thread(target=work)
        with pytest.raises(KeyboardInterrupt):
            thread.start()
            time.sleep(0.05)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        thread.join()
    assert len(results) == 3 and all(torch.equal(result, expected) for result in results)


@pytest.mark.slow
def test_the_stub_matches_the_module() -> None:
    script = Path(__file__).parents[2] / "scripts/stubs.py"
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


DAMAGE = """
import sys
import numpy as np, torch
from crfrnn import CRFRNN, _native

random = np.random.default_rng(int(sys.argv[1]))
refused = ran = 0
for case in range(int(sys.argv[2])):
    dimension, channels = int(random.integers(1, 11)), int(random.integers(1, 40))
    features = random.normal(size=(1, 120, dimension)).astype(np.float32)
    together = int(random.integers(1, 4))
    weights, table = _native.build(features, None, 1.0, 0, 1, together, 1)
    kind = random.integers(6)
    if kind == 0:
        table = table[: random.integers(len(table))].copy()
    elif kind == 1:  # of other points
        other = random.normal(size=(1, int(random.integers(1, 240)), int(random.integers(1, 11))))
        table = _native.build(other.astype(np.float32), None, 1.0, 0, 1, together, 1)[1]
    elif kind == 2:
        table = random.integers(-(2**31), 2**31, size=len(table)).astype(np.int32)
    elif kind == 3:
        weights = weights[:, : int(random.integers(weights.shape[1]))].copy()
    else:
        for _ in range(random.integers(1, 4)):
            at = random.integers(len(table)) if random.integers(3) else random.integers(16)
            if kind == 4:
                table[at] ^= np.int32(1) << np.int32(random.integers(31))
            else:
                table[at] = random.integers(-3, 200)
    x = random.normal(size=(120, channels)).astype(np.float32)
    planes = np.ascontiguousarray(x.T)[None]
    costs = -np.eye(channels, dtype=np.float32)[None]
    marginals = np.full(2 * (x.size + 32), 1 / channels, np.float32)
    w, f, y, z = np.zeros_like(weights), np.zeros_like(features[0]), np.zeros_like(x), np.zeros_like(planes)
    threads = int(random.integers(1, 3))

    def problem():
        return _native.Problem(
            kernels=[_native.Kernel.lattice(weights, table)], transform=costs, batch=1, grid=[1, 10, 12],
            iterations=2, damping=1.0, threads=threads,
        )

    for call in (
        lambda: _native.filter(x, weights, table, False, threads, y),
        lambda: _native.filter(x[:, :1].copy(), weights, table, True, threads, y[:, :1].copy()),
        lambda: _native.weight_gradient(x, x, weights, table, threads, w),
        lambda: _native.feature_gradient(w, table, threads, f),
        lambda: _native.mean_field(problem(), planes, None, z, marginals),
        lambda: _native.mean_field_backward(
            problem(), planes, marginals, z, None, costs.copy(), [_native.KernelGradient(weights=w)]
        ),
        lambda: _native.update(problem(), x, x, True, y),
    ):
        try:
            call()
            ran += 1
        except ValueError as error:
            names = ("structure", "weights", "values", "kernels", "out", "grads")
            assert str(error).startswith(names), error
            refused += 1
        except TypeError:  # an empty array has no memory of its own
            refused += 1
print(refused, ran)
"""


@pytest.mark.slow
def test_damaged_tables_are_refused_or_harmless() -> None:
    done = subprocess.run(
        [sys.executable, "-c", DAMAGE, "1", "100"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    refused, ran = map(int, done.stdout.split())
    assert refused > 300 and ran > 0


def test_a_point_named_twice_is_refused_where_rows_are_found_by_it() -> None:
    """Even if the sum of all points is correct: two points are replaced by one between them."""
    weights, table = _native.build(arrays((1, 50, 3)), None, 1.0, 0, 1, 1, 1)
    order = table[_native.header_words :][:50]
    order[(order == 3) | (order == 5)] = 4
    planes = arrays((1, 2, 50))
    problem = _native.Problem(
        kernels=[_native.Kernel.lattice(weights, table)],
        transform=-np.eye(2, dtype=np.float32)[None],
        batch=1,
        grid=[1, 1, 50],
        iterations=1,
        damping=1.0,
        threads=1,
    )
    with pytest.raises(ValueError, match="structure: damaged, it names a point twice"):
        _native.mean_field(problem, planes, None, np.zeros_like(planes), None)


@pytest.mark.parametrize("damage", ["truncated", "garbage", "foreign", "twice", "flipped", "mask", "link"])
def test_a_damaged_lattice_is_named(damage: str) -> None:
    features = torch.rand(1, 50, 3)
    lattice = Lattice.build(features, "high" if damage in ("mask", "link") else "classic")
    table = lattice.structure[0].clone()
    weights: Tensor = lattice.weights
    match = "structure"
    if damage == "truncated":
        table = table[:-5].clone()
    elif damage == "garbage":
        table = torch.randint(-(2**31), 2**31, table.shape).int()
    elif damage == "foreign":
        weights, match = Lattice.build(torch.rand(1, 50, 4)).weights, "weights"
    elif damage == "twice":
        table[16] = table[17]  # the point of the first place
    elif damage == "flipped":
        table[16 + 50 + 3] += 2**20  # where a simplex begins
    else:
        parts = _native.TableShape(table[:16].tolist()).parts
        link = len(table) - parts[-1] - parts[-2]
        table[link if damage == "link" else link - 1] += 2**20  # its first one, or the last mask
    broken = Lattice(weights, (table,), "cpu", (1, 50))
    with pytest.raises(ValueError, match=match):
        broken.filter(torch.rand(1, 50, 2))
    with pytest.raises(ValueError, match=match):
        broken.diagonal()
