# SPDX-License-Identifier: MIT
"""Shared parts of the page's tabs: uploads, sliders, the result, and one-line errors."""

from __future__ import annotations

import functools
import html
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path, PurePosixPath
from typing import Any

import gradio as gr

from crfrnn.app.bench import Bench, Shown
from crfrnn.app.knobs import KNOBS, PAGE_PRESETS, Numbers, checked, numbers_of, preset_numbers
from crfrnn.app.options import Options
from crfrnn.inference import Area
from crfrnn.inference.prediction import areas_of, count_labels, percent
from crfrnn.plots import LEAST
from crfrnn.plots.drawing import UNTINTED, colours_of

HALVES = {"both": 50, "before": 100, "after": 0}  # position of the handle, in percent
OWN = "this picture's own"
EVENT: dict[str, Any] = {"api_visibility": "private", "concurrency_id": "crf", "concurrency_limit": 2}
AT_ONCE: dict[str, Any] = {"queue": False, "api_visibility": "private"}  # no computation, so no queue
NO_PICTURE = "Choose a photograph first. It is kept for an hour."
FAILURES = (ValueError, TypeError, OSError, ImportError)


def read(name: str) -> str:
    """The text of a file in this folder."""
    return files("crfrnn.app").joinpath(name).read_text(encoding="utf-8")


@dataclass(frozen=True)
class Uploaded:
    """An uploaded file: its path on the server, and the client's name for it."""

    path: Path
    name: str


def upload(**options: Any) -> gr.File:
    """An upload component that returns `Uploaded`, and never fetches a URL.

    Methods of an instance are replaced, because for a subclass Gradio writes a file of types next to its
    source.
    """
    component = gr.File(height=150, **options)
    cached, cached_now, read_payload = (
        component.async_move_resource_to_block_cache,
        component.move_resource_to_block_cache,
        component.preprocess,
    )

    async def cache(url_or_file_path: Any) -> str | None:
        _refuse_address(url_or_file_path)
        return await cached(url_or_file_path)

    def cache_now(url_or_file_path: Any) -> str | None:
        _refuse_address(url_or_file_path)
        return cached_now(url_or_file_path)

    def preprocess(payload: Any) -> Uploaded | None:
        path = read_payload(payload)
        return None if path is None else Uploaded(Path(str(path)), _name(payload, Path(str(path))))

    component.async_move_resource_to_block_cache = cache  # type: ignore[method-assign]
    component.move_resource_to_block_cache = cache_now  # type: ignore[method-assign]
    component.preprocess = preprocess  # type: ignore[method-assign, assignment]
    return component


def _name(payload: Any, path: Path) -> str:
    """The client's name of the file if it is a valid file name, else the server's name."""
    sent = getattr(payload, "orig_name", None) or ""
    name = PurePosixPath(sent.replace("\\", "/")).name
    usable = name.isprintable() and 0 < len(name) <= 120 and not name.startswith((".", "-"))
    return name if usable else path.name


def _refuse_address(path: Any) -> None:
    if str(path).lower().startswith(("http:", "https:", "ftp:", "data:")):
        raise gr.Error("a file: expected one from your machine, got an address; download it first")


@dataclass
class Desk:
    """The server's state of one client in one tab; `crfrnn.app.turns` gives it one request at a time."""

    bench: Bench | None = None


def guarded(options: Options) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorate a handler: one-line errors as in the commands, without server paths.

    The wrapped function receives the client's desk as its first argument.
    """

    def wrap(work: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(work)
        def run(desk: Desk | None, *given: Any) -> Any:
            desk = Desk() if desk is None else desk
            try:
                with options.work:
                    return work(desk, *given)
            except FAILURES as failure:
                raise error(line(failure, options, given)) from None
            except MemoryError:
                raise error(
                    "memory: expected enough for this picture, got too little; use a smaller one"
                ) from None

        return run

    return wrap


def line(failure: Exception, options: Options, given: tuple[Any, ...] = ()) -> str:
    """The message that a command would print."""
    said = " ".join((str(failure) or type(failure).__name__).split())
    for file in given:
        if isinstance(file, Uploaded):
            said = said.replace(repr(str(file.path)), repr(file.name)).replace(str(file.path), file.name)
    return options.worded(said)


def error(message: str) -> gr.Error:
    return gr.Error(
        html.escape(message, quote=False), duration=None, title="That did not work", print_exception=False
    )


@dataclass(frozen=True)
class Sliders:
    """The sliders, their presets and the reset button."""

    knobs: list[gr.Slider]
    marks: gr.HTML
    preset: gr.Dropdown
    reset: gr.Button

    @property
    def set(self) -> list[Any]:
        """The components that `set_sliders` updates, in order."""
        return [*self.knobs, self.marks]


def sliders(tab: str) -> Sliders:
    marks = gr.HTML(elem_classes=["marks"])
    with gr.Accordion("Adjust the CRF", open=True):
        with gr.Row():
            preset = gr.Dropdown(
                [OWN, *PAGE_PRESETS], value=OWN, label="Start from", elem_id=f"{tab}-preset", min_width=200
            )
            reset = gr.Button("Reset to defaults", size="sm", min_width=120)
        begun = preset_numbers("default")
        knobs = [
            gr.Slider(
                knob.low, knob.high, value=begun[knob.name], step=knob.step, label=knob.title,
                info=knob.meaning, elem_id=f"{tab}-{knob.name}", elem_classes=["knob"], buttons=[],
                interactive=True,
            )
            for knob in KNOBS
        ]  # fmt: skip
    return Sliders(knobs, marks, preset, reset)


def set_sliders(bench: Bench, numbers: Numbers, tab: str) -> list[Any]:
    """Updates of the sliders: the numbers, the defaults, and marks at the defaults."""
    own = numbers_of(bench.base)
    told = [
        gr.update(value=numbers[knob.name], info=f"{knob.meaning} Default: {own[knob.name]:g}.")
        for knob in KNOBS
    ]
    places = (
        f"#{tab}-{knob.name} {{--default: {(own[knob.name] - knob.low) / (knob.high - knob.low):.4f}}}"
        for knob in KNOBS
    )
    return [*told, f"<style>{' '.join(places)}</style>"]


def preset(bench: Bench, name: str) -> dict[str, float]:
    if name == OWN:
        return numbers_of(bench.base)
    if name not in PAGE_PRESETS:
        raise ValueError(f"preset: expected one of {', '.join(PAGE_PRESETS)}, got {name!r}")
    return preset_numbers(name)


@dataclass(frozen=True)
class Result:
    """The components that show a tab's result."""

    compare: gr.ImageSlider
    said: gr.HTML
    legend: gr.HTML
    uncertain: gr.Image
    film: gr.Gallery
    film_open: gr.State
    film_tab: gr.Tab
    make: gr.Button
    downloads: gr.File
    command: gr.Code
    python: gr.Code

    @property
    def shown(self) -> list[Any]:
        """The components that `draw` updates, in order."""
        return [
            self.compare,
            self.said,
            self.legend,
            self.uncertain,
            self.command,
            self.python,
            self.downloads,
        ]


def result(tab: str, before: str, files: str, hint: str) -> Result:
    """The right-hand side of a tab.

    Args: before, where the labels of the left half come from; files, what is written; hint, what to do first.
    """
    compare = gr.ImageSlider(
        label=f"{before} ◂ ▸ with the CRF", format="jpeg", interactive=False, elem_id=f"{tab}-compare",
        max_height=560, buttons=["fullscreen"],
    )  # fmt: skip
    handle = gr.Radio(
        list(HALVES), value="both", show_label=False, container=False, elem_id=f"{tab}-handle",
        elem_classes=["handle"],
    )  # fmt: skip
    said = gr.HTML(hint, elem_classes=["said"], elem_id=f"{tab}-said")
    film_open = gr.State(False)
    with gr.Tabs(overflow_behavior="wrap"):
        with gr.Tab("Areas") as first:
            legend = gr.HTML(elem_id=f"{tab}-legend")
        with gr.Tab("Uncertainty") as second:
            gr.Markdown("The stronger the orange, the less certain the label (entropy of the marginals).")
            uncertain = gr.Image(
                show_label=False, format="jpeg", interactive=False, elem_id=f"{tab}-uncertain",
                buttons=["fullscreen"], alt_text="The photograph in grey, orange where labels are uncertain",
            )  # fmt: skip
        with gr.Tab("After each iteration") as third:
            gr.Markdown("All labels are updated at once, T times; the first updates change most.")
            film = gr.Gallery(
                show_label=False, format="jpeg", interactive=False, columns=3, object_fit="contain",
                elem_id=f"{tab}-film", buttons=["fullscreen"], height="auto",
            )  # fmt: skip
        with gr.Tab("Download") as fourth:
            gr.Markdown(files)
            make = gr.Button("Create the files", variant="primary", elem_id=f"{tab}-make")
            downloads = gr.File(
                label="Files", file_count="multiple", interactive=False, visible=False, elem_id=f"{tab}-files"
            )
            code = gr.Code(
                label="The same as a command", language="shell", interactive=False, wrap_lines=True, lines=1,
                show_line_numbers=False, buttons=["copy"], elem_id=f"{tab}-command",
            )  # fmt: skip
            python = gr.Code(
                label="The same in Python", language="python", interactive=False, wrap_lines=True, lines=1,
                show_line_numbers=False, buttons=["copy"], elem_id=f"{tab}-python",
            )  # fmt: skip
    for other in (first, second, fourth):
        other.select(lambda: False, outputs=film_open, **AT_ONCE)
    handle.input(lambda half: gr.ImageSlider(slider_position=HALVES[half]), handle, compare, **AT_ONCE)
    return Result(compare, said, legend, uncertain, film, film_open, third, make, downloads, code, python)


def draw(bench: Bench, numbers: Numbers) -> list[Any]:
    """The updates of `Result.shown`."""
    shown = bench.show(numbers)
    return [
        (shown.before, shown.after),
        f"{100 * shown.prediction.changed:.1f} % of the pixels changed their label. "
        f"<small>{shown.seconds:.2f} s</small>",
        areas(bench, shown),
        shown.uncertain,
        bench.command(numbers),
        bench.python(numbers),
        gr.update(value=None, visible=False),
    ]


def areas(bench: Bench, shown: Shown) -> str:
    """A table: colour, name, share before and after."""
    found = shown.prediction
    before = {area.label: area for area in areas_of(count_labels(found.before), bench.names)}
    after = {area.label: area for area in areas_of(count_labels(found.labels), bench.names)}
    colours = colours_of(bench.palette)
    rows: list[tuple[float, str]] = []
    for label in sorted(before.keys() | after.keys()):
        shares = [_share(table.get(label)) for table in (before, after)]
        if max(shares) < LEAST:
            continue
        tint = "transparent" if label in UNTINTED else "#{:02x}{:02x}{:02x}".format(*colours[label].tolist())
        name = html.escape((after.get(label) or before[label]).name)
        cells = "".join(f'<td class="number">{percent(share)}</td>' for share in shares)
        swatch = f'<span class="swatch" style="background:{tint}"></span>'
        rows.append((-shares[1], f"<tr><td>{swatch}{name}</td>{cells}</tr>"))
    body = "".join(row for _, row in sorted(rows))
    titles = ("Label", "before", "with the CRF")
    head = "".join(
        f'<th scope="col"{" class=number" * (n > 0)}>{title}</th>' for n, title in enumerate(titles)
    )
    return f'<table class="legend"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def _share(area: Area | None) -> float:
    return 0.0 if area is None else area.share


def wire(tab: str, desk: gr.State, knobs: Sliders, out: Result, options: Options) -> None:
    """Connect the events of a tab: changed numbers, presets, reset, and writing files."""
    guard = guarded(options)

    @guard
    def turn(desk: Desk, *values: float) -> list[Any]:
        if desk.bench is None:
            return nothing(out.shown, out.said, NO_PICTURE)
        return draw(desk.bench, checked(values))

    @guard
    def begin(desk: Desk, name: str) -> list[Any]:
        if desk.bench is None:
            return nothing(target, out.said, NO_PICTURE)
        numbers = preset(desk.bench, name)
        return [*set_sliders(desk.bench, numbers, tab), *draw(desk.bench, numbers)]

    @guard
    def film(desk: Desk, wanted: bool, *values: float) -> Any:
        if desk.bench is None or not wanted:
            return gr.skip()
        return desk.bench.film(checked(values))

    @guard
    def write(desk: Desk, *values: float) -> Any:
        if desk.bench is None:
            raise ValueError(f"a picture: expected one, got none; {NO_PICTURE}")
        return gr.update(value=[str(path) for path in desk.bench.files(checked(values))], visible=True)

    # Of the events that occur during a request, only the last is sent.
    last = {"trigger_mode": "always_last", **EVENT}
    films = {"fn": film, "inputs": [desk, out.film_open, *knobs.knobs], "outputs": out.film, **last}
    gr.on(
        [knob.input for knob in knobs.knobs], turn, [desk, *knobs.knobs], out.shown, show_progress="minimal",
        show_progress_on=out.said, **last,
    ).then(**films)  # fmt: skip
    target = [*knobs.set, *out.shown]
    knobs.preset.input(begin, [desk, knobs.preset], target, **EVENT).then(**films)
    knobs.reset.click(lambda: OWN, None, knobs.preset, **AT_ONCE).then(
        begin, [desk, knobs.preset], target, **EVENT
    ).then(**films)
    out.film_tab.select(lambda: True, outputs=out.film_open, **AT_ONCE).then(**films)
    out.make.click(write, [desk, *knobs.knobs], out.downloads, **EVENT)


def nothing(outputs: list[Any], said: gr.HTML, words: str) -> list[Any]:
    """Update only the message."""
    return [words if component is said else gr.skip() for component in outputs]


def opened(bench: Bench, tab: str) -> list[Any]:
    """Updates of preset, sliders and result for a newly opened picture."""
    numbers = numbers_of(bench.base)
    return [OWN, *set_sliders(bench, numbers, tab), *draw(bench, numbers)]
