# SPDX-License-Identifier: MIT
"""What every experiment does in its folder: claim it, cross-validate, judge a row, once each."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from crfrnn.crf import CRFRNN
from crfrnn.datasets import LabelledPicture, PictureSet, UnaryDataset
from crfrnn.datasets.sources import Steps
from crfrnn.evaluation import Evaluator
from crfrnn.experiments.plans import Row
from crfrnn.io import write_label_png
from crfrnn.io.files import new_folder, write_text
from crfrnn.io.outputs import check_new
from crfrnn.io.parameters import save_parameters
from crfrnn.training import TuneConfig, tune
from crfrnn.training.tune import RANGES

Say = Callable[[str], None]
RECORD = "experiment.json"
TUNED = tuple(name for name in RANGES if name != "temperature")


@dataclass(frozen=True)
class Folder:
    """A folder of rows: ``tuned.json``, ``rows/NAME/{row.json, labels/, crf.safetensors}``.

    Attributes:
        path: made by `claim`.
        say, progress: called with lines, and with (what, done, in all).
    """

    path: Path
    say: Say | None = None
    progress: Steps | None = None

    def claim(self, about: Mapping[str, Any]) -> None:
        """Write down what the folder is for; ValueError if it was begun for something else."""
        new_folder(self.path, "folder")
        reports = (f"{plan}.md" for plan in ("table1", "ablations", "unaries", "unary-ablations"))
        check_new(self.path, ("rows", "runs", "tuned.json", "tune.journal", *reports), "folder", RECORD)
        known, text = self.path / RECORD, json.dumps(about, indent=1)
        if not known.is_file():
            write_text(known, text)
        elif known.read_text(encoding="utf-8") != text:
            raise ValueError(
                f"folder: expected a new one, or one of the same recipe and settings, got "
                f"{str(self.path)!r}; name another"
            )

    def finished(self, row: Row) -> bool:
        return (self.path / "rows" / row.name / "row.json").is_file()

    def tell(self, line: str) -> None:
        if self.say:
            self.say(line)

    def numbers(self, data: Callable[[], UnaryDataset], config: TuneConfig) -> dict[str, float]:
        """The cross-validated numbers, searched on `data` unless the folder has them; none for 0 trials."""
        known = self.path / "tuned.json"
        if known.is_file():
            return json.loads(known.read_text(encoding="utf-8"))["numbers"]
        if config.trials == 0:
            return {}
        pictures, report = data(), self.progress
        self.tell(f"cross-validate the CRF on {len(pictures)} pictures")
        result = tune(
            pictures,
            replace(
                config,
                folds=min(config.folds, len(pictures)),
                ranges={name: config.ranges[name] for name in TUNED},
            ),
            study=self.path / "tune.journal",
            report=report and (lambda what, number, done, total, _: report(f"{what} {number}", done, total)),
        )
        if result.interrupted:
            raise KeyboardInterrupt
        figures = {"all": result.counts.figures(), "validation": result.validation.figures()}
        write_text(known, json.dumps({"numbers": result.numbers, **figures}, indent=1))
        return result.numbers

    def judge(
        self, row: Row, pictures: PictureSet, labels_of: Callable[[LabelledPicture], NDArray[Any]],
        num_labels: int, crf: CRFRNN | None, provenance: Mapping[str, Any],
    ) -> None:  # fmt: skip
        """Write the row: Int[H, W] label maps, scores, and the CRF's parameters if it has one."""
        home = self.path / "rows" / row.name
        (home / "labels").mkdir(parents=True, exist_ok=True)
        self.tell(f"judge {row.name} on {len(pictures)} pictures")
        names = pictures.class_names if len(pictures.class_names) == num_labels else ()
        evaluator = Evaluator(num_labels, class_names=names)
        begun = time.perf_counter()
        for done, item in enumerate(pictures, 1):
            labels = labels_of(item)
            write_label_png(home / "labels" / f"{item.id}.png", labels.astype("uint8"))
            evaluator.update(item.id, item.mask, {row.name: labels})
            if self.progress:
                self.progress(f"judge {row.name}", done, len(pictures))
        if crf is not None:
            about = {"row": row.name, **provenance}
            save_parameters(home / "crf.safetensors", crf.cpu(), class_names=names, provenance=about)
        scores = evaluator.compute().rows()[0]
        figures = {name: value if value == value else None for name, value in scores.items()}
        about = {"title": row.title, "run": row.run, "crf": row.crf, "iterations": row.iterations,
                 "pictures": len(pictures), "seconds": since(begun), "scores": figures}  # fmt: skip
        write_text(home / "row.json", json.dumps({**about, **versions()}, indent=1))


def since(begun: float) -> float:
    return round(time.perf_counter() - begun, 1)


def versions() -> dict[str, str]:
    return {
        "torch": str(torch.__version__), "python": platform.python_version(), "machine": platform.machine()
    }  # fmt: skip
