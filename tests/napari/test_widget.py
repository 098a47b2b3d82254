# SPDX-License-Identifier: MIT
"""The napari widget, offscreen: results equal those for arrays and follow changes, and napari finds it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
pytest.importorskip("napari.layers", reason="napari is not installed")
pytest.importorskip("qtpy.QtWidgets", reason="no Qt is installed", exc_type=ImportError)

from napari.components import ViewerModel
from qtpy.QtWidgets import QApplication

from crfrnn.napari import default_preset, refine_arrays, refinement
from crfrnn.napari.widget import RefineWidget

pytestmark = pytest.mark.slow
RNG = np.random.default_rng(0)
PICTURE = np.kron(RNG.integers(0, 200, (4, 5)), np.ones((8, 8))) + RNG.normal(0, 5, (32, 40))
MAP = (PICTURE + RNG.normal(0, 60, PICTURE.shape) > 100).astype(int) * 3
VOLUME = np.stack([PICTURE[:16, :20]] * 5)


@pytest.fixture(scope="module")
def application() -> QApplication:
    found = QApplication.instance() or QApplication([])
    assert isinstance(found, QApplication)
    return found


@pytest.fixture
def viewer(application: QApplication, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A viewer without a window; an error in a slot, with which Qt would end the process, fails the test."""
    errors: list[BaseException] = []
    monkeypatch.setattr(sys, "excepthook", lambda kind, error, trace: errors.append(error))
    yield ViewerModel()
    application.processEvents()
    assert not errors


def until(true: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "nothing happened"
        QApplication.processEvents()
        time.sleep(0.005)


def settle(widget: RefineWidget) -> None:
    """Wait until all changes are processed."""
    until(lambda: not widget._timer.isActive() and widget._worker is None and not widget._waiting)


def refined(viewer: Any) -> np.ndarray:
    (layer,) = (layer for layer in viewer.layers if layer.name.endswith("refined"))
    return np.asarray(layer.data)


def test_it_refines_labels_again_for_every_slider(viewer: Any) -> None:
    image = viewer.add_image(PICTURE, name="cells", contrast_limits=(10, 190))
    labels = viewer.add_labels(MAP, name="nuclei")
    widget = RefineWidget(viewer)
    settle(widget)
    assert widget.image.value is image and widget.status.value.startswith("Choose labels")
    widget.scores.value = [labels]
    settle(widget)
    assert np.array_equal(refined(viewer), refine_arrays(PICTURE, MAP, limits=(10, 190)).labels)
    assert "% of the labels changed" in widget.status.value and len(viewer.layers) == 3
    wanted = {"theta_alpha": 20.0, "theta_beta": 30.0, "theta_gamma": 2.0, "spatial_weight": 2.0,
              "bilateral_weight": 6.0, "iterations": 3}  # fmt: skip
    for name, value in wanted.items():
        getattr(widget, name).value = value
    widget.certainty.value = 0.6
    settle(widget)
    expected = refine_arrays(PICTURE, MAP, limits=(10, 190), gt_prob=0.6, **wanted)
    assert np.array_equal(refined(viewer), expected.labels)
    image.contrast_limits = (50, 100)
    settle(widget)
    expected = refine_arrays(PICTURE, MAP, limits=(50, 100), gt_prob=0.6, **wanted)
    assert np.array_equal(refined(viewer), expected.labels)
    widget.defaults.changed.emit(True)
    assert widget.request().preset == default_preset((1.0, 1.0))


def test_painting_updates_the_result_and_strokes_are_kept(viewer: Any) -> None:
    viewer.add_image(PICTURE, name="cells")
    strokes = viewer.add_labels(np.zeros((32, 40), int), name="strokes")
    widget = RefineWidget(viewer)
    widget.scribbles.value = strokes
    settle(widget)
    assert "at least two labels" in widget.status.value and len(viewer.layers) == 2
    strokes.data_setitem((np.full(9, 4), np.arange(9)), 100)
    strokes.data_setitem((np.full(9, 20), np.arange(9)), 2)
    settle(widget)
    found = refined(viewer)
    assert (found[4, :9] == 0).all() and (found[20, :9] == 2).all() and set(np.unique(found)) == {0, 2}
    strokes.undo()
    settle(widget)
    assert "at least two labels" in widget.status.value


@pytest.mark.parametrize("form", ["axis", "each"])
def test_it_refines_the_probabilities_of_a_volume(viewer: Any, form: str) -> None:
    p = np.exp(RNG.normal(size=(3, *VOLUME.shape)))
    p = (p / p.sum(0)).astype(np.float32)
    place = {"scale": (3.0, 0.5, 0.5), "translate": (1.0, 2.0, 3.0)}
    viewer.add_image(VOLUME, name="ct", contrast_limits=(0, 200), **place)
    if form == "axis":
        scores = [viewer.add_image(p, name="p", scale=(1, 3.0, 0.5, 0.5), translate=(0, 1.0, 2.0, 3.0))]
    else:
        scores = [viewer.add_image(q, name=f"p{k}", **place) for k, q in enumerate(p)]
    widget = RefineWidget(viewer)
    widget.image.value = viewer.layers["ct"]
    widget.scores.value = scores
    settle(widget)
    widget.uncertainty.value = True
    settle(widget)
    expected = refine_arrays(VOLUME, p, spacing=(3.0, 0.5, 0.5), limits=(0, 200), kind="probabilities")
    assert np.array_equal(refined(viewer), expected.labels), widget.status.value
    layer = viewer.layers["ct refined"]
    assert tuple(layer.scale) == (3.0, 0.5, 0.5) and tuple(layer.translate) == (1.0, 2.0, 3.0)
    q = expected.probabilities.astype(np.float64)
    doubt = np.asarray(viewer.layers["ct uncertainty"].data)
    np.testing.assert_allclose(doubt, -(q * np.log(q.clip(1e-30))).sum(0) / np.log(3), atol=1e-5)


def test_a_result_that_is_kept_is_not_overwritten_and_can_be_refined(viewer: Any) -> None:
    viewer.add_image(PICTURE, name="cells", contrast_limits=(0, 200))
    labels = viewer.add_labels(MAP, name="nuclei")
    widget = RefineWidget(viewer)
    widget.scores.value = [labels]
    settle(widget)
    first = viewer.layers["cells refined"]
    assert first not in widget.scores.choices
    widget.keep.changed.emit(True)
    assert first in widget.scores.choices and widget.scores.value == [labels]
    before = np.array(first.data)
    widget.bilateral_weight.value = 19
    settle(widget)
    assert len(viewer.layers) == 4 and np.array_equal(first.data, before)
    viewer.layers.remove("cells refined [1]")
    widget.bilateral_weight.value = 1
    settle(widget)
    assert len(viewer.layers) == 4


def test_only_the_newest_of_many_changes_is_shown(viewer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first inference is delayed; a change in the meantime cancels it, and it is never shown."""
    go, ran = threading.Event(), []
    problem = refinement._problem

    def slow(request: Any, *rest: Any) -> Any:
        ran.append(request.preset.iterations)
        assert go.wait(60)
        return problem(request, *rest)

    monkeypatch.setattr(refinement, "_problem", slow)
    viewer.add_image(PICTURE, name="cells", contrast_limits=(0, 200))
    labels = viewer.add_labels(MAP, name="nuclei")
    widget = RefineWidget(viewer)
    widget.scores.value = [labels]
    until(lambda: len(ran) == 1)
    for iterations in (7, 8, 9):
        widget.iterations.value = iterations
        until(lambda: not widget._timer.isActive())
    assert widget.cancel.enabled
    go.set()
    settle(widget)
    assert ran == [5, 9]
    assert np.array_equal(refined(viewer), refine_arrays(PICTURE, MAP, limits=(0, 200), iterations=9).labels)


def test_cancel_shows_nothing(viewer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    go, begun, problem = threading.Event(), threading.Event(), refinement._problem

    def slow(*arguments: Any) -> Any:
        begun.set()
        assert go.wait(60)
        return problem(*arguments)

    monkeypatch.setattr(refinement, "_problem", slow)
    viewer.add_image(PICTURE, name="cells")
    labels = viewer.add_labels(MAP, name="nuclei")
    widget = RefineWidget(viewer)
    widget.scores.value = [labels]
    until(begun.is_set)
    widget.cancel.changed.emit(True)
    go.set()
    settle(widget)
    assert widget.status.value == "cancelled" and len(viewer.layers) == 2 and not widget.cancel.enabled
    widget.run.changed.emit(True)
    settle(widget)
    assert len(viewer.layers) == 3


@pytest.mark.parametrize("case", ["labels", "rgb", "scores"])
def test_the_copied_python_gives_the_same_labels(viewer: Any, case: str) -> None:
    strokes = np.zeros((32, 40), int)
    strokes[3:5, 4:30], strokes[20, 4:30] = 1, 100
    if case == "rgb":
        viewer.add_image(np.repeat(PICTURE.clip(0, 255)[..., None], 3, -1).astype(np.uint8), name="a 'photo'")
    else:
        viewer.add_image(PICTURE, name="cells", scale=(2.0, 0.5))
    place = {"scale": viewer.layers[0].scale}
    if case == "labels":
        chosen = [viewer.add_labels(MAP // 3, name="nuclei", **place)]
    else:
        chosen = [
            viewer.add_image(0.2 + 0.6 * q, name=n, **place)
            for q, n in ((MAP // 3, "a"), (1 - MAP // 3, "b"))
        ]
    widget = RefineWidget(viewer)
    widget.image.value = viewer.layers[0]
    widget.scores.value = chosen
    widget.scribbles.value = viewer.add_labels(strokes, name="strokes", **place)
    widget.theta_beta.value = 17.3
    settle(widget)
    found = refined(viewer)
    assert (found[3:5, 4:30] == 1).all() and (found[20, 4:30] == 0).all(), widget.status.value
    widget.copy.changed.emit(True)
    QApplication.processEvents()
    code = QApplication.clipboard().text()
    assert code == widget.python() and len(code) > 100
    exec(code, {"viewer": viewer})
    assert np.array_equal(viewer.layers[-1].data, found)
    assert tuple(viewer.layers[-1].scale) == tuple(viewer.layers[0].scale)


def test_mismatched_layers_are_reported_in_the_widget(viewer: Any) -> None:
    widget = RefineWidget(viewer)
    settle(widget)
    assert widget.status.value == "Open an image."
    viewer.add_image(PICTURE, name="cells", scale=(2.0, 2.0))
    labels = viewer.add_labels(MAP, name="nuclei")
    small = viewer.add_labels(MAP[:9], name="small", scale=(2.0, 2.0))
    widget.scores.value = [labels]
    settle(widget)
    assert "'nuclei': expected scale [2.0, 2.0]" in widget.status.value
    exec(widget.status.value.split("set it: ")[1], {"viewer": viewer})
    settle(widget)
    assert "changed" in widget.status.value
    widget.scores.value = [small]
    settle(widget)
    assert "scores: expected" in widget.status.value or "expected labels [32, 40]" in widget.status.value
    widget.scores.value = [labels, small]
    settle(widget)
    assert "expected one layer of labels" in widget.status.value


def test_lengths_are_counted_in_the_pixels_of_the_image(viewer: Any) -> None:
    viewer.add_image(PICTURE, name="fine", scale=(0.1, 0.1))
    widget = RefineWidget(viewer)
    assert widget.theta_alpha.value == pytest.approx(3.4) and widget.theta_alpha.max == pytest.approx(16)
    viewer.add_image(VOLUME, name="coarse", scale=(4.0, 2.0, 2.0))
    widget.image.value = viewer.layers["coarse"]
    assert widget.theta_alpha.value == pytest.approx(8) and widget.theta_gamma.value == pytest.approx(2)
    assert widget.theta_gamma.max == pytest.approx(40)


def test_a_closed_widget_receives_no_events(viewer: Any) -> None:
    image = viewer.add_image(PICTURE, name="cells")
    labels = viewer.add_labels(MAP, name="nuclei")
    widget = RefineWidget(viewer)
    widget.scores.value = [labels]
    widget.infer()
    widget._leave()
    image.contrast_limits = (0, 9)
    until(lambda: widget._worker is None)
    viewer.add_labels(MAP, name="other")
    assert len(viewer.layers) == 3


MANIFEST = """
import json, sys
from importlib.metadata import EntryPoint, distribution
from npe2 import PluginManager, PluginManifest
entry = EntryPoint("crfrnn", "crfrnn:napari.yaml", "napari.manifest")
found = PluginManifest._from_entrypoint(entry, distribution("crfrnn"))
heavy = sorted({"torch", "qtpy"} & set(sys.modules))
PluginManager.instance().register(found)
(offered,) = [w for w in PluginManager.instance().iter_widgets() if w.plugin_name == "crfrnn"]
print(json.dumps([heavy, offered.display_name, offered.get_callable().__name__]))
"""

VIEWER = """
import json, sys
import numpy as np
from importlib.metadata import EntryPoint, distribution
from npe2 import PluginManager, PluginManifest
entry = EntryPoint("crfrnn", "crfrnn:napari.yaml", "napari.manifest")
PluginManager.instance().register(PluginManifest._from_entrypoint(entry, distribution("crfrnn")))
import napari
from test_widget import MAP, PICTURE, refined, settle
viewer = napari.Viewer(show=False)
viewer.add_image(PICTURE, name="cells", contrast_limits=(0, 200))
labels = viewer.add_labels(MAP, name="nuclei")
dock, widget = viewer.window.add_plugin_dock_widget("crfrnn", "Refine labels")
widget.scores.value = [labels]
settle(widget)
print(json.dumps([type(widget).__name__, refined(viewer).tolist(), [layer.name for layer in viewer.layers]]))
sys.stdout.flush()
viewer.window.remove_dock_widget(dock)
viewer.close()
"""


def _python(code: str, *before: str) -> Any:
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [*before, sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=200,
        env={**os.environ, "PYTHONPATH": path, "QT_QPA_PLATFORM": "offscreen"},
    )  # fmt: skip
    lines = [line for line in done.stdout.splitlines() if line.startswith("[")]
    assert lines, done.stderr
    return json.loads(lines[-1])


def test_napari_finds_the_widget_without_importing_torch() -> None:
    assert _python(MANIFEST) == [[], "Refine labels", "RefineWidget"]


def test_it_works_in_a_window_of_napari() -> None:
    """A window needs OpenGL, which the offscreen platform takes from a display."""
    display = [] if os.environ.get("DISPLAY") else ["xvfb-run", "-a"]
    if display and shutil.which("xvfb-run") is None:
        pytest.skip("no display and no xvfb-run, which would make one")
    name, labels, layers = _python(VIEWER, *display)
    assert name == "RefineWidget" and layers == ["cells", "nuclei", "cells refined"]
    assert np.array_equal(labels, refine_arrays(PICTURE, MAP, limits=(0, 200)).labels)
