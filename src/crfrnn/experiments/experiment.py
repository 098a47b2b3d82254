# SPDX-License-Identifier: MIT
"""A folder of runs, rows and reports: missing ones are trained and evaluated, finished ones are kept."""

from __future__ import annotations

import json
import platform
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from crfrnn.crf import CRFRNN
from crfrnn.crf.likeliest import likeliest
from crfrnn.datasets import LabelledPicture, PictureSet, UnaryDataset
from crfrnn.datasets.sources import Steps
from crfrnn.evaluation import Evaluator
from crfrnn.experiments.plans import Plan, Row, Run
from crfrnn.io import write_label_png
from crfrnn.io.files import new_folder, write_text
from crfrnn.io.outputs import check_new
from crfrnn.io.parameters import save_parameters
from crfrnn.training import TuneConfig, tune
from crfrnn.training.config import build, plain, yaml
from crfrnn.training.tune import RANGES

Say = Callable[[str], None]
UnaryOf = Callable[[LabelledPicture], Tensor]  # a picture → Float[L, H, W] before the CRF
RECORD = "experiment.json"
TUNED = tuple(name for name in RANGES if name != "temperature")


class Experiment(ABC):
    """The common part of all experiments; finished work in the folder is not repeated.

    ``runs/NAME`` are trainings, ``tuned.json`` the cross-validated parameters, ``rows/NAME`` a row's label
    maps (``labels/``), CRF parameters (``crf.safetensors``) and scores (``row.json``).

    Args:
        folder: created if missing.
        about: settings that must be equal to resume; configurations are compared by value, so that a folder
            written before a key existed can be resumed.
        judged: the pictures of the rows.
        num_labels: L.
        crf: settings of every CRF.
        tuning: the cross-validation; 0 trials keep the numbers of `crf`.
        origin: recorded in the parameter files.
        say, progress: called with lines, and with (what, done, total).
    """

    def __init__(
        self, folder: Path, about: Mapping[str, Any], *, judged: PictureSet, num_labels: int,
        crf: Mapping[str, Any], tuning: TuneConfig, origin: Mapping[str, Any],
        say: Say | None = None, progress: Steps | None = None,
    ) -> None:  # fmt: skip
        self.folder, self.judged, self.num_labels, self.tuning = folder, judged, num_labels, tuning
        self.say, self.progress, self.origin = say, progress, dict(origin)
        self.guide: Callable[[Tensor], Tensor] = lambda image: image  # preprocessing of the CRF's guide
        self.given = {name: value for name, value in crf.items() if name != "parameters"}
        self.settings = {n: v for n, v in self.given.items() if n not in (*RANGES, "preset")}
        reports = (f"{plan}.md" for plan in ("table1", "ablations", "unaries", "unary-ablations"))
        claim(folder, about, ("rows", "runs", "tuned.json", "tune.journal", *reports))

    @abstractmethod
    def unary(self, plan: Plan, name: str) -> UnaryOf:
        """The network of a run, trained if necessary."""

    @abstractmethod
    def learned(self, plan: Plan, name: str) -> CRFRNN | None:
        """The CRF of a run, trained if necessary."""

    @abstractmethod
    def tuning_data(self, plan: Plan) -> UnaryDataset:
        """The data for cross-validating the CRF."""

    def run(self, plan: Plan) -> None:
        """Train and evaluate the parts of the plan that are missing in the folder."""
        with denormals_as_zero():
            for row in plan.rows:
                if not (self.folder / "rows" / row.name / "row.json").is_file():
                    self._judge(plan, row)

    def numbers(self, plan: Plan) -> dict[str, float]:
        """The cross-validated bandwidths and kernel weights, searched unless they are in the folder."""
        known = self.folder / "tuned.json"
        if known.is_file():
            return json.loads(known.read_text(encoding="utf-8"))["numbers"]
        if self.tuning.trials == 0:
            return {}
        pictures, report = self.tuning_data(plan), self.progress
        self.tell(f"cross-validate the CRF on {len(pictures)} pictures")
        result = tune(
            pictures,
            replace(
                self.tuning,
                folds=min(self.tuning.folds, len(pictures)),
                ranges={name: self.tuning.ranges[name] for name in TUNED},
                settings=self.settings,
            ),
            study=self.folder / "tune.journal",
            report=report and (lambda what, number, done, total, _: report(f"{what} {number}", done, total)),
        )
        if result.interrupted:
            raise KeyboardInterrupt
        figures = {"all": result.counts.figures(), "validation": result.validation.figures()}
        write_text(known, json.dumps({"numbers": result.numbers, **figures}, indent=1))
        return result.numbers

    def start(self, plan: Plan, run: Run | None = None, **more: Any) -> CRFRNN:
        """A fresh CRF with the cross-validated parameters and the settings of experiment and run."""
        own = {} if run is None else run.crf
        return CRFRNN(self.num_labels, **{**more, **self.given, **self.numbers(plan), **own})

    def tell(self, line: str) -> None:
        if self.say:
            self.say(line)

    def record_run(self, name: str, about: Mapping[str, Any]) -> None:
        """Record that a run is finished; training resumes in a folder without this record."""
        write_text(self.folder / "runs" / name / "run.json", json.dumps({**about, **versions()}, indent=1))

    def finished(self, name: str) -> bool:
        return (self.folder / "runs" / name / "run.json").is_file()

    def _judge(self, plan: Plan, row: Row) -> None:
        """Write the row: label maps, scores, and the CRF's parameters if it has one."""
        unary, crf = self.unary(plan, row.run), self._crf_of(plan, row)
        home, pictures = self.folder / "rows" / row.name, self.judged
        (home / "labels").mkdir(parents=True, exist_ok=True)
        self.tell(f"judge {row.name} on {len(pictures)} pictures")
        names = pictures.class_names if len(pictures.class_names) == self.num_labels else ()
        evaluator = Evaluator(self.num_labels, class_names=names)
        begun = time.perf_counter()
        for done, item in enumerate(pictures, 1):
            with torch.no_grad():
                logits = unary(item)[None]
                if crf is not None:
                    crf = crf.eval().to(logits.device)
                    image = torch.from_numpy(item.image).permute(2, 0, 1)[None].to(logits.device)
                    logits = crf(logits, self.guide(image), iterations=row.iterations)
            labels = likeliest(logits[0])
            write_label_png(home / "labels" / f"{item.id}.png", labels.astype("uint8"))
            evaluator.update(item.id, item.mask, {row.name: labels})
            if self.progress:
                self.progress(f"judge {row.name}", done, len(pictures))
        if crf is not None:
            about = {"row": row.name, "experiment": plan.name, **self.origin}
            save_parameters(home / "crf.safetensors", crf.cpu(), class_names=names, provenance=about)
        scores = evaluator.compute().rows()[0]
        figures = {name: value if value == value else None for name, value in scores.items()}
        about = {"title": row.title, "run": row.run, "crf": row.crf, "iterations": row.iterations,
                 "pictures": len(pictures), "seconds": since(begun), "scores": figures}  # fmt: skip
        write_text(home / "row.json", json.dumps({**about, **versions()}, indent=1))

    def _crf_of(self, plan: Plan, row: Row) -> CRFRNN | None:
        if row.crf == "none":
            return None
        if row.crf == "default":
            return CRFRNN(self.num_labels, **self.settings)
        return self.start(plan) if row.crf == "tuned" else self.learned(plan, row.crf_of or row.run)


def claim(folder: Path, about: Mapping[str, Any], made: Iterable[str]) -> None:
    """Create the folder and record its purpose.

    Args:
        about: settings that must be equal to resume in it.
        made: names of the experiment's outputs, which are foreign files if there is no record.

    Raises: ValueError if it was started with other settings.
    """
    new_folder(folder, "folder")
    check_new(folder, made, "folder", RECORD)
    known = folder / RECORD
    if not known.is_file():
        text = {n: plain(asdict(v)) if is_dataclass(v) else plain(v) for n, v in about.items()}  # type: ignore[arg-type]
        write_text(known, json.dumps(text, indent=1))
        return
    before = json.loads(known.read_text(encoding="utf-8"))
    other = [name for name in {**before, **about} if not _same(before.get(name), about.get(name))]
    if other:
        raise ValueError(
            f"folder: expected a new one, or one of the same recipe and settings, got "
            f"{str(folder)!r}, which was started with another {other[0]}; name another"
        )


def _same(before: Any, value: Any) -> bool:
    if not is_dataclass(value):
        return before == plain(value)
    try:  # earlier records have the recipe as text
        content = yaml().safe_load(before) if isinstance(before, str) else before
        return build(type(value), content) == value
    except (ValueError, TypeError):
        return False


@contextmanager
def denormals_as_zero() -> Iterator[None]:
    """Flush denormal numbers to 0 in this thread, and restore its mode afterwards.

    Normalised ReLUs produce marginals so small that the processor is ten times slower on them; 0 is equally
    good. The caller may need denormals afterwards.
    """
    # torch cannot report the mode, so detect it by halving the smallest normal number.
    smallest = sys.float_info.min
    found = smallest / 2 == 0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(found)


def since(begun: float) -> float:
    return round(time.perf_counter() - begun, 1)


def versions() -> dict[str, str]:
    return {
        "torch": str(torch.__version__), "python": platform.python_version(), "machine": platform.machine()
    }  # fmt: skip
