# SPDX-License-Identifier: MIT
"""Pseudo-labels per second on real pictures, with reading and writing, and the estimated time for COCO val.

Pictures at their own size, each with IRN's CRF (10 iterations): VOC person with the 21 labels of its DeepLab
unaries; COCO train2017 (the small selection) with 81 labels, of which 21 are the packaged network's and the
others the tail of a softmax (pictures.py); and the same VOC pictures with activation maps of two classes,
IRN's whole step of two inferences, whose maps are coarse random blobs from a fixed seed. The time of the
first two depends on how many labels are in play (docs/engine.md). Rates are taken between the first finished
pictures and the last, without the start of the processes. pydensecrf2 and ours are then timed alternately on
one thread, pictures in memory, inference only.

Run it alone on the machine: python benchmarks/pseudo_labels.py; on a GPU: --device cuda --batch 4
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch.nn.functional import interpolate

from crfrnn import _native
from crfrnn.datasets import DeepLabUnaries, shared_folder
from crfrnn.evaluation.tables import write_csv
from crfrnn.inference import Predictor
from crfrnn.inference.pseudo import CAM_CRFS, Job, refine_labels, write_pseudo_labels
from crfrnn.io import read_image
from engine import in_turn
from outputs import ready
from pictures import FOLDER, with_further_labels

COCO_VAL = 40_504  # pictures of COCO val2014
TURNS = 2  # over all pictures, since the first ones of a process take longer
FOLDERS = {"voc": "data/voc2012-person/VOCdevkit/VOC2012/JPEGImages", "coco": "data/coco-mini/train2017"}
CASES = {  # name: pictures, kind
    "21 labels": ("voc", "logits"),
    "81 labels": ("coco", "logits"),
    "2 activation maps": ("voc", "cams"),
}
Row = tuple[str, int, str, float, float, float, float]


def pictures(shared: Path, name: str, count: int) -> list[Path]:
    """`count` pictures, evenly over the folder."""
    found = sorted((shared / FOLDERS[name]).glob("*.jpg"))
    count = min(count, len(found))
    return [found[i * len(found) // count] for i in range(count)]


Scores = Callable[[Path], np.ndarray]  # Float32[labels, H, W] of a picture's size


def blobs(labels: int, path: Path) -> np.ndarray:
    """Smooth random blobs, all plausible."""
    height, width = read_image(path).shape[:2]
    generator = torch.Generator().manual_seed(int.from_bytes(path.stem.encode(), "little") % 2**31)
    coarse = 2 * torch.randn(1, labels, height // 24 + 2, width // 24 + 2, generator=generator)
    return interpolate(coarse, (height, width), mode="bilinear")[0].numpy()


def deeplab(shared: Path) -> Scores:
    """The given logits of the VOC pictures."""
    both = [DeepLabUnaries.load(shared / FOLDER / "unaries" / f"{split}.npz") for split in ("train", "val")]

    def scores(path: Path) -> np.ndarray:
        unaries = next(one for one in both if path.stem in one.grids)
        return unaries.logits(path.stem, read_image(path).shape[:2]).numpy()

    return scores


def packaged() -> Scores:
    """The logits of the packaged network, and 60 further labels."""
    network = Predictor.from_pretrained().segmenter.network.eval()

    @torch.no_grad()
    def scores(path: Path) -> np.ndarray:
        image = torch.from_numpy(np.ascontiguousarray(read_image(path).transpose(2, 0, 1)))
        return with_further_labels(path.stem, network(image[None].float())[0].numpy())

    return scores


def prepare(paths: list[Path], kind: str, scores: Scores, folder: Path) -> list[Job]:
    """Files of maps as saved by a network: float16 logits in .npy, or .npz with keys."""
    jobs = []
    for path in paths:
        values = scores(path)
        if kind == "logits":
            source = folder / f"{path.stem}.npy"
            np.save(source, values.astype(np.float16))
        else:
            source = folder / f"{path.stem}.npz"
            maps = 1 / (1 + np.exp(-values))
            np.savez(source, keys=np.arange(len(values)), high_res=maps / maps.max((1, 2), keepdims=True))
        jobs.append(Job(path.stem, path, source))
    if hasattr(os, "sync"):
        os.sync()  # otherwise the system writes these files to the disk during the timed run
    return [replace(job, name=f"{turn}/{job.name}") for turn in range(TURNS) for job in jobs]


def rate(jobs: list[Job], kind: str, folder: Path, processes: int, batch: int, device: str) -> float:
    """Pictures per second of a whole run, after its processes have started."""
    ticks: list[float] = []
    report = write_pseudo_labels(
        jobs, folder, kind=kind, axes="lhw" if kind == "logits" else None, processes=processes, batch=batch,
        device=device, progress=lambda done, total: ticks.append(time.perf_counter()),
    )  # fmt: skip
    if report.failed:
        raise RuntimeError(f"failed: {report.failed}")
    first = min(max(processes, batch), len(ticks) - 1)
    return (len(ticks) - first) / (ticks[-1] - ticks[first - 1])


def single(paths: list[Path], scores: Scores, device: str) -> tuple[float, float]:
    """Median seconds per picture, ours and pydensecrf2, one thread each."""
    import pydensecrf.densecrf as dcrf

    recipe, ours, theirs = CAM_CRFS["irn"], [], []
    preset = recipe.preset
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for path in paths:
        image, logits = read_image(path), scores(path)

        def peer(image: np.ndarray = image, logits: np.ndarray = logits) -> np.ndarray:
            crf = dcrf.DenseCRF2D(image.shape[1], image.shape[0], len(logits))
            crf.setUnaryEnergy(np.ascontiguousarray(-logits.reshape(len(logits), -1)))
            crf.addPairwiseGaussian(sxy=preset.theta_gamma, compat=preset.spatial_weight)
            crf.addPairwiseBilateral(
                sxy=preset.theta_alpha, srgb=preset.theta_beta, rgbim=image, compat=preset.bilateral_weight
            )
            return np.array(crf.inference(preset.iterations)).argmax(0)

        def own(image: np.ndarray = image, logits: np.ndarray = logits) -> list[np.ndarray]:
            return refine_labels([image], [torch.from_numpy(logits)], recipe, device=device)

        functions: list[Callable[[], object]] = [own, peer]
        mine, other = in_turn(functions, 1)
        ours.append(mine)
        theirs.append(other)
    torch.set_num_threads(threads)
    return float(np.median(ours)), float(np.median(theirs))


def measure(shared: Path, arguments: argparse.Namespace) -> list[Row]:
    """Rows: name, pictures, mean size, pictures per second, hours for COCO val, seconds per picture."""
    rows: list[Row] = []
    for name, (where, kind) in CASES.items():
        scores = {"21 labels": partial(deeplab, shared), "81 labels": packaged}.get(
            name, lambda: partial(blobs, 2)
        )()
        paths = pictures(shared, where, arguments.pictures)
        sizes = np.array([read_image(path).shape[:2] for path in paths]).mean(0).round().astype(int)
        with tempfile.TemporaryDirectory() as folder:
            jobs = prepare(paths, kind, scores, Path(folder))
            speed = rate(
                jobs, kind, Path(folder) / "out", arguments.processes, arguments.batch, arguments.device
            )
        mine, peer = (float("nan"),) * 2
        if kind == "logits" and arguments.peer:
            mine, peer = single(paths[: arguments.peer], scores, arguments.device)
        hours = COCO_VAL / speed / 3600
        rows.append((name, len(paths), f"{sizes[1]} × {sizes[0]}", speed, hours, mine, peer))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--pictures", type=int, default=24, help="of each case; 81 labels take 50 MB each on disk"
    )
    parser.add_argument("--processes", type=int, default=0, help="0: one for each processor (1 on a GPU)")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--peer", type=int, default=3, help="pictures to time pydensecrf2 on; 0 leaves it out"
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/results/pseudo_labels.csv"))
    arguments = parser.parse_args()
    ready(parser, arguments.output)
    shared = shared_folder()
    if shared is None:
        raise SystemExit("no real pictures: name their folder in $CRFRNN_SHARED")
    if not arguments.processes:
        arguments.processes = 1 if arguments.device != "cpu" else len(os.sched_getaffinity(0))
    console = Console()
    place = arguments.device if arguments.device != "cpu" else _native.instruction_set()
    machine = f"{platform.machine()}, {arguments.processes} processes, batch {arguments.batch}, {place}"
    versions = f"crfrnn {version('crfrnn')}, torch {torch.__version__}"
    with console.status("measuring, some minutes"):
        rows = measure(shared, arguments)
    heads = ["what", "pictures", "mean size", "pictures/s", "hours for COCO val", "ours, s", "pydensecrf2, s"]
    table = Table(*heads, title=f"{versions}; {machine}")
    for what, count, size, speed, hours, mine, peer in rows:
        seconds = ("–" if np.isnan(v) else f"{v:.2f}" for v in (mine, peer))
        table.add_row(what, str(count), size, f"{speed:.2f}", f"{hours:.1f}", *seconds)
    console.print(table)
    write_csv(
        arguments.output, [[*heads, "versions", "machine"], *([*row, versions, machine] for row in rows)]
    )
    console.print(arguments.output)


if __name__ == "__main__":
    main()
