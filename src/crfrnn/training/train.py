# SPDX-License-Identifier: MIT
"""Training by a recipe: its stages in sequence, each resumable."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from crfrnn.crf import CRFRNN
from crfrnn.crf.binary import for_two_labels
from crfrnn.datasets import PictureSet, SegmentationDataset, prepare, reduced
from crfrnn.datasets.sources import Steps
from crfrnn.extras import install_line
from crfrnn.io.files import atomic, new_folder, write_text
from crfrnn.io.outputs import check_new
from crfrnn.io.parameters import load_parameters
from crfrnn.models import (
    FCN,
    DeepLab,
    LiteFPN,
    Segmenter,
    build_network,
    load_deeplab,
    load_lite0,
    load_vgg16,
)
from crfrnn.models.fcn import STAGES
from crfrnn.models.pretrained import CONFIG, WEIGHTS
from crfrnn.training.loader import mixed
from crfrnn.training.processes import closed_group, is_first
from crfrnn.training.recipe import PRECISIONS, NetworkChoice, Recipe, Stage, load_recipe, save_recipe
from crfrnn.training.run_files import BEST, Interrupted, StopRequest, best_epoch, write_log

Say = Callable[[str], None]


@dataclass(frozen=True)
class TrainingSets:
    """The pictures of a run: training sets by the names used in stages, and the validation set."""

    train: Mapping[str, PictureSet]
    val: PictureSet | None
    num_labels: int
    class_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Training:
    """The result of a run: the segmenter in evaluation mode, its folder, and a line per epoch.

    Attributes:
        best: the folder of the last stage's best epoch by validation mean IU; None without a validation.
        best_line: its line of the history.
    """

    segmenter: Segmenter
    folder: Path
    history: tuple[dict[str, Any], ...]
    best: Path | None = None
    best_line: dict[str, Any] | None = None


def read_sets(recipe: Recipe, progress: Steps | None = None) -> TrainingSets:
    """The data sets that the recipe's stages need, checked as `crfrnn.datasets.prepare` does.

    Raises: ValueError that lists all problems of the data, before any training.
    """
    data, found = recipe.data, {}
    val: PictureSet | None = None
    for group in dict.fromkeys(recipe.group(stage) for stage in recipe.stages if recipe.data.train):
        found[group], val = prepare(
            [choice.source(data.root) for choice in data.train[group]],
            [choice.source(data.root) for choice in data.val],
            decode=data.decode,
            leaks=data.leaks,
            progress=progress,
        )
    if not found or val is None:
        raise ValueError("data: expected sources for train and val, got none; see docs/training.md")
    names = val.class_names
    known = [*found.values(), val]
    num_labels = max(max(len(s.class_names), *(item.num_labels or 0 for item in s)) for s in known)
    if num_labels < 1:
        raise ValueError(
            "data: expected labels.txt or the option num_labels of a folder, got neither; write the labels' "
            "names to labels.txt in the folder, one per line, or write in the recipe: "
            "{kind: folder, root: FOLDER, options: {num_labels: 2}}"
        )
    if data.long_side is not None:
        found = {name: reduced(part, data.long_side) for name, part in found.items()}
        val = reduced(val, data.long_side)
    return TrainingSets(found, val.some(data.validate), num_labels, names)


def build_segmenter(recipe: Recipe, num_labels: int, class_names: tuple[str, ...] = ()) -> Segmenter:
    """The segmenter that a recipe starts with; the seed determines its random weights.

    Raises: ValueError for settings that the network or the CRF rejects, or a start file that does not fit.
    """
    choice = recipe.network
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mixed(recipe.seed, 0))
        network = build_network(choice.name, num_labels=num_labels, **choice.arguments)
    _fill(network, choice)
    return Segmenter(network, build_crf(recipe, num_labels), class_names=class_names)


def build_crf(recipe: Recipe, num_labels: int) -> CRFRNN:
    """The CRF that a recipe starts with, from its settings or from a parameter file.

    Raises: ValueError for settings that `CRFRNN` rejects, or a file with another number of labels.
    """
    settings = dict(recipe.crf)
    saved = settings.pop("parameters", None)
    if saved is None:
        try:
            return CRFRNN(num_labels, **settings)
        except TypeError as error:
            raise ValueError(f"crf: expected arguments of CRFRNN, got {settings}: {error}") from error
    if settings:
        raise ValueError("crf: expected parameters: FILE alone, or settings, got both")
    crf = for_two_labels(load_parameters(saved).crf)
    if crf.num_labels != num_labels:
        raise ValueError(f"crf: expected parameters for {num_labels} labels, got {crf.num_labels}")
    return crf


def _fill(network: torch.nn.Module, choice: NetworkChoice) -> None:
    own = {name: value.clone() for name, value in network.state_dict().items()}
    unknown = [start for start in choice.fresh if not any(name.startswith(start) for name in own)]
    if unknown:
        raise ValueError(
            f"network.fresh: expected prefixes of names such as {next(iter(own))}, got {', '.join(unknown)}"
        )
    _start(network, choice)
    if choice.fresh:
        fresh = {name: value for name, value in own.items() if name.startswith(choice.fresh)}
        network.load_state_dict({**network.state_dict(), **fresh})


def _start(network: torch.nn.Module, choice: NetworkChoice) -> None:
    if choice.start == "none":
        return
    if choice.start == "imagenet":
        if not isinstance(network, LiteFPN):
            raise ValueError(f"network.start: expected a file of weights for {choice.name!r}, got 'imagenet'")
        load_lite0(network)
        return
    path = Path(choice.start)
    if isinstance(network, FCN | DeepLab) and path.is_file() and not _is_segmenter(path):
        if isinstance(network, FCN):
            load_vgg16(network, path)
        else:
            load_deeplab(network, path)
        return
    source = Segmenter.from_pretrained(path).network
    if isinstance(network, DeepLab) and isinstance(source, DeepLab):
        load_deeplab(network, source.state_dict())  # which may have other labels
        return
    try:
        network.load_state_dict(source.state_dict())
    except RuntimeError as error:
        raise ValueError(f"network.start: expected weights of {choice.name!r} in {path}: {error}") from error
    network.preprocessing = getattr(source, "preprocessing", None)  # type: ignore[assignment]


def _is_segmenter(path: Path) -> bool:
    from safetensors import safe_open

    if path.suffix != ".safetensors":
        return False
    with safe_open(path, framework="pt") as stream:
        return "config" in (stream.metadata() or {})


@closed_group()
def train(
    recipe: Recipe, folder: str | Path, *, sets: TrainingSets | None = None, start: Segmenter | None = None,
    say: Say | None = None, progress: Steps | None = None, trainer: Mapping[str, Any] | None = None,
    keep_best: bool = True, stop_after: int | None = None,
) -> Training:  # fmt: skip
    """Run all stages of a recipe; repeating the call resumes an interrupted run, bit for bit.

    Writes into `folder`: ``recipe.yaml``, ``log.csv``, for each stage ``last.ckpt`` and the segmenter in
    ``segmenter/``, and at the end the final segmenter (``model.safetensors``, ``config.json``). The best
    epoch's segmenter is kept too, in ``best/`` of each stage and, for the last stage, of `folder`.

    Args:
        recipe: see `crfrnn.training.recipe.Recipe`.
        folder: created if missing; a folder of another recipe or of other pictures is rejected.
        sets: the pictures; None reads those of the recipe.
        start: the segmenter to train instead of the recipe's network and CRF.
        say, progress: called with lines, and with (what, done, total).
        keep_best: also keep the epoch with the highest validation mean IU.
        trainer: further arguments of `lightning.pytorch.Trainer`: ``accelerator``, ``devices``, ….
        stop_after: act as if Ctrl-C was pressed after this many batches.

    Raises:
        Interrupted: Ctrl-C or SIGTERM; its ``checkpoint`` is where the run resumes.
        NotFinite: NaN or infinity, naming the part that produced it.
        ValueError: invalid data, recipe or folder. ImportError: no lightning.
    """
    place, first = Path(folder), is_first()
    say, progress = (say, progress) if first else (None, None)
    _claim(place, recipe)
    sets = sets or read_sets(recipe, progress)
    _same_pictures(place, sets)
    segmenter = start or build_segmenter(recipe, sets.num_labels, sets.class_names)
    history: list[dict[str, Any]] = []
    stop = StopRequest(stop_after)
    for number, stage in enumerate(recipe.stages):
        home = place / stage.name
        new_folder(home, "folder")
        segmenter = _next_network(segmenter, stage)
        segmenter.long_side = recipe.data.long_side
        done = home / "done.json"
        if done.is_file():
            segmenter = Segmenter.from_pretrained(home / "segmenter", network=segmenter.network)
            history += json.loads(done.read_text(encoding="utf-8"))
            continue
        if say:
            say(f"stage {stage.name}: {stage.epochs} epoch{'' if stage.epochs == 1 else 's'}")
        with stop:
            told = {"say": say, "progress": progress, "keep_best": keep_best}
            lines = _run(segmenter, recipe, stage, number, sets, home, dict(trainer or {}), stop, told)
            segmenter.eval()
            if first:
                segmenter.save_pretrained(home / "segmenter")
                write_text(done, json.dumps(lines))
                (home / "last.ckpt").unlink(missing_ok=True)
        history += lines
        if stop.asked and number + 1 < len(recipe.stages):
            raise Interrupted(home / "segmenter")
    segmenter.eval().requires_grad_(True)
    best = _best(place, history) if keep_best else None
    if first:
        segmenter.save_pretrained(place)
        write_log(place / "log.csv", history)
        if best is not None:
            _copy_files(place / best["stage"] / BEST, place / BEST)
    return Training(segmenter, place, tuple(history), place / BEST if best else None, best)


def _best(place: Path, history: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The log line of the last stage's best epoch, if that stage was validated."""
    last = [line for line in history if line["stage"] == history[-1]["stage"]]
    number = best_epoch([line["val_mean_iu"] for line in last])
    if number is None or not (place / last[number]["stage"] / BEST).is_dir():
        return None
    return dict(last[number])


def _copy_files(source: Path, target: Path) -> None:
    """Copy a folder's files atomically to another one, as hard links if the file system supports them."""
    target.mkdir(exist_ok=True)
    for file in source.iterdir():
        with atomic(target / file.name) as temporary:
            try:
                os.link(file, temporary)
            except OSError:
                shutil.copyfile(file, temporary)


def _claim(place: Path, recipe: Recipe) -> None:
    new_folder(place, "folder")
    known = place / "recipe.yaml"
    names = (WEIGHTS, CONFIG, "log.csv", "data.json", BEST, *(stage.name for stage in recipe.stages))
    check_new(place, names, "folder", known.name)
    if known.is_file() and load_recipe(known) != recipe:  # keys newer than the file have defaults
        raise ValueError(
            f"folder: expected a new one, or one of the same recipe, got {str(place)!r}, whose recipe.yaml "
            "differs; name another folder, or continue with --recipe FOLDER/recipe.yaml"
        )
    save_recipe(recipe, known)


def _same_pictures(place: Path, sets: TrainingSets) -> None:
    """Record the pictures that a run is trained on, or compare them with those it was started with."""
    parts = {**sets.train, **({} if sets.val is None else {"val, looked at": sets.val})}
    found = {n: {"pictures": len(part), "fingerprint": part.fingerprint()} for n, part in parts.items()}
    known = place / "data.json"
    if not known.is_file():  # also for a run older than this file
        write_text(known, json.dumps(found, indent=1))
        return
    before = json.loads(known.read_text(encoding="utf-8"))
    other = [name for name in {**before, **found} if before.get(name) != found.get(name)]
    if other:
        name = other[0]
        then, now = (part.get(name, {"pictures": 0, "fingerprint": "none"}) for part in (before, found))
        raise ValueError(
            f"data: expected the {then['pictures']} pictures of {name!r} that the run in {str(place)!r} "
            f"started with (fingerprint {then['fingerprint']}), got {now['pictures']} "
            f"({now['fingerprint']}); restore those pictures, or name another folder to start again"
        )


def _next_network(segmenter: Segmenter, stage: Stage) -> Segmenter:
    if stage.network is None:
        return segmenter
    kind = STAGES.get(stage.network)
    if kind is None or not isinstance(segmenter.network, FCN):
        raise ValueError(f"network: expected one of {', '.join(STAGES)} after another, got {stage.network!r}")
    if isinstance(segmenter.network, kind):
        return segmenter
    network = kind.from_stage(segmenter.network)
    return Segmenter(network, segmenter.crf, guide=segmenter.guide, class_names=segmenter.class_names)


def _run(
    segmenter: Segmenter, recipe: Recipe, stage: Stage, number: int, sets: TrainingSets, home: Path,
    options: dict[str, Any], stop: StopRequest, told: dict[str, Any],
) -> list[dict[str, Any]]:  # fmt: skip
    if stage.epochs == 0:
        return []
    lightning()
    from crfrnn.training.checkpoint import StageFiles
    from crfrnn.training.module import SegmentationModule

    seed = mixed(recipe.seed, number + 1)
    data = SegmentationDataset(sets.train[recipe.group(stage)], stage.transform, seed=seed)
    module = SegmentationModule(
        segmenter, stage, data, SegmentationDataset(sets.val) if sets.val else None,
        num_labels=sets.num_labels, seed=seed, backbone=recipe.network.backbone,
    )  # fmt: skip
    shown = told["progress"] is None and sys.stderr.isatty()
    usual = {"logger": _logger(recipe, home), "default_root_dir": str(home), "enable_progress_bar": shown}
    run_stage(module, StageFiles(home, recipe.checkpoint_minutes, stop, **told), **{**usual, **options})
    module.to("cpu")
    return [dict(line) for line in module.place.history]


def run_stage(module: Any, files: Any, **options: Any) -> None:
    """Train a `SegmentationModule` to the end of its stage, starting at the checkpoint of its `StageFiles`.

    Raises: Interrupted if a stop was requested. ImportError: no lightning.
    """
    stage, stop = module.stage, files.stop
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about workers, logging intervals etc., which the recipe sets
        run = lightning().Trainer(
            **{
                "accelerator": "auto", "devices": 1, "callbacks": [files],
                "max_epochs": stage.epochs, "precision": PRECISIONS[stage.precision],
                "accumulate_grad_batches": stage.accumulate, "gradient_clip_val": stage.clip,
                "num_sanity_val_steps": 0, "reload_dataloaders_every_n_epochs": 1,
                "use_distributed_sampler": False, "enable_model_summary": False,
                "enable_checkpointing": True, "log_every_n_steps": 1, **options,
            }
        )  # fmt: skip
        begun = files.path if files.path.is_file() else None
        try:
            if begun is not None and module.val is not None and module.trained_in(begun):
                run.validate(module, ckpt_path=begun, verbose=False, weights_only=True)
            run.fit(module, ckpt_path=begun, weights_only=True)
        except (RuntimeError, SystemExit) as error:  # a worker killed by the signal; Lightning's handler
            if "DataLoader worker" in str(error):
                time.sleep(1)  # the worker may have received the signal first
            if not stop.asked:
                raise
            raise Interrupted(files.path) from error


def _logger(recipe: Recipe, home: Path) -> Any:
    if recipe.log == "csv":
        return False  # one line per epoch is written by StageFiles
    from lightning.pytorch.loggers import TensorBoardLogger

    return TensorBoardLogger(home, name="tensorboard", version="")


def lightning() -> Any:
    """Lightning, with warnings only; ImportError with the remedy if it is missing."""
    try:
        import lightning.pytorch as found
    except ImportError as error:
        raise ImportError(f"training needs lightning: {install_line('train')}") from error
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return found
