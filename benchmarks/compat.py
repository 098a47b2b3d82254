# SPDX-License-Identifier: MIT
"""The same script with pydensecrf2 and crfrnn.compat.pydensecrf, alternating in one run: time, agreement.

Inputs and parameters as in `benchmarks/engine.py`: 500×500, 21 labels, including the lattice build and the
argmax of the marginals. "first": a picture of a new size; "next": further pictures of this size, whose
spatial kernel is kept. "class": the class DenseCRF of utils/dcrf.py with settings in use, seconds per
picture, called in a loop and by joblib's processes, as in the projects that contain the class; on that
photograph, where all 21 labels are in play, and with "pictures" on the first of VOC 2012 `val`, person
subset, with their DeepLab unaries.

Run it alone on the machine: python benchmarks/compat.py --parts class
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pydensecrf.densecrf as theirs
from pydensecrf import utils as their_utils
from rich.console import Console
from rich.table import Table

from crfrnn.compat.dcrf import DenseCRF
from crfrnn.compat.pydensecrf import _engine
from crfrnn.compat.pydensecrf import densecrf as ours
from crfrnn.crf.presets import PRESETS, Preset
from crfrnn.datasets import DeepLabUnaries, shared_folder, voc_pictures
from crfrnn.evaluation.tables import write_csv
from engine import CASES, LABELS, in_turn, machine_and_versions, photograph_and_logits
from outputs import ready
from pictures import FOLDER

ITERATIONS = 10
PROCESSES = 2
SETTINGS = ("weclip", "clip-es")  # those of the class
PARTS = ("calls", "class", "pictures")
PICTURES = 8


def model(module: Any, case: str, image: np.ndarray, energy: np.ndarray) -> Any:
    five = CASES[case]
    crf = module.DenseCRF2D(image.shape[1], image.shape[0], LABELS)
    crf.setUnaryEnergy(energy)
    crf.addPairwiseGaussian(sxy=five.theta_gamma, compat=five.spatial_weight)
    crf.addPairwiseBilateral(
        sxy=five.theta_alpha, srgb=five.theta_beta, rgbim=image, compat=five.bilateral_weight
    )
    return crf


def inference(module: Any, *case: Any, forget: bool = False) -> np.ndarray:
    if forget:
        _engine.forget()
    return np.argmax(model(module, *case).inference(ITERATIONS), axis=0)


def steps(module: Any, *case: Any) -> float:
    crf = model(module, *case)
    state = crf.startInference()
    for _ in range(ITERATIONS):
        crf.stepInference(*state)
    return crf.klDivergence(state[0])


def measure(runs: int, size: int) -> list[tuple[str, float, float, float, float]]:
    """Rows (what, seconds ours, seconds pydensecrf2, mean |ΔQ|, share of equal argmax)."""
    rows = []
    image, logits = photograph_and_logits("astronaut", size)
    energy = np.ascontiguousarray(-logits.reshape(LABELS, -1))
    for name in CASES:
        case = (name, image, energy)
        mine, other = (np.array(model(m, *case).inference(ITERATIONS)) for m in (ours, theirs))
        agreement = float(np.abs(mine - other).mean()), float((mine.argmax(0) == other.argmax(0)).mean())
        first, after, peer = in_turn(
            [
                lambda c=case: inference(ours, *c, forget=True),
                lambda c=case: inference(ours, *c),
                lambda c=case: inference(theirs, *c),
            ],
            runs,
        )
        rows.append((f"inference {name}, first", first, peer, *agreement))
        rows.append((f"inference {name}, next", after, peer, *agreement))
        stepped, peer = in_turn([lambda c=case: steps(ours, *c), lambda c=case: steps(theirs, *c)], runs)
        rows.append((f"steps and divergence {name}", stepped, peer, *agreement))
    return rows


def their_class(setting: Preset, image: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """The class of utils/dcrf.py with pydensecrf2."""
    labels, height, width = probabilities.shape
    crf = theirs.DenseCRF2D(width, height, labels)
    crf.setUnaryEnergy(np.ascontiguousarray(their_utils.unary_from_softmax(probabilities)))
    crf.addPairwiseGaussian(sxy=setting.theta_gamma, compat=setting.spatial_weight)
    crf.addPairwiseBilateral(
        sxy=setting.theta_alpha, srgb=setting.theta_beta, rgbim=np.ascontiguousarray(image),
        compat=setting.bilateral_weight,
    )  # fmt: skip
    return np.array(crf.inference(setting.iterations)).reshape(labels, height, width)


def our_class(setting: Preset, image: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    post = DenseCRF(
        setting.iterations, setting.spatial_weight, setting.theta_gamma, setting.bilateral_weight,
        setting.theta_alpha, setting.theta_beta,
    )  # fmt: skip
    return post(image, probabilities)


def argmax_of(function: Any, *case: Any) -> np.ndarray:
    """The result of a worker: labels, a fiftieth of the marginals' bytes."""
    return function(*case).argmax(0).astype(np.uint8)


Case = tuple[np.ndarray, np.ndarray]  # picture and probabilities


def softmax(logits: np.ndarray) -> np.ndarray:
    p = np.exp(logits - logits.max(0))
    return (p / p.sum(0)).astype(np.float32)


def photograph(size: int) -> list[Case]:
    image, logits = photograph_and_logits("astronaut", size)
    return [(image, softmax(logits))] * 4


def val_pictures() -> list[Case]:
    shared = shared_folder()
    if shared is None:
        raise SystemExit("no real pictures: name their folder in $CRFRNN_SHARED")
    unaries = DeepLabUnaries.load(shared / FOLDER / "unaries" / "val.npz")
    cases = []
    for item in list(voc_pictures(shared / FOLDER, "val"))[:PICTURES]:
        image = np.ascontiguousarray(item.image)
        cases.append((image, softmax(unaries.logits(item.id, image.shape[:2]).numpy())))
    return cases


def measure_class(cases: list[Case], where: str, runs: int) -> list[tuple[str, float, float, float, float]]:
    """The rows of `measure` for the class, seconds per picture: in a loop with all threads, and by joblib."""
    rows = []
    both = (our_class, their_class)
    with joblib.Parallel(n_jobs=PROCESSES) as parallel:
        for name in SETTINGS:
            setting = PRESETS[name]
            pairs = [[f(setting, *case) for f in both] for case in cases]
            agreement = (
                float(np.mean([np.abs(mine - other).mean() for mine, other in pairs])),
                float(np.mean([(mine.argmax(0) == other.argmax(0)).mean() for mine, other in pairs])),
            )
            alone = in_turn([lambda f=f, s=setting: [argmax_of(f, s, *c) for c in cases] for f in both], runs)
            shared = in_turn(
                [
                    lambda f=f, s=setting: parallel(joblib.delayed(argmax_of)(f, s, *c) for c in cases)
                    for f in both
                ],
                runs,
            )
            for how, seconds in (("a loop", alone), (f"{PROCESSES} processes of joblib", shared)):
                rows.append((f"class {name}, {where}, {how}", *(s / len(cases) for s in seconds), *agreement))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--size", type=int, default=500)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/results/compat.csv"))
    arguments = parser.parse_args()
    ready(parser, arguments.output)
    console = Console()
    machine, versions = machine_and_versions()
    with console.status("measuring, a minute or two"):
        rows = measure(arguments.runs, arguments.size) if "calls" in arguments.parts else []
        if "class" in arguments.parts:
            rows += measure_class(photograph(arguments.size), "photograph", arguments.runs)
        if "pictures" in arguments.parts:
            rows += measure_class(val_pictures(), f"{PICTURES} of val", arguments.runs)
    heads = ["what", "ours, s", "pydensecrf2, s", "mean |ΔQ|", "equal argmax"]
    table = Table(*heads, "times faster", title=f"{versions}; {machine}")
    for what, mine, peer, difference, equal in rows:
        table.add_row(
            what, f"{mine:.3f}", f"{peer:.3f}", f"{difference:.1e}", f"{equal:.5f}", f"{peer / mine:.2f}"
        )
    console.print(table)
    head = [*heads, "size", "versions", "machine"]
    write_csv(arguments.output, [head, *([*row, arguments.size, versions, machine] for row in rows)])
    console.print(arguments.output)


if __name__ == "__main__":
    main()
