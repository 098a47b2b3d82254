# SPDX-License-Identifier: MIT
"""Every Triton kernel once, tiny, against the reference: `python tests/gpu/gpu_smoke.py --out smoke.log`.

Each case runs in a process of its own, several at once: a fault of the chip or of the compiler ends one case
and is kept with its whole message. `TRITON_INTERPRET=1 ... --device cpu` is the same without a GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "helpers"))  # as pytest has it

if __name__ == "__main__":  # before torch, and in this process no CUDA: children are forked
    os.environ.setdefault("CUDA_LAUNCH_BLOCKING", "1")  # so that the error names the failing launch
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")

import torch
from torch import Tensor

F32, F64 = torch.float32, torch.float64
Parts = Iterator[tuple[str, Tensor, Tensor, float]]  # what, ours, truth, tolerance of the largest value


def _lattice(device: str, dimension: int, channels: int, dtype: torch.dtype, spread: float = 1.5,
             points: int = 70, masked: bool = False, half: torch.dtype | None = None,
             quality: str = "classic") -> Parts:  # fmt: skip
    """Tables, filter both ways, and every gradient of one lattice; `spread` small: many corners a vertex."""
    from crfrnn.lattice import Lattice

    features = spread * torch.randn(2, points, dimension, dtype=dtype)
    values, mask = torch.randn(2, points, channels, dtype=dtype), torch.rand(2, points) > 0.3
    weight = torch.randn(2, points, channels, dtype=F64)
    results = []
    for backend, place, kind in (("triton", device, dtype), ("reference", "cpu", F64)):
        f = features.to(place, kind).requires_grad_()
        v = values.to(place, kind).requires_grad_()
        built = Lattice.build(f, mask=mask.to(place) if masked else None, quality=quality, backend=backend)
        outs = [built.filter(v), built.filter(v, reverse=True)]
        loss = sum((out * weight.to(out)).sum() for out in outs)
        results.append([torch.tensor(built.num_vertices), *outs, *torch.autograd.grad(loss, [f, v])])
        if half and backend == "triton":
            low = values.to(device, half)
            exact = built.filter(low.to(dtype)).detach()
            results.append([built.filter(low).detach().to(dtype), exact])
    tolerance = 1e-4 if dtype == F32 else 1e-9
    names = ("vertices", "filter", "filter backwards", "gradient of features", "gradient of values")
    for name, ours, truth in zip(names, results[0], results[-1], strict=True):
        yield name, ours, truth, 0 if name == "vertices" else tolerance
    if half:
        yield f"filter of {half}", *results[1], 1e-5


def _numbering(device: str, kind: torch.dtype) -> Parts:
    """Vertices by a sort and by a hash table with atomics: the same tables."""
    from crfrnn.lattice.triton import numbering

    keys = torch.randint(2**30, (90,)).to(kind)[torch.randint(90, (1000,))]
    ordered, order = keys.sort(stable=True)
    distinct, number = torch.unique(ordered, return_inverse=True)
    for how in numbering.NUMBERINGS:
        for name, ours, truth in zip(
            ("vertices", "numbers", "order"),
            numbering.number_keys(keys.to(device), how),
            (distinct, number, order),
            strict=True,
        ):
            yield f"{how}: {name}", ours, truth, 0


def _exact(device: str, dimension: int, channels: int) -> Parts:
    """The exact sum and its gradients."""
    from crfrnn.lattice import exact_filter

    tensors = [0.7 * torch.randn(2, 70, dimension), torch.randn(2, 70, channels)]
    results = []
    for place, kind in ((device, F32), ("cpu", F64)):
        leaves = [t.to(place, kind).requires_grad_() for t in tensors]
        out = exact_filter(*leaves)
        weight = torch.linspace(-1, 1, out.numel(), dtype=F64).view_as(out)
        results.append([out, *torch.autograd.grad((out * weight.to(out)).sum(), leaves)])
    for name, ours, truth in zip(
        ("sum", "gradient of features", "gradient of values"), *results, strict=True
    ):
        yield name, ours, truth, 1e-5


def _mean_field(device: str, **options: Any) -> Parts:
    """All iterations in one operator and every gradient, against the general path in float64."""
    from inferences import inference

    options = {"grid": (5, 6), "iterations": 2, **options}
    ours, truth = inference(F32, True, device=device, **options), inference(F64, False, **options)
    for place, (a, b) in enumerate(zip(ours, truth, strict=True)):
        yield "logits" if not place else f"gradient {place}", a, b, 2e-4


def _layer(device: str, grid: tuple[int, ...], labels: int, batch: int, in_play: float = 0) -> Parts:
    """The layer on the GPU against itself on the CPU, where it uses another engine."""
    from crfrnn import CRFRNN

    crf = CRFRNN(labels, theta_alpha=4.3, theta_beta=31.1, theta_gamma=1.1, iterations=3, in_play=in_play)
    unary, image = torch.randn(batch, labels, *grid), torch.rand(batch, 3, *grid) * 255
    if in_play:
        unary -= torch.linspace(0, 20, labels).view(-1, *[1] * len(grid))  # most labels are out of play
    with torch.no_grad():
        ours = crf.to(device)(unary.to(device), image.to(device))
        truth = crf.to("cpu").double()(unary.double(), image.double())
    yield "logits", ours, truth, 5e-4


# These launch every kernel.
QUICK = ("lattice d = 2, 21 channels, float32", "numbering, int32", "exact d = 1", "mean field, 4 labels",
         "lattice, axes together")  # fmt: skip
CASES: dict[str, Callable[[str], Parts]] = {
    **{
        f"lattice d = {d}, {c} channels, {str(kind).removeprefix('torch.')}": partial(
            _lattice, dimension=d, channels=c, dtype=kind
        )
        for d, c, kind in ((1, 3, F32), (2, 21, F32), (3, 40, F64), (5, 21, F32), (5, 1, F64), (8, 9, F32),
                           (8, 3, F64))
    },
    "lattice, axes together": partial(_lattice, dimension=5, channels=5, dtype=F32, quality="high"),
    "lattice, masked": partial(_lattice, dimension=3, channels=5, dtype=F32, masked=True),
    "lattice, long segments": partial(
        _lattice, dimension=2, channels=9, dtype=F32, spread=0.1, points=1500
    ),
    "lattice, bfloat16 values": partial(
        _lattice, dimension=3, channels=21, dtype=F32, half=torch.bfloat16
    ),
    "lattice, float16 values": partial(_lattice, dimension=3, channels=21, dtype=F32, half=torch.float16),
    "numbering, int32": partial(_numbering, kind=torch.int32),
    "numbering, int64": partial(_numbering, kind=torch.int64),
    **{f"exact d = {d}": partial(_exact, dimension=d, channels=c) for d, c in ((1, 1), (5, 21), (16, 3))},
    **{f"mean field, {n} labels": partial(_mean_field, labels=n) for n in (1, 4, 21, 40, 81, 150, 256)},
    "mean field, matrices": partial(_mean_field, labels=21, matrix=True),
    "mean field, mask, clamp, damped": partial(
        _mean_field, labels=21, mask=True, clamp=True, damping=0.6, initial=True
    ),
    "mean field, mask, 81 labels, damped": partial(_mean_field, labels=81, mask=True, damping=0.6),
    "mean field, symmetric": partial(_mean_field, labels=21, normalization="symmetric"),
    "mean field, two lattices": partial(_mean_field, labels=21, kernels="bbs"),
    "mean field, two separables": partial(_mean_field, labels=21, kernels="ssb"),
    "mean field, volume": partial(_mean_field, labels=4, grid=(3, 4, 5)),
    "layer, batch of 3": partial(_layer, grid=(14, 17), labels=21, batch=3),
    "layer, labels in play": partial(_layer, grid=(14, 17), labels=21, batch=2, in_play=0.01),
    "layer, volume": partial(_layer, grid=(5, 6, 7), labels=4, batch=1),
}  # fmt: skip


@dataclass
class Result:
    """The outcome of a case."""

    name: str
    passed: bool
    seconds: float
    worst: str  # the part with the largest error relative to its tolerance
    kernels: tuple[str, ...]
    message: str = ""  # the complete output of compiler, device and Python for a failed case
    told: str = field(init=False)

    def __post_init__(self) -> None:
        state = "pass" if self.passed else "FAIL"
        self.told = f"{state}  {self.name:44} {self.seconds:6.1f} s  {self.worst}"


def launched() -> set[str]:
    """The names of all kernels that this process launches from now on."""
    from triton.runtime import jit

    seen: set[str] = set()
    before = jit.KernelInterface.__getitem__

    def get(self: Any, grid: Any) -> Any:
        seen.add(self.__name__)
        return before(self, grid)

    jit.KernelInterface.__getitem__ = get
    return seen


def every_kernel() -> set[str]:
    """The kernels of the package that are launched, not called by another."""
    from triton.runtime.jit import KernelInterface

    from crfrnn.crf.triton import kernels as triton_kernels
    from crfrnn.lattice.triton import build, exact, numbering
    from crfrnn.lattice.triton import kernels as passes

    called = {"_normalised", "_mixed", "_gaussian"}
    modules = (triton_kernels, passes, build, exact, numbering)
    return {
        name for m in modules for name, value in vars(m).items() if isinstance(value, KernelInterface)
    } - called


def run(name: str, device: str) -> tuple[bool, str, tuple[str, ...]]:
    """Run one case here: passed, the worst part, the kernels launched."""
    from crfrnn.lattice import backend

    if device == "cpu":  # what CUDA tensors get by default
        torch.set_num_threads(1)
        backend.BY_DEVICE["cpu"] = "triton"
    torch.manual_seed(0)
    seen, worst, passed = launched(), (-1.0, ""), True
    for what, ours, truth, tolerance in CASES[name](device):
        ours, truth = (t.detach().to("cpu", F64) for t in (ours, truth))
        scale = float(truth.abs().amax()) + 1e-3 if truth.numel() else 1.0
        error = float((ours - truth).abs().amax()) / scale if ours.shape == truth.shape else float("nan")
        good = error <= tolerance  # NaN is not
        passed &= good
        share = error / tolerance if tolerance else float(not good)
        if not good or share > worst[0]:
            worst = (float("inf") if not good else share, f"{what}: {error:.2e}, at most {tolerance:.0e}")
    if device != "cpu":
        torch.cuda.synchronize()
    return passed, worst[1], tuple(sorted(seen))


def _child(name: str, device: str, log: str, pipe: Any) -> None:
    with open(log, "w") as stream:
        for number in (1, 2):
            os.dup2(stream.fileno(), number)
        try:
            pipe.send(run(name, device))
        except BaseException:
            traceback.print_exc(file=stream)
            stream.flush()
            os._exit(1)


def all_cases(device: str, together: int, limit: float, names: list[str]) -> Iterator[Result]:
    """Yield results as they arrive; a case that takes more than `limit` seconds is killed."""
    context = multiprocessing.get_context("fork")
    waiting, running = list(names), list[tuple[Any, ...]]()
    with tempfile.TemporaryDirectory() as folder:
        while waiting or running:
            while waiting and len(running) < together:
                name = waiting.pop(0)
                log = str(Path(folder) / f"{len(waiting)}.txt")
                receive, send = context.Pipe(duplex=False)
                process = context.Process(target=_child, args=(name, device, log, send), daemon=True)
                process.start()
                send.close()
                running.append((name, process, receive, log, time.monotonic()))
            for entry in list(running):
                name, process, receive, log, begun = entry
                spent, found = time.monotonic() - begun, None
                if receive.poll(0):
                    with contextlib.suppress(EOFError):
                        found = receive.recv()
                elif process.is_alive() and spent < limit:
                    continue
                if found is None and process.is_alive() and spent >= limit:
                    process.kill()
                process.join(5)
                running.remove(entry)
                text = Path(log).read_text(errors="replace")
                if found is None:
                    why = (
                        f"no end after {limit:.0f} s" if spent >= limit else f"exit status {process.exitcode}"
                    )
                    yield Result(name, False, spent, why, (), text)
                else:
                    passed, worst, kernels = found
                    yield Result(name, passed, spent, worst, kernels, "" if passed else text)
            time.sleep(0.02)


def main() -> int:
    parser = argparse.ArgumentParser(description="Every Triton kernel once, against the reference.")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, help="also written here, with the whole messages of what failed")
    parser.add_argument("--together", type=int, default=max((os.cpu_count() or 2) - 2, 1))
    parser.add_argument("--limit", type=float, default=60, help="seconds for one case")
    parser.add_argument("--quick", action="store_true", help="a few cases, which launch every kernel")
    options = parser.parse_args()
    import crfrnn  # noqa: F401 - once, for all children

    kernels = every_kernel()
    chosen = [n for n in CASES if not options.quick or n in QUICK]
    chosen.sort(key=lambda name: not name.startswith("mean field"))  # the longest compilations first
    failed, seen = 0, set[str]()
    with open(options.out or os.devnull, "w", encoding="utf-8") as file:

        def say(line: str, end: str = "\n") -> None:
            print(line, end=end, flush=True)
            file.write(line + end)
            file.flush()

        for result in all_cases(options.device, options.together, options.limit, chosen):
            failed += not result.passed
            seen |= set(result.kernels)
            say(result.told)
            if result.message:
                file.write(result.message + "\n")
        say(f"never launched: {', '.join(sorted(kernels - seen)) or 'none'}")
        say(f"{len(chosen)} cases, {failed} failed")
    return int(failed > 0 or not kernels <= seen)


if __name__ == "__main__":
    sys.exit(main())
