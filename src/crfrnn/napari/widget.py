# SPDX-License-Identifier: MIT
"""The widget: it infers a labels layer from layers and numbers, and updates it on every change."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from magicgui.widgets import (
    CheckBox,
    ComboBox,
    Container,
    FloatSlider,
    Label,
    PushButton,
    Select,
    Slider,
    SpinBox,
)
from napari.layers import Image, Labels
from napari.qt.threading import create_worker
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QApplication, QLabel

from crfrnn.crf.presets import Preset
from crfrnn.inference import Prediction
from crfrnn.napari.layers import as_python, place_of, request_of, spacing_of
from crfrnn.napari.refinement import Request, Session, default_preset
from crfrnn.plots.uncertainty import entropy

if TYPE_CHECKING:
    import napari.viewer

DELAY = 150  # ms without a change before an inference starts
BACKGROUND = 100  # default number of strokes for label 0
_PAINTED = ("data", "labels_update", "set_data", "scale", "translate")  # undo emits only set_data
_SHOWN = ("data", "contrast_limits", "scale", "translate")


@dataclass(frozen=True)
class _Answer:
    """A worker's return value: a result or a message."""

    request: Request
    found: Prediction | None = None
    message: str = ""
    seconds: float = 0.0


class RefineWidget(Container):
    """Refines labels, scores or strokes along an image; sliders take effect immediately.

    One inference runs at a time, in a napari thread. A change stops it at its next step (read, lattice,
    iterations); its result is discarded, and the latest state is inferred next.

    Args: napari_viewer: the viewer, passed by napari.
    """

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        self._viewer = napari_viewer
        self._session = Session()
        self._worker: Any = None
        self._waiting = False  # something changed since the worker started
        self._cancelled = False
        self._result: Labels | None = None
        self._doubt: Any = None  # an image layer
        self._shown: Request | None = None  # request and message of the shown result
        self._said = ""
        self._warnings: list[str] = []
        self._grid: tuple[int, float] = (
            0,
            0.0,
        )  # number of axes and smallest step that the lengths were set for
        self._watched: list[tuple[Any, Callable[..., Any]]] = []

        self.image = ComboBox(
            label="Image", choices=self._image_layers, tooltip="The image whose edges the labels follow"
        )
        self.scores = Select(
            label="Labels or scores",
            choices=self._score_layers,
            tooltip="A labels layer; an image layer with an axis of labels; or an image layer for each label",
        )
        self.kind = ComboBox(
            label="Scores are", choices=("probabilities", "logits"), value="probabilities",
            tooltip="The meaning of the numbers in image layers",
        )  # fmt: skip
        self.certainty = FloatSlider(
            label="Labels are right", min=0.5, max=0.99, step=0.01, value=0.7,
            tooltip="The probability that a given label is right",
        )  # fmt: skip
        self.scribbles = ComboBox(
            label="Strokes", choices=self._label_layers, nullable=True,
            tooltip="A labels layer whose painted pixels keep their label; 0 is free",
        )  # fmt: skip
        self.background = SpinBox(
            label="Number for label 0", min=1, max=2**31 - 1, value=BACKGROUND,
            tooltip="Strokes of this number mean label 0, which cannot be painted",
        )  # fmt: skip
        # Initial values and ranges of the sliders are set with the image, in its pixels.
        self.theta_alpha = FloatSlider(
            label="θα (reach)", tooltip="Bandwidth along the image, in the layer's unit"
        )
        self.theta_beta = FloatSlider(
            label="θβ (contrast)", min=1, max=100, step=0.1, tooltip="Colour bandwidth, in steps of 0..255"
        )
        self.theta_gamma = FloatSlider(
            label="θγ (smooth)", tooltip="Bandwidth of the smoothing, in the layer's unit"
        )
        self.spatial_weight = FloatSlider(label="Weight of smoothing", min=0, max=20, step=0.1)
        self.bilateral_weight = FloatSlider(label="Weight of the image", min=0, max=20, step=0.1)
        self.iterations = Slider(label="Iterations", min=0, max=20)
        self.uncertainty = CheckBox(
            text="Uncertainty", tooltip="The entropy of the marginals, 0..1, as an image layer"
        )
        self.live = CheckBox(text="Live", value=True, tooltip="Infer after every change")
        self.run = PushButton(text="Run")
        self.cancel = PushButton(text="Cancel", enabled=False)
        self.keep = PushButton(text="Keep result", tooltip="The next result goes to a new layer")
        self.defaults = PushButton(text="Defaults", tooltip="Reset lengths, weights and iterations")
        self.copy = PushButton(
            text="Copy as Python", tooltip="Copy code for napari's console that gives the same result"
        )
        self.status = Label(value="")
        label: QLabel = self.status.native
        label.setWordWrap(True)
        self.scores.max_height = 90
        row = Container(widgets=[self.run, self.cancel, self.keep], layout="horizontal", labels=False)
        rest = Container(widgets=[self.defaults, self.copy], layout="horizontal", labels=False)
        checks = Container(widgets=[self.live, self.uncertainty], layout="horizontal", labels=False)
        for container in (row, rest, checks):
            container.margins = (0, 0, 0, 0)
        super().__init__(
            widgets=[
                self.image, self.scores, self.kind, self.certainty, self.scribbles, self.background,
                self.theta_alpha, self.theta_beta, self.theta_gamma, self.spatial_weight,
                self.bilateral_weight, self.iterations, checks, row, rest, self.status,
            ]
        )  # fmt: skip

        self._timer = QTimer(self.native)
        self._timer.setSingleShot(True)
        self._timer.timeout.connect(self._follow)
        for event in (self._viewer.layers.events.inserted, self._viewer.layers.events.removed):
            event.connect(self._layers_changed)
        for chosen in (self.image, self.scores, self.scribbles):
            chosen.changed.connect(self._chosen)
        for value in (
            self.kind, self.certainty, self.background, self.theta_alpha, self.theta_beta, self.theta_gamma,
            self.spatial_weight, self.bilateral_weight, self.iterations, self.live,
        ):  # fmt: skip
            value.changed.connect(self._changed)
        self.uncertainty.changed.connect(self._run)
        self.run.changed.connect(self._run)
        self.cancel.changed.connect(self._cancel)
        self.keep.changed.connect(self._detach)
        self.defaults.changed.connect(self._to_defaults)
        self.copy.changed.connect(self._copy)
        self.native.destroyed.connect(self._leave)
        self._chosen()

    def infer(self) -> None:
        """Start an inference on the chosen layers now, or as soon as the running one has stopped."""
        self._timer.stop()
        if self._worker is not None:
            self._waiting = True
            self._worker.quit()
            return
        try:
            request = self.request()
        except (ValueError, TypeError) as error:
            self.status.value = str(error)
            return
        self._start(request)

    def _follow(self) -> None:
        """Infer if the request has changed: layers also emit other events, such as a change of slice."""
        if self._worker is None and self._result is not None and self._shown is not None:
            try:
                if self.request().same_as(self._shown):
                    self.status.value = self._said
                    return
            except (ValueError, TypeError):
                pass  # `infer` reports it
        self.infer()

    def _run(self, value: Any = None) -> None:
        self.infer()

    def _start(self, request: Request) -> None:
        self._waiting = self._cancelled = False
        self._warnings.clear()
        self._worker = create_worker(
            _answers,
            self._session,
            request,
            _start_thread=False,
            _ignore_errors=True,
            _connect={
                "yielded": self._say,
                "warned": self._warned,
                "returned": self._returned,
                "finished": self._finished,
            },
        )
        self.cancel.enabled = True
        self._worker.start()

    def stop(self) -> None:
        """Stop the running inference at its next step and discard its result."""
        self._timer.stop()
        self._waiting = False
        if self._worker is not None:
            self._cancelled = True
            self._worker.quit()
            self.status.value = "cancelled"

    def _copy(self, value: Any = None) -> None:
        clipboard = QApplication.clipboard()
        try:
            code = self.python()
        except (ValueError, TypeError) as error:
            self.status.value = str(error)
            return
        if clipboard is not None and code:
            clipboard.setText(code)

    def _cancel(self, value: Any = None) -> None:
        self.stop()

    def request(self) -> Request:
        """The request of the chosen layers and numbers; ValueError if one is missing or does not fit."""
        image, scores, scribbles = self._layers()
        if image is None:
            raise ValueError("Open an image.")
        if not scores and scribbles is None:
            raise ValueError("Choose labels or scores, or a layer with strokes of at least two labels.")
        return request_of(
            image,
            scores,
            scribbles,
            self._preset(),
            kind=str(self.kind.value),
            gt_prob=round(float(self.certainty.value), 6),
            background=int(self.background.value),
        )

    def python(self) -> str:
        """Code for napari's console that gives the shown labels."""
        image, scores, scribbles = self._layers()
        return "" if image is None else as_python(image, scores, scribbles, self.request())

    def _layers(self) -> tuple[Image | None, list[Labels | Image], Labels | None]:
        scribbles: Any = self.scribbles.value
        image: Any = self.image.value
        scores: Any = [layer for layer in self.scores.value if layer is not scribbles]
        return image, scores, scribbles

    def _preset(self) -> Preset:
        # A slider shows few digits; round its value to remove noise in the others.
        values = (
            self.theta_alpha, self.theta_beta, self.theta_gamma, self.spatial_weight, self.bilateral_weight
        )  # fmt: skip
        numbers = [float(f"{float(slider.value):.6g}") for slider in values]
        return Preset(*numbers, iterations=int(self.iterations.value))

    def _image_layers(self, widget: Any = None) -> list[Image]:
        own = (self._result, self._doubt)
        return [layer for layer in self._viewer.layers if isinstance(layer, Image) and layer not in own]

    def _label_layers(self, widget: Any = None) -> list[Labels]:
        return [x for x in self._viewer.layers if isinstance(x, Labels) and x is not self._result]

    def _score_layers(self, widget: Any = None) -> list[Labels | Image]:
        return [*self._label_layers(), *(layer for layer in self._image_layers() if not layer.rgb)]

    def _layers_changed(self, event: Any = None) -> None:
        if self._result is not None and self._result not in self._viewer.layers:
            self._result = None
        if self._doubt is not None and self._doubt not in self._viewer.layers:
            self._doubt = None
        self.reset_choices()

    def _chosen(self, value: Any = None) -> None:
        """After the choice of another layer, watch its changes, and set lengths in its pixels."""
        self._unwatch()
        image, scores, scribbles = self._layers()
        for layer in {*scores, *filter(None, (image, scribbles))}:
            for name in _PAINTED if isinstance(layer, Labels) else _SHOWN:
                emitter = getattr(layer.events, name)
                emitter.connect(self._changed)
                self._watched.append((emitter, self._changed))
        of_labels = any(isinstance(layer, Labels) for layer in scores)
        self.certainty.enabled = of_labels
        self.kind.enabled = bool(scores) and not of_labels
        self.background.enabled = scribbles is not None
        if image is not None and self._grid != self._grid_of(image):
            self._to_defaults()
        self._changed()

    def _grid_of(self, image: Image) -> tuple[int, float]:
        spacing = spacing_of(image)
        return len(spacing), min(spacing)

    def _to_defaults(self, value: Any = None) -> None:
        image: Any = self.image.value
        if image is None:
            return
        self._grid = self._grid_of(image)
        preset, pixel = default_preset(spacing_of(image)), self._grid[1]
        for slider, length, most in (
            (self.theta_alpha, preset.theta_alpha, 160 * pixel),
            (self.theta_gamma, preset.theta_gamma, 20 * pixel),
        ):  # fmt: skip
            slider.max = max(float(slider.max), most)  # first, so that no value is ever out of range
            slider.min, slider.step = pixel / 4, pixel / 20
            slider.value = length
            slider.max = most
        self.theta_beta.value = preset.theta_beta
        self.spatial_weight.value, self.bilateral_weight.value = (
            preset.spatial_weight,
            preset.bilateral_weight,
        )
        self.iterations.value = preset.iterations

    def _changed(self, event: Any = None) -> None:
        if self.live.value:
            self._timer.start(DELAY)

    def _say(self, what: str) -> None:
        if not self._cancelled:
            self.status.value = f"{what} …"

    def _warned(self, warning: tuple[Any, ...]) -> None:
        self._warnings.append(str(warning[0]))

    def _returned(self, answer: _Answer) -> None:
        if self._waiting or self._cancelled:
            return  # the layers have changed since then
        if answer.found is None:
            self.status.value = answer.message
            return
        self._show(answer.found)
        self._shown = answer.request
        said = f"{answer.seconds:.2g} s, {answer.found.changed:.1%} of the labels changed"
        self.status.value = self._said = "\n".join([said, *self._warnings])

    def _finished(self) -> None:
        self._worker = None
        self.cancel.enabled = False
        if self._waiting:
            self.infer()

    def _show(self, found: Prediction) -> None:
        image: Any = self.image.value
        labels = found.labels.astype(np.uint8 if found.labels.max() <= 255 else np.int32)
        if self._result is not None and self._result.data.shape == labels.shape:
            self._result.data = labels
        else:
            self._detach()
            self._result = Labels(labels, name=f"{image.name} refined", **place_of(image))
            self._viewer.add_layer(self._result)
        if not self.uncertainty.value:
            return
        p = found.probabilities
        doubt = entropy(p.reshape(len(p), 1, -1)).reshape(p.shape[1:])
        if self._doubt is not None:
            self._doubt.data = doubt
        else:
            name = f"{image.name} uncertainty"
            self._doubt = Image(doubt, name=name, contrast_limits=(0, 1), opacity=0.6, **place_of(image))
            self._viewer.add_layer(self._doubt)

    def _detach(self, value: Any = None) -> None:
        """Keep the layers of the last result unchanged."""
        self._result = self._doubt = None
        self.reset_choices()

    def _unwatch(self) -> None:
        for emitter, callback in self._watched:
            emitter.disconnect(callback)
        self._watched.clear()

    def _leave(self, native: Any = None) -> None:
        """Disconnect everything after the widget was closed."""
        self._waiting, self._cancelled = False, True
        self._unwatch()
        for event in (self._viewer.layers.events.inserted, self._viewer.layers.events.removed):
            event.disconnect(self._layers_changed)
        if self._worker is not None:
            self._worker.quit()


def _answers(session: Session, request: Request) -> Generator[str, None, _Answer]:
    """The steps of an inference; errors are returned as messages, since some would end the worker."""
    start = time.perf_counter()
    try:
        found = yield from session.steps(request)
    except (ValueError, TypeError, RuntimeError, MemoryError) as error:
        return _Answer(request, message=str(error) or type(error).__name__)
    return _Answer(request, found, seconds=time.perf_counter() - start)
