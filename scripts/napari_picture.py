# SPDX-License-Identifier: MIT
"""The picture of docs/napari.md: the widget next to coins labelled by a threshold, before and after.

Needs the extras napari and demo, a Qt binding with its X libraries, and a display:
``xvfb-run -a -s "-screen 0 1500x950x24" python scripts/napari_picture.py docs/images/napari.png``.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
from PIL import Image
from qtpy.QtWidgets import QApplication
from skimage import data, filters

import napari
from crfrnn.napari.widget import RefineWidget

SIZE = (1440, 860)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("picture", help="where the PNG goes")
    where = parser.parse_args().picture
    coins = data.coins()
    noisy = coins + np.random.default_rng(0).normal(0, 25, coins.shape)
    viewer: Any = napari.Viewer(show=False)
    viewer.add_image(coins, name="coins")
    labels = viewer.add_labels((noisy > filters.threshold_otsu(coins)).astype(int), name="threshold")
    widget = RefineWidget(viewer)
    viewer.window.add_dock_widget(widget, name="Refine labels (crfrnn)", area="right")
    widget.theta_alpha.value, widget.theta_beta.value = 20.0, 20.0
    widget.scores.value = [labels]
    wait(lambda: len(viewer.layers) == 3 and widget._worker is None)
    grid = viewer.canvas.grid
    grid.enabled, grid.shape, grid.stride = True, (3, 1), -1
    viewer.window._qt_window.resize(*SIZE)
    viewer.window._qt_window.show()
    viewer.reset_view()
    wait(lambda: False, 3)
    Image.fromarray(viewer.window.screenshot(canvas_only=False, flash=False)).convert("RGB").save(where)
    viewer.close()


def wait(true, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        QApplication.processEvents()
        time.sleep(0.01)


if __name__ == "__main__":
    main()
