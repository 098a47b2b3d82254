# SPDX-License-Identifier: MIT
"""Shared by all commands: one-line errors, progress, and options that build a CRF or find unaries.

At the top, the modules of this folder import only what declares options; the rest is imported inside
functions, so that help and usage errors do not load torch.
"""

from __future__ import annotations

import functools
import math
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as package_version
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from crfrnn import signals
from crfrnn.commands.progress import Bar
from crfrnn.commands.wording import in_options, options_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from crfrnn.crf import CRFRNN
    from crfrnn.datasets import DeepLabUnaries, FolderUnaries, PictureSet, UnaryDataset
    from crfrnn.datasets.sources import Steps
    from crfrnn.io import SavedParameters

state = SimpleNamespace(debug=False, options={})
out, err = Console(highlight=False, soft_wrap=True), Console(stderr=True, highlight=False, soft_wrap=True)
USAGE = 2

Params = Annotated[Path | None, typer.Option("--params", help="Parameter file from fit or tune.")]
Preset = Annotated[
    str | None,
    typer.Option(
        "--preset",
        help="Named parameters: default, deeplab, crfasrnn; of projects that use pydensecrf: irn, "
        "affinitynet, seam, clip-es, more, excel, weclip, afa, dupl, seco, toco, cutler, manga.",
    ),
]
ThetaAlpha = Annotated[float | None, typer.Option("--theta-alpha", help="Bilateral bandwidth, pixels.")]
ThetaBeta = Annotated[
    float | None, typer.Option("--theta-beta", help="Bilateral bandwidth, colour steps (0..255).")
]
ThetaGamma = Annotated[float | None, typer.Option("--theta-gamma", help="Spatial bandwidth, pixels.")]
SpatialWeight = Annotated[
    float | None, typer.Option("--spatial-weight", help="Weight of the spatial kernel.")
]
BilateralWeight = Annotated[
    float | None, typer.Option("--bilateral-weight", help="Weight of the bilateral kernel.")
]
Iterations = Annotated[int | None, typer.Option("--iterations", "-T", help="Mean-field iterations.")]
Quality = Annotated[
    str, typer.Option("--quality", help="Quality of the lattice: classic, default, high, finest.")
]
GuideComponents = Annotated[
    int | None,
    typer.Option("--guide-components", help="Project the guide's bands onto this many principal components."),
]
Labels = Annotated[int | None, typer.Option("--labels", help="Number of labels.")]
Unaries = Annotated[
    str, typer.Option("--unaries", help="A folder of files named like the pictures, or deeplab:FILE.npz.")
]
Kind = Annotated[str, typer.Option("--kind", help="logits, probabilities, labels or scribbles.")]
Layout = Annotated[
    str | None,
    typer.Option("--layout", "--axes", help="Axes of the file: lhw, hwl, … (l labels, h rows, w columns)."),
]
GtProb = Annotated[float, typer.Option("--gt-prob", help="Probability of a given label (labels, scribbles).")]
Scale = Annotated[
    tuple[float, float] | None,
    typer.Option("--scale", help="LOW HIGH: values of the guide that become 0 and 255."),
]
Void = Annotated[
    int | None, typer.Option("--void", help="Value of unlabelled pixels in masks and label maps (255).")
]
Key = Annotated[str | None, typer.Option("--key", help="Entry of an .npz or .pt file.")]
Root = Annotated[
    Path, typer.Argument(help="VOC development kit, or a folder with images/ and masks/.", show_default=False)
]
Split = Annotated[str, typer.Option("--split", help="List of a VOC development kit.")]
SkipExisting = Annotated[
    bool,
    typer.Option("--skip-existing", help="Keep results that an earlier run with the same settings finished."),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Overwrite files of other settings or origin, except inputs.")
]
Limit = Annotated[int | None, typer.Option("--limit", help="Use only this many pictures, evenly spaced.")]


def reported(command: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a command: each warning is one line, and an error that users can fix is one line with exit code 2.

    A stop signal unwinds the command, prints one line and exits with 128 + its number, as in shells.
    """

    @functools.wraps(command)
    def run(*arguments: Any, **options: Any) -> Any:
        state.options, state.command = options, command
        try:
            with signals.answered(signals.unwind), warnings_as_lines():
                return command(*arguments, **options)
        except KeyboardInterrupt:
            raise stopped() from None
        except (ValueError, TypeError, OSError, ImportError) as error:
            if state.debug:
                traceback.print_exc()
            else:
                show_error(str(error) or type(error).__name__)
            raise typer.Exit(USAGE) from None

    return run


def stopped(kept: str = "every existing file is complete") -> typer.Exit:
    """Report that a signal stopped the work, and what is kept; returns the exception to raise."""
    err.print(f"stopped by {signals.name()}; {kept}", style="red", markup=False)
    return typer.Exit(signals.status())


def _worded(message: str) -> str:
    command = getattr(state, "command", None)
    return message if command is None else in_options(message, options_of(command))


def show_error(message: str) -> None:
    err.print(f"error: {_worded(message)}", style="red", markup=False)


def show_warning(message: str) -> None:
    err.print(f"warning: {_worded(message)}", style="yellow", markup=False)


@contextmanager
def warnings_as_lines() -> Iterator[None]:
    """Print each of Python's warnings once, on one line, without its place in the source.

    Of warnings that differ only in names and numbers, such as those about the pictures of a folder, three are
    printed and the rest are counted.
    """
    shown = 3  # of a kind
    seen: set[str] = set()
    kinds: Counter[str] = Counter()
    first: dict[str, str] = {}

    def show(message: Warning | str, *_: object) -> None:
        from crfrnn.io.problems import kind_of

        text = " ".join(str(message).split())
        if text in seen:
            return
        seen.add(text)
        kind = kind_of(text)
        kinds[kind] += 1
        first.setdefault(kind, text)
        if kinds[kind] <= shown:
            show_warning(text)

    with warnings.catch_warnings():
        warnings.showwarning = show
        try:
            yield
        finally:
            for kind, count in kinds.items():
                if count > shown:
                    show_warning(f"{count - shown} more like: {first[kind]}")


def print_version(asked: bool) -> None:
    if asked:
        out.print(f"crfrnn {own_version()}")
        raise typer.Exit


def own_version() -> str:
    try:
        return package_version("crfrnn")
    except PackageNotFoundError:  # run from a source tree without installation
        return "not installed"


def progress(log: Path | None = None) -> Bar:
    """A progress display on the error stream, and as lines in `log`."""
    return Bar(err, log)


@contextmanager
def task_bars(log: Path | None = None) -> Iterator[Steps]:
    """A callback (what, done, total) that shows one bar for the current task."""
    with progress(log) as bar:
        tasks: dict[str, int] = {}

        def steps(what: str, done: int, total: int) -> None:
            for other in [task for task in tasks if task != what]:
                bar.remove_task(tasks.pop(other))
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done, total=total)

        yield steps


def epoch_report(bar: Bar) -> Callable[[str, int, int, int, float], None]:
    """The `report` argument of fit and tune as one line of a bar."""
    task = bar.add_task("", total=None)

    def report(what: str, number: int, done: int, total: int, value: float) -> None:
        bar.update(task, description=f"{what} {number}  {value:.4f}", completed=done, total=total)

    return report


def build_crf(
    num_labels: int | None, params: Path | None, preset: str | None, iterations: int | None, **numbers: Any
) -> SavedParameters:
    """The CRF from a parameter file, or from a preset and options.

    Raises: ValueError if both are given, or the file has another number of labels.
    """
    from crfrnn.crf import CRFRNN
    from crfrnn.crf.binary import for_two_labels, label_names
    from crfrnn.io import SavedParameters, load_parameters

    given = {name: value for name, value in numbers.items() if value is not None and name != "quality"}
    if params is not None:
        if preset is not None or given:
            also = "--preset" if preset is not None else "--" + next(iter(given)).replace("_", "-")
            raise ValueError(f"--params: expected alone, got {also} too; the file holds these numbers")
        saved = load_parameters(params)
        saved = replace(saved, crf=for_two_labels(saved.crf), class_names=label_names(saved.class_names))
        if num_labels is not None and saved.crf.num_labels != num_labels:
            raise ValueError(
                f"--params: expected parameters for {num_labels} labels, got {saved.crf.num_labels} in "
                f"{str(params)!r}; the unary and the file must have the same labels"
            )
        if iterations is not None:
            saved.crf.iterations, saved.crf.eval_iterations = check_iterations(iterations), None
        return saved
    if num_labels is None:
        raise ValueError("--labels: expected the number of labels, got none")
    settings = layer_settings(numbers.get("quality") or "default", iterations)
    return SavedParameters(CRFRNN(num_labels, preset=preset, **given, **settings).eval())


def layer_settings(quality: str, iterations: int | None) -> dict[str, Any]:
    """The arguments of `CRFRNN` common to all commands that build one."""
    given = {} if iterations is None else {"iterations": check_iterations(iterations)}
    return {"quality": quality, **given}


def check_iterations(iterations: int) -> int:
    if iterations < 0:
        raise ValueError(f"--iterations: expected at least 0, got {iterations}; 0 returns the unary")
    return iterations


def pictures(root: Path, split: str, num_labels: int | None, void: int | None = None) -> PictureSet:
    """A VOC development kit if there is one under `root`, else a folder with images/ and masks/."""
    from crfrnn.datasets import folder_pictures, voc_pictures
    from crfrnn.io import VOID

    if (root / "images").is_dir():
        return folder_pictures(root, num_labels=num_labels, void=void)
    if void not in (None, VOID):
        raise ValueError(f"--void: expected {VOID} for a VOC development kit, got {void}; omit it")
    return voc_pictures(root, split)


def check_limit(limit: int | None) -> int | None:
    if limit is not None and limit < 1:
        raise ValueError(f"--limit: expected at least 1, got {limit}")
    return limit


def unary_source(spec: str, **options: Any) -> FolderUnaries | DeepLabUnaries:
    """`deeplab:FILE.npz`, or a folder with a file per picture."""
    from crfrnn.datasets import DeepLabUnaries, FolderUnaries
    from crfrnn.io.unaries import check_reading

    kind, _, rest = spec.partition(":")
    if kind == "deeplab" and rest:
        return DeepLabUnaries.load(Path(rest))
    folder = Path(spec)
    if not folder.is_dir():
        raise ValueError(
            f"--unaries: expected a folder or deeplab:FILE.npz, got {spec!r}; check the spelling"
        )
    options = {"axes": options.pop("layout", None), **options}
    check_reading(options["kind"], options["axes"], options["num_labels"])
    return FolderUnaries(folder, options)


def labelled(
    root: Path, split: str, limit: int | None, labels: int | None, void: int | None = None
) -> tuple[PictureSet, int]:
    """Pictures with masks, and their number of labels: VOC's, or as given."""
    found = pictures(root, split, labels, void).some(check_limit(limit))
    count = labels or len(found.class_names)
    if count < 1:
        raise ValueError("--labels: expected the number of labels for a plain folder of pictures, got none")
    if void is None and count > 1:
        found.ask_about_white()
    return found, count


def dataset(
    root: Path, split: str, limit: int | None, spec: str, labels: int | None, void: int | None, **options: Any
) -> UnaryDataset:
    """Pictures with masks and unaries."""
    from crfrnn.datasets import UnaryDataset

    found, count = labelled(root, split, limit, labels, void)
    source = unary_source(spec, num_labels=count, unknown=void, **options)
    check_unaries(source, found)
    return UnaryDataset(found, source, count)


def check_unaries(source: Any, found: PictureSet) -> None:
    """ValueError, before any work, with the number of pictures that have no unary in the folder."""
    from crfrnn.datasets import FolderUnaries

    if isinstance(source, FolderUnaries):
        check_each("--unaries", found.ids, source.find)


def check_each(option: str, ids: Sequence[str], find: Callable[[str], Any]) -> None:
    """Call `find` for every id and collect its ValueErrors into one, with one line per kind."""
    from crfrnn.io.problems import by_kind

    problems = {}
    for name in ids:
        try:
            find(name)
        except ValueError as error:
            problems[name] = str(error)
    if problems:
        lines = "\n  ".join(by_kind(list(problems.values()), list(problems)))
        raise ValueError(
            f"{option}: expected a file for each of the {len(ids)} pictures, got {len(problems)} problems; "
            f"correct these, or take fewer pictures:\n  {lines}"
        )


def class_names(found: PictureSet, num_labels: int) -> tuple[str, ...]:
    return found.class_names if len(found.class_names) == num_labels else ()


def settings(*without: str) -> dict[str, Any]:
    """The options of the running command, for `crfrnn.io.outputs.claim`.

    Args: without: names of options that results do not depend on, besides the output options.
    """
    left_out = {"output", "overwrite", "skip_existing", "context", *without}
    return {name: value for name, value in state.options.items() if name not in left_out}


def write_probabilities(path: Path, probabilities: NDArray[np.float32]) -> None:
    """Write an .npz with the single entry `probabilities`, atomically."""
    import numpy as np

    from crfrnn.io import atomic

    with atomic(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, probabilities=probabilities)


def figures_line(figures: dict[str, float]) -> str:
    """Mean IU 68.53, trimap 54.92, …, in percent; only the figures that could be measured."""
    titles = {"mean_iu": "mean IU", "trimap_iu": "trimap IU", "pixel_accuracy": "pixel accuracy"}
    known = {name: figures[name] for name in titles if not math.isnan(figures.get(name, math.nan))}
    parts = [f"{titles[name]} {100 * value:.2f}" for name, value in known.items()]
    return ", ".join([*parts, f"loss {figures['loss']:.4f}"] if "loss" in figures else parts)


def layer_line(crf: CRFRNN) -> str:
    """The parameters of a CRF on one line; weights as means over labels."""
    names = ("theta_alpha", "theta_beta", "theta_gamma", "temperature")
    logs = {name: getattr(crf, f"log_{name}") for name in names}
    shown = [
        f"{name} {'/'.join(f'{v:.3g}' for v in log.detach().exp().reshape(-1).tolist())}"
        for name, log in logs.items()
        if log is not None
    ]
    for name in ("spatial_weights", "bilateral_weights"):
        value = getattr(crf, name).detach()
        mean = float((value.diagonal() if value.ndim == 2 else value).mean())
        shown.append(f"mean {name.removesuffix('s')} {mean:.3g}")
    return ", ".join(shown)
