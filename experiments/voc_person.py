# SPDX-License-Identifier: MIT
"""The published comparison on the VOC 2012 person subset: plain, pydensecrf, and this package, side by side.

    python experiments/voc_person.py                  # needs $CRFRNN_SHARED and the `dev` extra
    python experiments/voc_person.py --cache /tmp/voc --only plain --only pydensecrf2   # in portions

Nothing is chosen here: the parameters are read from the files in docs/results, which were frozen on the
training ids. Writes voc_person.{md,csv}, voc_person_differences.csv and voc_person_trimap.csv.
"""

from __future__ import annotations

import argparse
import multiprocessing
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crfrnn import CRFRNN
from crfrnn.datasets import DeepLabUnaries, voc_person_folder, voc_pictures
from crfrnn.evaluation import METRICS, Evaluation, Evaluator
from crfrnn.evaluation.tables import write_csv
from crfrnn.io import VOC_CLASSES, read_label_png, write_label_png
from crfrnn.io.files import prepared, write_text
from crfrnn.training import load_parameters

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
TITLE = "VOC 2012, person subset"
SHOWN = ("mean_iu", "trimap_iu", "boundary_iou", "boundary_f", "pixel_accuracy")
LEARNED = "ours, learned"
ITERATIONS = 10

# UInt8[H, W, 3], Float[L, H, W] -> Int[H, W]
Method = Callable[[NDArray[np.uint8], Tensor], NDArray[np.int64]]


def plain(image: NDArray[np.uint8], unary: Tensor) -> NDArray[np.int64]:
    return unary.argmax(0).numpy()


def pydensecrf(image: NDArray[np.uint8], unary: Tensor) -> NDArray[np.int64]:
    """At its best known settings on these pictures: Gaussian (3, 1), bilateral (4, 67, 3)."""
    import pydensecrf.densecrf as dcrf

    labels, height, width = unary.shape
    crf = dcrf.DenseCRF2D(width, height, labels)
    crf.setUnaryEnergy(np.ascontiguousarray(-unary.log_softmax(0).flatten(1).numpy()))
    crf.addPairwiseGaussian(sxy=1, compat=3)
    crf.addPairwiseBilateral(sxy=67, srgb=3, rgbim=np.ascontiguousarray(image), compat=4)
    return np.asarray(crf.inference(ITERATIONS)).argmax(0).reshape(height, width)


def ours(crf: CRFRNN) -> Method:
    """A CRF as a method; `crf` runs with its own number of iterations."""
    crf = crf.eval()

    @torch.no_grad()
    def method(image: NDArray[np.uint8], unary: Tensor) -> NDArray[np.int64]:
        picture = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        return crf(unary[None], picture[None])[0].argmax(0).numpy()

    return method


def methods(folder: Path, only: Sequence[str] = ()) -> dict[str, Method]:
    """Methods by name; with `only`, those whose names contain one of these words."""
    table: dict[str, Callable[[], Method]] = {
        "plain": lambda: plain,
        "pydensecrf2 (3, 1), (4, 67, 3)": lambda: pydensecrf,
        # The default parameters are the cross-validated ones of docs/results.md.
        "ours, cross-validated (default preset)": lambda: ours(CRFRNN(len(VOC_CLASSES))),
        "ours, label recalls": lambda: ours(load_parameters(folder / "voc_person_recalls.safetensors").crf),
        LEARNED: lambda: ours(load_parameters(folder / "voc_person_learned.safetensors").crf),
    }
    return {name: make() for name, make in table.items() if not only or any(word in name for word in only)}


@dataclass(frozen=True)
class Job:
    """One worker's share of the pictures."""

    data: Path
    split: str
    parameters: Path
    only: Sequence[str]
    cache: Path | None
    ids: Sequence[str]

    def run(self) -> Evaluation:
        torch.set_num_threads(1)
        unaries = DeepLabUnaries.load(self.data / "unaries" / f"{self.split}.npz")
        evaluator = Evaluator(len(VOC_CLASSES), class_names=VOC_CLASSES)
        table = methods(self.parameters, self.only)
        for item in voc_pictures(self.data, self.split).select(self.ids):
            image = item.image
            unary = unaries.logits(item.id, (image.shape[0], image.shape[1]))
            guesses = {name: self._labels(name, table[name], item.id, image, unary) for name in table}
            evaluator.update(item.id, item.mask, guesses)
            print(".", end="", flush=True)
        return evaluator.compute()

    def _labels(
        self, name: str, method: Method, picture: str, image: NDArray[np.uint8], unary: Tensor
    ) -> NDArray[Any]:
        if self.cache is None:
            return method(image, unary)
        place = self.cache / self.split / "".join(c if c.isalnum() else "_" for c in name) / f"{picture}.png"
        if not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            write_label_png(place, method(image, unary).astype(np.uint8))
        return read_label_png(place)


def joined(parts: Sequence[Evaluation]) -> Evaluation:
    """The evaluation of all workers' pictures: counts concatenated, curves summed."""
    first = parts[0]
    return Evaluation(
        ids=tuple(i for part in parts for i in part.ids),
        class_names=first.class_names,
        trimap_width=first.trimap_width,
        counts={
            method: {kind: np.concatenate([part.counts[method][kind] for part in parts]) for kind in kinds}
            for method, kinds in first.counts.items()
        },
        curves={method: np.sum([part.curves[method] for part in parts], 0) for method in first.curves},
    )


def differences(result: Evaluation) -> Iterator[list[str]]:
    """Learned minus every other method, paired over pictures, in percentage points."""
    yield ["learned minus", "metric", "difference", "low", "high", "clear of zero"]
    for other in result.methods:
        for metric in SHOWN if other != LEARNED else ():
            found = result.difference(LEARNED, other, metric)
            numbers = (f"{100 * x:.3f}" for x in (found.value, found.low, found.high))
            yield [other, metric, *numbers, "yes" if found.clear_of_zero else "no"]


def markdown(result: Evaluation, split: str, machine: str) -> str:
    heads = [METRICS[metric].title for metric in SHOWN]
    lines = [
        f"# {TITLE}: {len(result.ids)} `{split}` pictures",
        "",
        "DeepLabV3-MobileNetV2 logits that the network may have been trained on: the figures show what a CRF "
        "adds to them. Percent, [95 % bootstrap interval over pictures]; means over the "
        f"{len(result.true_labels)} labels that occur in the truth, the same for every method.",
        "",
        "| method | " + " | ".join(heads) + " |",
        "|---|" + "---:|" * len(heads),
    ]
    for method in result.methods:
        cells = [result.interval(method, metric).percent() for metric in SHOWN]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    lines += ["", "Learned minus the others, paired over pictures, percentage points:", ""]
    lines += ["| other | " + " | ".join(heads) + " |", "|---|" + "---:|" * len(heads)]
    for other in result.methods[:-1]:
        cells = [result.difference(LEARNED, other, metric).percent() for metric in SHOWN]
        lines.append(f"| {other} | " + " | ".join(cells) + " |")
    lines += ["", "IU per label:", "", "| method | " + " | ".join(result.class_names) + " |"]
    lines.append("|---|" + "---:|" * len(result.class_names))
    for method in result.methods:
        cells = [f"{100 * x:.1f}" for x in result.per_label_iu(method)]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", machine, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--split", default="val", choices=("train", "val"))
    parser.add_argument("--limit", type=int, help="the first so many pictures only")
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--parameters", type=Path, default=RESULTS, help="folder of the frozen files")
    parser.add_argument("--only", action="append", default=[], help="only methods with this in their name")
    parser.add_argument("--cache", type=Path, help="keep label maps here and take those that are here")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    name = "voc_person" if options.split == "val" else "voc_person_train"
    place = {end: options.out / f"{name}{end}" for end in (".md", ".csv", "_trimap.csv", "_differences.csv")}
    for path in () if options.only else place.values():
        prepared(path)
    data = voc_person_folder()
    if data is None:
        raise SystemExit("the real pictures are not here: set $CRFRNN_SHARED to the folder that holds data/")
    ids = voc_pictures(data, options.split).ids[: options.limit]
    shares = [ids[worker :: options.workers] for worker in range(options.workers)]
    begun = time.perf_counter()
    with multiprocessing.get_context("spawn").Pool(options.workers) as pool:
        common = (data, options.split, options.parameters, options.only, options.cache)
        result = joined(pool.map(Job.run, [Job(*common, share) for share in shares if share]))
    if options.only:
        print("\n" + result.markdown(intervals=False))
        return
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "numpy", "pydensecrf2"))
    took = f"; {time.perf_counter() - begun:.0f} s" if options.cache is None else ""  # cached maps take none
    machine = f"{platform.machine()}, Python {platform.python_version()}, {packages}{took}."
    text = markdown(result, options.split, machine)
    write_text(place[".md"], text)
    result.write_csv(place[".csv"])
    result.write_curve_csv(place["_trimap.csv"])
    write_csv(place["_differences.csv"], differences(result))
    print("\n" + text)


if __name__ == "__main__":
    main()
