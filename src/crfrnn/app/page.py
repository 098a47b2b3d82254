# SPDX-License-Identifier: MIT
"""The layout of the page: three tabs, and the actions of their buttons."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from crfrnn.app.examples import Example, examples
from crfrnn.app.knobs import checked
from crfrnn.app.options import WORK_SIDE, Options
from crfrnn.app.parts import (
    AT_ONCE,
    EVENT,
    NO_PICTURE,
    Desk,
    Result,
    Sliders,
    Uploaded,
    draw,
    guarded,
    nothing,
    opened,
    read,
    result,
    sliders,
    upload,
    wire,
)
from crfrnn.app.photograph import Network, Photograph
from crfrnn.app.scores import Reading, Scores
from crfrnn.app.scribbles import MOST_LABELS, NAMES, Scribbles
from crfrnn.io.unaries import LAYOUTS, PICTURE_KINDS
from crfrnn.plots import safe_palette

PICTURES = [".bmp", ".gif", ".jpg", ".jpeg", ".png", ".ppm", ".tif", ".tiff", ".webp"]
ARRAYS = [".npy", ".npz", ".pt", ".pth", ".png"]
LEAD = """
# What a dense CRF does to your picture

A network, or a few strokes of yours, gives every pixel a first label, often a wrong one near the edges of
objects. A *conditional random field* (CRF) then compares every pixel with every other one: pixels that are
near each other and similar in colour favour the same label, so that labels end where objects end.
"""
FILES = (
    "The label map (PNG, one number per pixel), the picture with its labels, the areas as text, and the "
    "parameters of the CRF. The lines below write and read the same files."
)
KEEP = 3600  # seconds that pictures and results of a client are kept


def build(options: Options, folder: Path) -> gr.Blocks:
    """Build the page; this reads the network once.

    Args: folder: the folder for the examples.
    """
    network = Network.of(options)
    with gr.Blocks(title="crfrnn", analytics_enabled=False, delete_cache=(600, KEEP)) as page:
        gr.Markdown(LEAD, elem_classes=["lead"])
        with gr.Tabs(overflow_behavior="wrap"):
            with gr.Tab("Photograph", id="photo"):
                _photograph(options, network, folder)
            with gr.Tab("Scribbles", id="scribbles"):
                _scribbles(options, folder)
            with gr.Tab("Own scores", id="scores"):
                _scores(options)
    return page


def _desk() -> gr.State:
    return gr.State(Desk(), time_to_live=KEEP)


def _source(tab: str, folder: Path) -> tuple[gr.File, list[tuple[gr.Button, Callable[[], Uploaded]]]]:
    """The input of a photograph: a file, or one of the examples."""
    source = upload(
        label="Photograph", file_types=PICTURES,
        elem_id=f"{tab}-upload",
    )  # fmt: skip
    found = examples()
    buttons: list[tuple[gr.Button, Callable[[], Uploaded]]] = []
    if found:
        with gr.Row(elem_classes=["narrow-buttons"]):
            for example in found:
                name = example.title.lower()
                button = gr.Button(example.title, size="sm", min_width=60, elem_id=f"{tab}-{name}")
                buttons.append((button, _taker(example, folder)))
        credits = "; ".join(f"{example.title.lower()}: {example.credit}" for example in found)
        gr.Markdown(f"<small>Examples: {credits}.</small>")
    return source, buttons


def _taker(example: Example, folder: Path) -> Callable[[], Uploaded]:
    return lambda: Uploaded(example.write(folder), example.file)


def _open(
    source: gr.File,
    buttons: list[tuple[gr.Button, Callable[[], Uploaded]]],
    begin: Callable[..., Any],
    desk: gr.State,
    outputs: list[Any],
    options: Options,
) -> None:
    """Call `begin` with the desk and the uploaded file or the chosen example."""
    guard = guarded(options)
    sent = guard(begin)
    uploaded = source.upload(sent, [desk, source], outputs, **EVENT)
    uploaded.then(
        lambda: None, outputs=source, **AT_ONCE
    )  # so that another file, or the same one, can be dropped
    for button, take in buttons:
        taken = guard(lambda desk, take=take: begin(desk, take()))
        button.click(taken, desk, outputs, **EVENT)


def _photograph(options: Options, network: Network, folder: Path) -> None:
    desk = _desk()
    with gr.Row(elem_classes=["bench"]):
        with gr.Column(elem_classes=["source"]):
            source, buttons = _source("photo", folder)
        with gr.Column(elem_classes=["answer"]):
            out = result(
                "photo",
                "network alone",
                FILES,
                "Choose an example, or drop a photograph: its labels appear here.",
            )
        with gr.Column(elem_classes=["numbers"]):
            knobs = sliders("photo")

    def begin(desk: Desk, file: Uploaded | None) -> list[Any]:
        if file is None:
            raise ValueError(f"a photograph: expected a file, got none; {NO_PICTURE}")
        desk.bench = Photograph(file.path, file.name, network, options)
        return [desk, *opened(desk.bench, "photo")]

    _open(source, buttons, begin, desk, _all(desk, knobs, out), options)
    wire("photo", desk, knobs, out, options)


def _scribbles(options: Options, folder: Path) -> None:
    desk = _desk()
    with gr.Row(elem_classes=["bench"]):
        with gr.Column(elem_classes=["source"]):
            source, buttons = _source("scribbles", folder)
            count = gr.Slider(
                2, MOST_LABELS, value=2, step=1, label="Number of labels, the background included",
                elem_id="scribbles-count", buttons=[],
            )  # fmt: skip
            gr.Markdown(
                "Paint a stroke on the background and one on each object, or press *Box* and drag a box "
                "around one object; the CRF completes them. Their colours must differ."
            )
            colours = ["#{:02x}{:02x}{:02x}".format(*c) for c in safe_palette(MOST_LABELS).tolist()]
            pad = gr.HTML(
                value="[]", html_template=read("pad.html"), js_on_load=read("pad.js"),
                elem_id="scribbles-pad", picture="", names=list(NAMES[:2]), colours=colours,
            )  # fmt: skip
        with gr.Column(elem_classes=["answer"]):
            out = result(
                "scribbles", "colours alone",
                FILES + " The photograph, at most "
                f"{WORK_SIDE} pixels long here, and the strokes are included.",
                "Choose an example, or drop a photograph; then paint on it.",
            )  # fmt: skip
        with gr.Column(elem_classes=["numbers"]):
            knobs = sliders("scribbles")

    guard = guarded(options)

    def begin(desk: Desk, file: Uploaded | None) -> list[Any]:
        if file is None:
            raise ValueError(f"a photograph: expected a file, got none; {NO_PICTURE}")
        desk.bench = Scribbles(file.path, file.name, options)
        return [desk, gr.HTML(value="[]", picture=_data_url(desk.bench))]

    @guard
    def paint(desk: Desk, marks: str, labels: float, *values: float) -> list[Any]:
        bench = desk.bench
        if not isinstance(bench, Scribbles):
            return nothing(target, out.said, NO_PICTURE)
        bench.mark(marks, int(labels))
        if bench.missing:
            return nothing(target, out.said, f"Still to be painted: {bench.missing}.")
        if not bench.begun:
            bench.begun = True
            return opened(bench, "scribbles")
        return [*[gr.skip()] * (len(target) - len(out.shown)), *draw(bench, checked(values))]

    target = [knobs.preset, *knobs.set, *out.shown]
    _open(source, buttons, begin, desk, [desk, pad], options)
    event = {"trigger_mode": "always_last", "show_progress": "minimal", "show_progress_on": out.said}
    marked = [desk, pad, count, *knobs.knobs]
    pad.change(paint, marked, target, **event, **EVENT)
    renamed = count.change(lambda n: gr.HTML(names=list(NAMES[: int(n)])), count, pad, **AT_ONCE)
    renamed.then(paint, marked, target, **event, **EVENT)
    wire("scribbles", desk, knobs, out, options)


def _data_url(bench: Scribbles) -> str:
    """The photograph as a data URL for the pad."""
    buffer = io.BytesIO()
    Image.fromarray(bench.image).save(buffer, "JPEG", quality=90)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _scores(options: Options) -> None:
    desk = _desk()
    with gr.Row(elem_classes=["bench"]):
        with gr.Column(elem_classes=["source"]):
            gr.Markdown(
                "Scores of any network, with their photograph: each field is an option of `crfrnn refine`."
            )
            picture = upload(label="Photograph", file_types=PICTURES, elem_id="scores-picture")
            unary = upload(label="Its scores (--unary)", file_types=ARRAYS, elem_id="scores-unary")
            kind = gr.Dropdown(
                list(PICTURE_KINDS),
                value="logits",
                label="Kind of the scores (--kind)",
                elem_id="scores-kind",
            )
            layout = gr.Dropdown(
                list(LAYOUTS), value="lhw", label="Order of the axes (--layout)", elem_id="scores-layout",
                info="l labels, h rows, w columns; lhw is torch's, hwl TensorFlow's",
            )  # fmt: skip
            with gr.Accordion("More options", open=False):
                labels = gr.Number(
                    None, label="Number of labels (--labels)", precision=0, elem_id="scores-labels"
                )
                gt_prob = gr.Number(
                    Reading.gt_prob,
                    label="Probability of a given label (--gt-prob)",
                    elem_id="scores-gt-prob",
                )
                void = gr.Number(
                    None, label="Value of unlabelled pixels (--void)", precision=0, elem_id="scores-void"
                )
                key = gr.Textbox(
                    "", label="Entry of an .npz or .pt file (--key)", max_length=200, elem_id="scores-key"
                )
            go = gr.Button("Refine", variant="primary", elem_id="scores-go")
        with gr.Column(elem_classes=["answer"]):
            out = result(
                "scores", "scores alone", FILES, "Upload a photograph and its scores, then press Refine."
            )
        with gr.Column(elem_classes=["numbers"]):
            knobs = sliders("scores")

    @guarded(options)
    def begin(
        desk: Desk, file: Uploaded | None, scores: Uploaded | None, kind: str, layout: str | None,
        labels: float | None, gt_prob: float, void: float | None, key: str,
    ) -> list[Any]:  # fmt: skip
        if file is None or scores is None:
            what = "photograph" if file is None else "scores"
            raise ValueError(
                f"{what}: expected a file, got none; a photograph and its scores belong together"
            )
        of_labels = kind in ("labels", "scribbles")
        reading = Reading(
            kind, None if of_labels else layout, None if labels is None else int(labels), gt_prob,
            None if void is None else int(void), key or None,
        )  # fmt: skip
        desk.bench = Scores(file.path, file.name, scores.path, scores.name, reading, options)
        return [desk, *opened(desk.bench, "scores")]

    given = [desk, picture, unary, kind, layout, labels, gt_prob, void, key]
    go.click(begin, given, _all(desk, knobs, out), **EVENT)
    wire("scores", desk, knobs, out, options)


def _all(desk: gr.State, knobs: Sliders, out: Result) -> list[Any]:
    """The outputs for `[desk, *opened(bench)]`."""
    return [desk, knobs.preset, *knobs.set, *out.shown]
