# SPDX-License-Identifier: MIT
"""The rows of the paper's Table 1 on a GPU, in a given time: FCN-8s and CRF-RNN on real pictures.

    python experiments/gpu_table1.py --data build/gpu-data --seconds 150 --out table1.csv
    python experiments/gpu_table1.py --device cpu --tiny                  # a dry run: a small network, noise

plain: FCN-8s from ImageNet's VGG-16 (fc6 and fc7 newly initialised). crf: followed by the default layer, not
learned. frozen-crf: the layer learned, the network frozen. plain-further and end-to-end continue from plain
for equally many seconds, without and with the layer. Evaluated on the VOC 2012 person subset at 320 pixels,
not comparable with full-set results. A row is written as soon as it is finished. Training time is limited, so
the figures depend on the GPU.
"""

from __future__ import annotations

import argparse
import copy
import csv
import io
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

import crfrnn
from crfrnn.evaluation import confusion_matrix, mean_iu_of_truth, pixel_accuracy, trimap_confusion
from crfrnn.io import VOID
from crfrnn.io.files import prepared
from crfrnn.models import load_vgg16

LABELS, SIDE, TRIMAP = 21, 320, 5
# Shares of the training time.
SHARES = {"plain": 0.5, "frozen-crf": 0.1, "plain-further": 0.2, "end-to-end": 0.2}
RATES = {"network": 1e-4, "crf": 5e-3}  # of Adam; the network's is a fifth of it after `plain`
Row = list[Any]


@dataclass
class Pictures:
    """UInt8[N, 3, S, S] in 0..255, UInt8[N, S, S] with 255 = void and padding, Bool[N, S, S]."""

    image: Tensor
    truth: Tensor
    mask: Tensor

    def __len__(self) -> int:
        return len(self.image)

    def to(self, device: str) -> Pictures:
        return Pictures(self.image.to(device), self.truth.to(device), self.mask.to(device))

    @staticmethod
    def read(archive: zipfile.ZipFile, parts: tuple[str, ...]) -> Pictures:
        names = [n for n in archive.namelist() if n.endswith(".jpg") and n.split("/")[0] in parts]
        image = torch.zeros(len(names), 3, SIDE, SIDE, dtype=torch.uint8)
        truth = torch.full((len(names), SIDE, SIDE), VOID, dtype=torch.uint8)
        mask = torch.zeros(len(names), SIDE, SIDE, dtype=torch.bool)
        for n, name in enumerate(names):
            picture = np.array(Image.open(io.BytesIO(archive.read(name))))
            labels = np.array(Image.open(io.BytesIO(archive.read(name.removesuffix("jpg") + "png"))))
            height, width = labels.shape
            image[n, :, :height, :width] = torch.from_numpy(picture).permute(2, 0, 1)
            truth[n, :height, :width] = torch.from_numpy(labels)
            mask[n, :height, :width] = True
        return Pictures(image, truth, mask)

    @staticmethod
    def noise(count: int, side: int) -> Pictures:
        image = torch.randint(256, (count, 3, side, side), dtype=torch.uint8)
        truth = torch.randint(LABELS, (count, side // 8, side // 8), dtype=torch.uint8)
        truth = truth.repeat_interleave(8, 1).repeat_interleave(8, 2)
        truth[:, ::8] = VOID
        return Pictures(image, truth, torch.ones(count, side, side, dtype=torch.bool))


class Run:
    """A network, a layer, pictures, and the clock."""

    def __init__(
        self, train: Pictures, val: Pictures, device: str, batch: int, network: torch.nn.Module
    ) -> None:
        self.train, self.val, self.device, self.batch = train.to(device), val.to(device), device, batch
        self.truth = val.truth.numpy()
        self.network = network.to(device)
        self.random = torch.Generator().manual_seed(0)

    def segmenter(self, network: torch.nn.Module, crf: bool) -> crfrnn.Segmenter:
        return crfrnn.Segmenter(network, crfrnn.CRFRNN(LABELS) if crf else None).to(self.device)

    def batches(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Endless batches: shuffled, mirrored, scaled by 0.7 to 1.4 about a random point."""
        while True:
            order = torch.randperm(len(self.train), generator=self.random)
            for some in order.split(self.batch):
                some = some.to(self.device)
                scale = 1 / (0.7 + 0.7 * torch.rand(len(some), generator=self.random))
                shift = (2 * torch.rand(len(some), 2, generator=self.random) - 1) * (1 - scale)[:, None]
                mirror = torch.where(torch.rand(len(some), generator=self.random) < 0.5, -1.0, 1.0)
                theta = torch.zeros(len(some), 2, 3)
                theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = scale * mirror, scale, shift
                size = [len(some), 3, *self.train.image.shape[2:]]
                grid = F.affine_grid(theta, size, align_corners=False).to(self.device)

                def moved(x: Tensor, how: str, grid: Tensor = grid) -> Tensor:
                    return F.grid_sample(x.float(), grid, how, align_corners=False)

                image = moved(self.train.image[some], "bilinear")
                # Labels and mask are shifted by one, so that 0, outside the picture, means void and no pixel.
                labels = moved(self.train.truth[some, None].float() + 1, "nearest")[:, 0].long() - 1
                mask = moved(self.train.mask[some, None], "nearest")[:, 0] > 0
                yield image, torch.where(mask & (labels >= 0), labels, VOID), mask

    def logits(self, segmenter: crfrnn.Segmenter, image: Tensor, mask: Tensor) -> Tensor:
        """The network in bfloat16, the layer in float32."""
        with torch.autocast(self.device, torch.bfloat16, enabled=self.device == "cuda"):
            unary = segmenter.unary(image, mask)
        return unary.float() if segmenter.crf is None else segmenter.crf(unary.float(), image, mask=mask)

    def learn(self, segmenter: crfrnn.Segmenter, seconds: float, rate: float, hold: bool = False) -> int:
        """Adam for `seconds` with a cosine schedule over the time; returns the number of steps."""
        segmenter.train()
        segmenter.network.requires_grad_(not hold).train(not hold)
        groups = [] if hold else [{"params": [*segmenter.network.parameters()], "lr": rate}]
        if segmenter.crf is not None:
            groups.append({"params": [*segmenter.crf.parameters()], "lr": RATES["crf"]})
        descent = torch.optim.Adam(groups)
        rates = [group["lr"] for group in descent.param_groups]
        begun, steps = time.monotonic(), 0
        for image, labels, mask in self.batches():
            share = (time.monotonic() - begun) / seconds
            if share >= 1 and steps:
                break
            for group, full in zip(descent.param_groups, rates, strict=True):
                group["lr"] = full * 0.5 * (1 + np.cos(np.pi * min(share, 1)))
            descent.zero_grad(set_to_none=True)
            loss = F.cross_entropy(self.logits(segmenter, image, mask), labels, ignore_index=VOID)
            loss.backward()
            descent.step()
            steps += 1
            if steps % 25 == 1:  # reading the loss synchronises with the device
                print(f"  step {steps}, {100 * share:.0f} %, loss {float(loss.detach()):.4f}", flush=True)
        segmenter.network.requires_grad_(True)
        return steps

    @torch.no_grad()
    def labels(self, segmenter: crfrnn.Segmenter) -> np.ndarray:
        segmenter.eval()
        found = [
            self.logits(segmenter, image.float(), mask).argmax(1).to(torch.uint8).cpu()
            for image, mask in zip(
                self.val.image.split(self.batch), self.val.mask.split(self.batch), strict=True
            )
        ]
        return torch.cat(found).numpy()


def counted(pair: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """All pixels, and those within TRIMAP pixels of void; padding is cropped first."""
    truth, guess = pair
    inside = truth != VOID
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    if not len(rows):
        nothing = np.zeros((LABELS, LABELS), np.int64)
        return nothing, nothing
    truth, guess = (x[: rows[-1] + 1, : columns[-1] + 1] for x in (truth, guess))
    near = trimap_confusion(truth, guess, LABELS, TRIMAP)[TRIMAP - 1]
    return confusion_matrix(truth, guess, LABELS), near


def rows(
    run: Run, seconds: float, start: Callable[[crfrnn.Segmenter], None]
) -> Iterator[tuple[str, np.ndarray, int, float]]:
    """(row, labels of the val pictures, steps, seconds of training)."""
    spans = {name: seconds * share for name, share in SHARES.items()}
    plain = run.segmenter(run.network, False)
    start(plain)
    steps = run.learn(plain, spans["plain"], RATES["network"])
    yield "plain", run.labels(plain), steps, spans["plain"]
    behind = run.segmenter(run.network, True)
    yield "crf", run.labels(behind), 0, 0.0
    steps = run.learn(behind, spans["frozen-crf"], 0.0, hold=True)
    yield "frozen-crf", run.labels(behind), steps, spans["frozen-crf"]
    for name, crf in (("plain-further", False), ("end-to-end", True)):
        further = run.segmenter(copy.deepcopy(run.network), crf)
        steps = run.learn(further, spans[name], RATES["network"] / 5)
        yield name, run.labels(further), steps, spans[name]
        del further


def main() -> int:
    parser = argparse.ArgumentParser(description="Table 1's rows on a GPU, in so many seconds.")
    parser.add_argument("--data", type=Path, default=Path("build/gpu-data"), help="what gpu_pack.py wrote")
    parser.add_argument("--out", type=Path, default=Path("table1.csv"))
    parser.add_argument("--seconds", type=float, default=150, help="for everything, reading and judging too")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--tiny", action="store_true", help="a small network and noise, to try the way")
    options = parser.parse_args()
    prepared(options.out)
    begun = time.monotonic()
    torch.manual_seed(0)
    if options.tiny:
        train, val = Pictures.noise(4, 32), Pictures.noise(2, 32)
        network = crfrnn.FCN8s(LABELS, widths=(2, 2, 2, 2, 2), hidden=2)
        seconds, batch = 0.4, 2
    else:
        with zipfile.ZipFile(options.data / "pictures.zip") as archive:
            train, val = Pictures.read(archive, ("train", "coco")), Pictures.read(archive, ("val",))
        network, batch = crfrnn.FCN8s(LABELS), options.batch
        (weights,) = options.data.glob("*.safetensors")
        load_vgg16(network, weights)
        # Without the time of reading, and a share for the evaluation of five rows.
        seconds = max(0.75 * (options.seconds - (time.monotonic() - begun)), 5.0)
    print(
        f"{len(train)} pictures to learn from, {len(val)} to judge on, {seconds:.0f} s of training",
        flush=True,
    )
    run = Run(train, val, options.device, batch, network)

    def compile_first(plain: crfrnn.Segmenter) -> None:
        """Compile the kernels before the time is measured."""
        image, labels, mask = next(run.batches())
        trial = run.segmenter(copy.deepcopy(plain.network), True)
        F.cross_entropy(run.logits(trial, image, mask), labels, ignore_index=VOID).backward()

    with (
        options.out.open("w", newline="", encoding="utf-8") as file,
        ProcessPoolExecutor(mp_context=get_context("spawn")) as pool,
    ):
        table = csv.writer(file)
        table.writerow(["row", "mean_iu", "trimap_iu", "pixel_accuracy", "steps", "seconds_of_training"])
        for name, guesses, steps, spent in rows(run, seconds, compile_first):
            counts = list(pool.map(counted, zip(run.truth, guesses, strict=True), chunksize=16))
            every, near = (np.sum([c[place] for c in counts], 0) for place in (0, 1))
            figures = [mean_iu_of_truth(every), mean_iu_of_truth(near), pixel_accuracy(every)]
            shown = [f"{100 * float(figure):.2f}" for figure in figures]
            table.writerow([name, *shown, steps, f"{spent:.1f}"])
            file.flush()
            print(
                f"{name:14} mean IU {shown[0]}, trimap IU {shown[1]}, pixels {shown[2]}; {steps} steps",
                flush=True,
            )
    print(f"{time.monotonic() - begun:.0f} s in all")
    return 0


if __name__ == "__main__":
    sys.exit(main())
