# SPDX-License-Identifier: MIT
"""Load over a long time: does memory use stay constant, and does the program respond?

    scripts/soak.py pictures [--count 10000]      random sizes, labels, dtypes, masks, methods, gradients
    scripts/soak.py ctrl-c [--side 4000]          seconds from Ctrl-C to KeyboardInterrupt inside the core;
                                                  also --labels, --quality, --gradients, --depth for a volume
    scripts/soak.py page [--clients 20]           the page of `crfrnn app` under simultaneous clients

Each prints its measurements while it runs, and exits with 1 if a limit is exceeded: memory within 5 MiB
after the warm-up, a response within half a second, no error of the page.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from importlib import import_module
from pathlib import Path

import torch

from crfrnn import CRFRNN, release_memory

MIB = 2**20
GROWTH, ANSWER = 5.0, 0.5  # MiB, seconds: the limits
LARGEST = 160  # pixels per side


def resident(process: int | str = "self") -> float:
    """Resident memory of a process, MiB."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / MIB


def held() -> float:
    """MiB in use that cannot be returned: without the core's spare blocks and the allocator's free pages."""
    gc.collect()
    release_memory()
    ctypes.CDLL(None).malloc_trim(0)
    return resident()


def one_picture(chance: random.Random, side: int = 0, labels: int = 0) -> None:
    """One inference, every second time with all gradients."""
    height, width = side or chance.randint(1, LARGEST), side or chance.randint(1, LARGEST)
    labels, batch = labels or chance.choice([1, 2, 3, 5, 21, 40]), chance.choice([1, 1, 2])
    dtype = chance.choice([torch.float32, torch.float32, torch.float64, torch.bfloat16, torch.float16])
    options = {
        "iterations": chance.randint(0, 4),
        "label_weights": chance.choice(["vector", "matrix"]),
        "quality": chance.choice(["classic", "default", "high"]),
        "spatial_method": chance.choice(["separable", "lattice"]),
        "normalization": chance.choice(["none", "before", "after", "symmetric"]),
    }
    crf = CRFRNN(labels, **options)
    if dtype == torch.float64:
        crf = crf.double()
    image = (torch.rand(batch, 3, height, width) * 255).to(chance.choice([torch.uint8, torch.float32]))
    unary = torch.randn(batch, labels, height, width, dtype=dtype)
    mask = torch.rand(batch, height, width) < 0.8 if chance.random() < 0.3 else None
    if chance.random() < 0.5:
        crf(unary.requires_grad_(), image, mask=mask).float().square().sum().backward()
    else:
        with torch.no_grad():
            crf.eval()(unary, image, mask=mask)


def soak_pictures(arguments: argparse.Namespace) -> int:
    chance, began = random.Random(arguments.seed), time.monotonic()
    for dtype_seed in range(8):  # the largest case, so that no later one is larger
        one_picture(random.Random(dtype_seed), LARGEST, 40)
    warm = min(1000, arguments.count // 4)
    figures: list[float] = []
    for number in range(warm + arguments.count + 1):
        if number >= warm and (number - warm) % max(1, arguments.count // 20) == 0:
            figures.append(held())
            seconds = time.monotonic() - began
            print(f"{number - warm} pictures: {figures[-1]:.1f} MiB, {seconds:.0f} s", flush=True)
        one_picture(chance)
    growth = max(figures) - figures[0]
    print(f"{arguments.count} pictures after {warm}: at most {growth:+.1f} MiB over the first figure")
    return int(growth > GROWTH)


def soak_ctrl_c(arguments: argparse.Namespace) -> int:
    side, labels, worst = arguments.side, arguments.labels, 0.0
    torch.set_num_threads(arguments.threads)
    crf = CRFRNN(labels, iterations=5, quality=arguments.quality).eval()
    shape = (side, side) if arguments.depth is None else (arguments.depth, side, side)
    unary, image = torch.randn(1, labels, *shape), torch.rand(1, 3, *shape) * 255
    chance = random.Random(arguments.seed)

    def work() -> None:
        if arguments.gradients:
            crf(unary.requires_grad_(), image).sum().backward()
        else:
            with torch.no_grad():
                crf(unary, image)

    sizes = " x ".join(map(str, shape))
    print(f"{sizes}, {labels} labels, {arguments.threads} threads", flush=True)
    whole = arguments.within
    if whole is None:
        began = time.monotonic()
        work()
        whole = time.monotonic() - began
        print(f"{whole:.1f} s undisturbed", flush=True)
    for _ in range(arguments.moments):
        after, sent = chance.uniform(0.0, 0.95) * whole, [0.0]

        def send(sent: list[float] = sent) -> None:
            sent[0] = time.monotonic()
            os.kill(os.getpid(), signal.SIGINT)

        timer = threading.Timer(after, send)
        began = time.monotonic()
        timer.start()
        try:
            work()
            whole = time.monotonic() - began  # shorter, since the first call of this size takes longer
            timer.cancel()
            timer.join()
        except KeyboardInterrupt:
            answer = time.monotonic() - sent[0]
            worst = max(worst, answer)
            print(f"Ctrl-C after {after:.2f} s: answered within {answer:.3f} s", flush=True)
        else:
            print(f"Ctrl-C after {after:.2f} s: the call had ended after {whole:.1f} s", flush=True)
    print(f"{arguments.moments} moments: {worst:.3f} s at worst")
    return int(worst > ANSWER)


SERVER = """
import sys
sys.path.insert(0, sys.argv.pop(1))
import colour_network
from crfrnn.cli import main
main()
"""


def soak_page(arguments: argparse.Namespace) -> int:
    helpers = Path(__file__).resolve().parents[1] / "tests/helpers"
    sys.path.insert(0, str(helpers))
    clients = import_module("page_clients")
    with tempfile.TemporaryDirectory(prefix="soak-page-") as place:
        folder = Path(place)
        checkpoint = import_module("colour_network").save_colours(folder / "network")
        words = ["app", "--checkpoint", str(checkpoint)]
        server = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", SERVER, str(helpers), *words],
            stdout=subprocess.PIPE, text=True, cwd=folder,
            env={**os.environ, "TMPDIR": place},
        )  # fmt: skip
        try:
            assert server.stdout is not None
            address = clients.address_in(server.stdout.readline())
            report = clients.load(
                address, clients=arguments.clients, seconds=arguments.seconds,
                watch=lambda: resident(server.pid), say=lambda line: print(line, flush=True),
            )  # fmt: skip
            print(report, flush=True)
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(120)
    return int(bool(report.errors) or report.growth > arguments.growth)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    jobs = parser.add_subparsers(required=True)
    job = jobs.add_parser("pictures", help="memory over many pictures")
    job.add_argument("--count", type=int, default=10_000, help="after the warm-up (10000)")
    job.set_defaults(job=soak_pictures)
    job = jobs.add_parser("ctrl-c", help="how soon the core answers")
    job.add_argument("--side", type=int, default=4000, help="pixels (4000)")
    job.add_argument("--labels", type=int, default=2, help="of the unary (2)")
    job.add_argument("--quality", default="default", help="of the lattice (default)")
    job.add_argument("--gradients", action="store_true", help="forward and backward")
    job.add_argument("--depth", type=int, help="slices of a volume; a picture without it")
    job.add_argument("--within", type=float, help="seconds for the signals (the time of a first call)")
    job.add_argument("--moments", type=int, default=10, help="signals sent, one after the other (10)")
    job.add_argument("--threads", type=int, default=2, help="of the core (2)")
    job.set_defaults(job=soak_ctrl_c)
    job = jobs.add_parser("page", help="clients at once")
    job.add_argument("--clients", type=int, default=20, help="at once (20)")
    job.add_argument("--seconds", type=float, default=600, help="for so long (600)")
    job.add_argument("--growth", type=float, default=100, help="MiB that the server may grow (100)")
    job.set_defaults(job=soak_page)
    for each in jobs.choices.values():
        each.add_argument("--seed", type=int, default=0, help="of all that is random (0)")
    arguments = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells ignore it for background jobs
    torch.manual_seed(arguments.seed)
    return int(arguments.job(arguments))


if __name__ == "__main__":
    sys.exit(main())
