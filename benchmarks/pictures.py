# SPDX-License-Identifier: MIT
"""The engine on real pictures, each ratio from alternating calls in one run, in four parts:

21       the first `val` pictures of the VOC 2012 person subset with their DeepLab unaries, default
         parameters, T = 10: pydensecrf2 over crfrnn.
81       the same with 60 further labels, the tail of a softmax: at each pixel a further label lies ten below
         the best of the 21, plus a standard normal number per label and point of a 33 × 33 grid over the
         picture, bilinear between the points, from a seed given by the picture's id.
network  the default preset at T = 5 over the forward pass of its DeepLabV3-MobileNetV2, on the
         same pictures enlarged to 513 × 513.
high     quality "high" over "classic" at T = 10, on the inputs "demo" and "readme" of engine.py.

Lattice builds are included. "above 0.01" is the share of labels whose probability before the CRF exceeds 0.01
at any pixel. The marginals of both programs are compared after the CRF; pydensecrf2 has a lattice for the
spatial kernel too, where crfrnn sums exactly, so that single pixels at θ_γ = 1 may differ by a tenth. Each
picture is one row of the CSV, written as soon as it is measured.

Run it alone on the machine: python benchmarks/pictures.py
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch.nn.functional import interpolate

from crfrnn.datasets import DeepLabUnaries, LabelledPicture, shared_folder, voc_pictures
from crfrnn.evaluation.tables import write_csv
from crfrnn.models import DeepLab, load_deeplab
from engine import CASES, LABELS, forward, in_turn, layer, machine_and_versions, peer, photograph_and_logits
from outputs import ready

PARTS = ("21", "81", "network", "high")
PRESET = "default"
FURTHER = 60  # labels beyond VOC's 21, 81 in all, as in COCO
BELOW, GRID = 10.0, 33
THRESHOLDS = (0.003, 0.01, 0.03)
SIDE = 513
FOLDER = "data/voc2012-person"
WEIGHTS = "weights/deeplabv3_mnv2_voc_fp16.safetensors"
PHOTOGRAPH_RUNS = 7  # one photograph; the other parts have a hundred pictures


class Row(NamedTuple):
    """One input of one part: seconds of two programs, `ratio` the first over the second."""

    part: str
    name: str
    width: int
    height: int
    labels: int
    over: str
    over_seconds: float
    under: str
    under_seconds: float
    ratio: float
    runs: int  # number of calls, of which the seconds are medians
    above: tuple[float, ...] = (math.nan,) * len(THRESHOLDS)
    difference: float = math.nan  # the largest of the marginals
    equal: float = math.nan  # share of pixels with the same label

    def cells(self) -> list[object]:
        measured = (*self.above, self.difference, self.equal)
        return [*self[:11], *("" if math.isnan(value) else value for value in measured)]


SHARES = [f"above {threshold:g}" for threshold in THRESHOLDS]
HEAD = [*Row._fields[:11], *SHARES, "largest |ΔQ|", "equal labels"]


def with_further_labels(name: str, logits: np.ndarray, further: int = FURTHER) -> np.ndarray:
    """Float32[L, H, W] → Float32[L + further, H, W], as described for part "81" at the top of this file."""
    seed = int.from_bytes(name.encode(), "little") % 2**63
    coarse = torch.randn(1, further, GRID, GRID, generator=torch.Generator().manual_seed(seed))
    noise = interpolate(coarse, logits.shape[1:], mode="bilinear", align_corners=True)[0].numpy()
    return np.concatenate([logits, logits.max(0) - BELOW + noise])


def shares_above(logits: np.ndarray) -> tuple[float, ...]:
    """The share of labels whose softmax exceeds each threshold at any pixel."""
    highest = torch.from_numpy(logits).softmax(0).amax((1, 2))
    return tuple(float((highest > threshold).float().mean()) for threshold in THRESHOLDS)


def beside_the_peer(
    part: str, name: str, image: np.ndarray, logits: np.ndarray, runs: int, warm_up: bool
) -> Row:
    """pydensecrf2 over crfrnn, and the agreement of their marginals."""
    found: dict[str, np.ndarray] = {}

    def own() -> None:
        found["own"] = forward(PRESET, image, logits, 10)[0].numpy()

    def theirs() -> None:
        found["theirs"] = peer(PRESET, image, logits, 10)

    seconds, other = in_turn([own, theirs], runs, warm_up)
    mine = torch.from_numpy(found["own"]).softmax(0).flatten(1).numpy()
    difference = float(np.abs(mine - found["theirs"]).max())
    equal = float((mine.argmax(0) == found["theirs"].argmax(0)).mean())
    size = (image.shape[1], image.shape[0], len(logits))
    times = ("pydensecrf2", other, "crfrnn", seconds, other / seconds, runs)
    return Row(part, name, *size, *times, shares_above(logits), difference, equal)


def behind_the_network(network: DeepLab, name: str, image: np.ndarray, runs: int, warm_up: bool) -> Row:
    """The CRF at T = 5 over the network's forward pass, which computes its unary, on the enlarged picture."""
    planes = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    picture = interpolate(planes, (SIDE, SIDE), mode="bilinear").round().byte()
    values, crf = network.preprocessing(picture), layer(PRESET).eval()
    with torch.no_grad():
        unary = network(values)
        after, own = in_turn(
            [lambda: crf(unary, picture, iterations=5), lambda: network(values)], runs, warm_up
        )
    return Row("network", name, SIDE, SIDE, LABELS, "CRF", after, "network", own, after / own, runs)


def high_over_classic(case: str, image: np.ndarray, logits: np.ndarray, runs: int) -> Row:
    high, classic = in_turn(
        [partial(forward, case, image, logits, 10, quality) for quality in ("high", "classic")], runs
    )
    size = (image.shape[1], image.shape[0], len(logits))
    return Row(f"high {case}", "astronaut", *size, "high", high, "classic", classic, high / classic, runs)


def rows_of(part: str, shared: Path, pictures: list[LabelledPicture], runs: int) -> Iterator[Row]:
    """The rows of one part as they are measured; the first input of a part is the warm-up."""
    if part == "high":
        image, logits = photograph_and_logits("astronaut", 500)
        for case in CASES:
            yield high_over_classic(case, image, logits, min(len(pictures), PHOTOGRAPH_RUNS))
    elif part == "network":
        network = DeepLab(LABELS).eval()
        load_deeplab(network, shared / WEIGHTS)
        for index, item in enumerate(pictures):
            yield behind_the_network(network, item.id, item.image, runs, not index)
    else:
        unaries = DeepLabUnaries.load(shared / FOLDER / "unaries" / "val.npz")
        for index, item in enumerate(pictures):
            image = np.ascontiguousarray(item.image)
            logits = unaries.logits(item.id, image.shape[:2]).numpy()
            if part == "81":
                logits = with_further_labels(item.id, logits)
            yield beside_the_peer(part, item.id, image, logits, runs, not index)


def summary(rows: list[Row], title: str) -> Table:
    """One column per part: ratios per picture and of the totals, mean shares, the largest difference."""
    parts = [[row for row in rows if row.part == part] for part in dict.fromkeys(row.part for row in rows)]
    table = Table("part", *(own[0].part for own in parts), title=title)

    def line(name: str, figure: Callable[[list[Row]], float], form: str = ".2f") -> None:
        values = [figure(own) for own in parts]
        table.add_row(name, *("–" if math.isnan(value) else format(value, form) for value in values))

    table.add_row("time of", *(own[0].over for own in parts))
    table.add_row("over", *(own[0].under for own in parts))
    line("inputs", len, "d")
    line("median", lambda own: statistics.median(row.ratio for row in own))
    line("lowest", lambda own: min(row.ratio for row in own))
    line("highest", lambda own: max(row.ratio for row in own))
    line("of totals", lambda own: sum(r.over_seconds for r in own) / sum(r.under_seconds for r in own))
    for index, name in enumerate(SHARES):
        line(name, lambda own, i=index: statistics.fmean(row.above[i] for row in own), ".3f")
    line("largest |ΔQ|", lambda own: max(row.difference for row in own), ".1e")
    line("equal labels", lambda own: statistics.fmean(row.equal for row in own), ".5f")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--limit", type=int, default=100, help="pictures, and runs on the photograph")
    parser.add_argument("--runs", type=int, default=1, help="of each picture")
    parser.add_argument("--threads", type=int, default=2, help="of crfrnn and torch; pydensecrf2 has one")
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/results/pictures.csv"))
    arguments = parser.parse_args()
    ready(parser, arguments.output)
    for name in ("limit", "runs", "threads"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name}: expected at least 1, got {getattr(arguments, name)}")
    shared = shared_folder()
    if shared is None:
        raise SystemExit("no real pictures: name their folder in $CRFRNN_SHARED")
    torch.set_num_threads(arguments.threads)
    machine, versions = machine_and_versions()
    pictures = list(voc_pictures(shared / FOLDER, "val"))[: arguments.limit]
    parts = list(dict.fromkeys(arguments.parts))
    console = Console()
    rows: list[Row] = []
    with Progress(console=console) as progress:
        total = sum(len(CASES) if part == "high" else len(pictures) for part in parts)
        task = progress.add_task("measuring", total=total)
        for part in parts:
            for row in rows_of(part, shared, pictures, arguments.runs):
                rows.append(row)
                lines = ([*one.cells(), versions, machine] for one in rows)
                write_csv(arguments.output, [[*HEAD, "versions", "machine"], *lines])
                progress.update(task, advance=1, description=f"{part}, {row.name}: {row.ratio:.2f}")
    console.print(summary(rows, f"{versions}; {machine}"))
    console.print(arguments.output)


if __name__ == "__main__":
    main()
