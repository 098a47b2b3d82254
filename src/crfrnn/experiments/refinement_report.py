# SPDX-License-Identifier: MIT
"""The tables and pictures of a comparison of refiners, from the files in its folder."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from crfrnn.datasets import PictureSet
from crfrnn.datasets.pictures import spread
from crfrnn.evaluation import METRICS, Evaluation
from crfrnn.evaluation.tables import difference_lines, table, write_csv
from crfrnn.experiments.refinement import Result, read_result, result_file
from crfrnn.experiments.refiners import NAMES, NONE, OURS, Scene, after_crf, learned, refiner
from crfrnn.inference import Predictor
from crfrnn.io.files import PathLike, write_text
from crfrnn.io.images import read_image, write_png
from crfrnn.io.parameters import load_parameters
from crfrnn.io.scores import SMALLEST
from crfrnn.plots import rows_of_pictures

SHOWN = ("mean_iu", "trimap_iu", "boundary_iou", "boundary_f")
PHOTOGRAPHS = 4
_TRIMAP = 5


def write_refinement(
    folder: Path, sources: Sequence[str], judged: PictureSet, *, command: str = "", samples: int = 2000,
    seed: int = 0,
) -> Path:  # fmt: skip
    """Write refinement.md, .csv, _differences.csv, .json and SOURCE.png, from the finished methods.

    Args:
        sources: their folders in `folder`; those without a result are omitted.
        judged: the pictures of the evaluation.
        command: the command line, for the header.
        samples, seed: settings of the bootstrap.

    Returns: the Markdown file. Raises: ValueError if nothing is finished.
    """
    options: dict[str, Any] = {"samples": samples, "seed": seed}
    found = {name: results(folder / name) for name in sources}
    found = {name: by_method for name, by_method in found.items() if by_method}
    if not found:
        raise ValueError(f"refinement: expected a finished method in {str(folder)!r}, got none")
    text, scores, differences, whole = ["# Ways to refine", ""], [], [], {}
    if command:
        text += [f"Made with `{command}`.", ""]
    for name, by_method in found.items():
        text += _section(name, by_method, judged, options)
        for part in ("whole", "focus"):
            result = evaluation(by_method, judged, part)
            for line in _scores(result, by_method, options):
                scores.append([name, part, *line])
            pairs = [(m, o) for o in (NONE.name, OURS) for m in by_method if m != o and o in by_method]
            lines = [*difference_lines(result, pairs, options)][1:]
            differences += [[name, part, *line] for line in lines]
        whole[name] = {method: one.about for method, one in by_method.items()}
        write_png(_panel(by_method, judged), folder / f"{name}.png")
        text += [f"![The same pictures by every method, scores of {name}]({name}.png)", ""]
    metrics = [word for metric in SHOWN for word in (metric, f"{metric}_low", f"{metric}_high")]
    head = ["source", "labels", "method", *metrics, "seconds", "memory"]
    write_csv(folder / "refinement.csv", [head, *scores])
    head = ["source", "labels", "method", "minus", "metric", "difference", "low", "high", "clear_of_zero"]
    write_csv(folder / "refinement_differences.csv", [head, *differences])
    write_text(folder / "refinement.json", json.dumps(whole, indent=1))
    path = folder / "refinement.md"
    write_text(path, "\n".join(text).rstrip() + "\n")
    return path


def results(home: Path) -> dict[str, Result]:
    """The finished methods of a source, in the order of `NAMES`."""
    return {name: read_result(result_file(home, name)) for name in NAMES if result_file(home, name).is_file()}


def evaluation(by_method: Mapping[str, Result], judged: PictureSet, part: str) -> Evaluation:
    """The evaluation of all methods, on all labels ("whole") or on one against the rest ("focus").

    Raises: ValueError if they were evaluated on other pictures.
    """
    for name, one in by_method.items():
        if tuple(one.maps) != judged.ids:
            raise ValueError(
                f"{name}: expected results on the {len(judged)} pictures, got {len(one.maps)} others; "
                "name the folder's pictures, or a new folder"
            )
    counts = {name: dict(one.counts[part]) for name, one in by_method.items()}
    curves = {name: kinds.pop("curve") for name, kinds in counts.items()}
    labels = next(iter(curves.values())).shape[-1]
    known = part == "whole" and len(judged.class_names) == labels
    names = judged.class_names if known else tuple(map(str, range(labels)))
    return Evaluation(judged.ids, names, _TRIMAP, counts, curves)


def _section(
    name: str, by_method: Mapping[str, Result], judged: PictureSet, options: Mapping[str, Any]
) -> list[str]:
    text = [
        f"## Scores: {name}",
        "",
        f"{len(judged)} pictures; percent, [95 % bootstrap interval over pictures]; s: seconds per "
        "picture on one processor; MiB: peak above the start, first picture.",
    ]
    heads = [METRICS[metric].title for metric in SHOWN]
    for part, says in (("whole", "All labels"), ("focus", "One label against the rest")):
        chosen = {m: one for m, one in by_method.items() if part == "focus" or not one.about["two_labels"]}
        result = evaluation(chosen, judged, part)
        lines = []
        for method, one in chosen.items():
            cells = [result.interval(method, metric, **options).percent() for metric in SHOWN]
            lines.append([_title(one), *cells, *_cost(one.about)])
        text += ["", f"{says}:", "", table(["method", *heads, "s", "MiB"], lines)]
        for other in (NONE.name, OURS):
            if other not in chosen:
                continue
            lines = [
                [_title(one), *(result.difference(method, other, m, **options).percent() for m in SHOWN)]
                for method, one in chosen.items()
                if method != other
            ]
            if lines:
                text += [f"Minus {_title(chosen[other])}, paired over pictures:", ""]
                text += [table(["method", *heads], lines)]
    lines = [[_title(one), _numbers(one.about), _searched(one.about)] for one in by_method.values()]
    return [*text, "Numbers:", "", table(["method", "numbers", "search: first → best"], lines)]


def _title(one: Result) -> str:
    return one.about["title"]


def _cost(about: Mapping[str, Any]) -> list[str]:
    memory = about["memory"]
    return [f"{about['seconds']:.2f}", "–" if memory is None or math.isnan(memory) else f"{memory:.0f}"]


def _numbers(about: Mapping[str, Any]) -> str:
    shown = (f"{n} {v:.3g}" if isinstance(v, float) else f"{n} {v}" for n, v in about["numbers"].items())
    return ", ".join(shown) or "–"


def _searched(about: Mapping[str, Any]) -> str:
    trials = {trial["trial"]: trial["figure"] for trial in about["trials"]}
    if not trials:
        return "–"
    return f"{100 * trials[min(trials)]:.2f} → {100 * max(trials.values()):.2f}"


def _scores(
    result: Evaluation, by_method: Mapping[str, Result], options: Mapping[str, Any]
) -> Iterable[list[str]]:
    for method, one in by_method.items():
        line = [method]
        for metric in SHOWN:
            found = result.interval(method, metric, **options)
            line += [f"{100 * share:.4f}" for share in (found.value, found.low, found.high)]
        yield [*line, f"{one.about['seconds']:.4f}", f"{one.about['memory']:.1f}"]


def _panel(by_method: Mapping[str, Result], judged: PictureSet) -> Any:
    rows = [
        (item.id, item.image, [*(one.maps[item.id] for one in by_method.values()), item.mask])
        for item in judged.select(spread(judged.ids, PHOTOGRAPHS))
    ]
    return rows_of_pictures(rows, [*by_method, "truth"])


def draw_photographs(
    photographs: Sequence[PathLike], predictor: Predictor, home: Path, focus: int, path: Path
) -> None:
    """Apply a source's finished methods, with their numbers, to photographs with a network's scores.

    Args: photographs: files; home: the source's folder; focus: as in `RefinementConfig`; path: the PNG.
    """
    rows: list[tuple[str, NDArray[np.uint8], list[NDArray[np.int64]]]] = []
    by_method = results(home)
    for file in photographs:
        image = read_image(file)
        p = predictor(image, probabilities=True, use_crf=False).probabilities
        assert p is not None
        scene = Scene.of(Path(file).stem, image, torch.from_numpy(p).clamp_min(SMALLEST).log(), focus)
        maps = [_refiner(home, name, by_method).labels(scene, one.about["numbers"])
                for name, one in by_method.items()]  # fmt: skip
        rows.append((scene.id, image, maps))
    write_png(rows_of_pictures(rows, list(by_method)), path)


def _refiner(home: Path, name: str, by_method: Mapping[str, Result]) -> Any:
    if name == "crfrnn-learned":
        return learned(load_parameters(home / "crf.safetensors").crf)
    return after_crf(by_method[OURS].about["numbers"]) if name == "crfrnn-rankseg" else refiner(name)
