# SPDX-License-Identifier: MIT
"""Heat maps and curves, drawn with matplotlib (the extra `plots`)."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from crfrnn.extras import optional

DPI = 100


def heat_map(matrix: NDArray[Any], names: Sequence[str], title: str = "") -> Image.Image:
    """A matrix [L, L] as coloured cells: white is 0, blue below (labels support each other), red above.

    Raises: ValueError for another shape; ImportError if matplotlib (the extra `plots`) is not installed.

    >>> heat_map(np.eye(2), ("a", "b")).mode
    'RGB'
    """
    values = np.asarray(matrix, np.float64)
    if values.ndim != 2 or values.shape != (len(names), len(names)) or not np.isfinite(values).all():
        raise ValueError(f"matrix: expected finite [L, L] with L = {len(names)} names, got {values.shape}")
    top = float(np.abs(values).max()) or 1.0
    side = 1.5 + 0.26 * len(names) + 0.075 * max(map(len, names))
    figure, axes = figure_of(max(side + 0.8, 0.4 + 0.085 * len(title)), side)
    cells = axes.imshow(values, cmap="RdBu_r", vmin=-top, vmax=top)
    axes.xaxis.tick_top()
    axes.set_xticks(range(len(names)), names, rotation=90)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(length=0)
    figure.suptitle(title, fontsize=11)
    figure.colorbar(cells, ax=axes, shrink=0.8)
    return picture_of(figure)


def curves(
    lines: Mapping[str, Sequence[float]],
    across: str,
    upwards: str,
    size: tuple[int, int] = (760, 460),
    first: int = 1,
) -> Image.Image:
    """Lines over first, first + 1, … with a legend; NaN leaves a gap.

    Args: lines: values by name; across and upwards: labels of the axes; size: width and height in pixels.

    Raises: ImportError if matplotlib (the extra `plots`) is not installed.

    >>> curves({"a": [0.1, 0.4]}, "width", "IU").size
    (760, 460)
    """
    figure, axes = figure_of(size[0] / DPI, size[1] / DPI)
    places = {name: range(first, first + len(line)) for name, line in lines.items()}
    drawn = [axes.plot(places[name], line, marker=".")[0] for name, line in lines.items()]
    axes.set(xlabel=across, ylabel=upwards)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    names = [textwrap.fill(name, 28) for name in lines]
    figure.legend(drawn, names, loc="outside right upper", frameon=False)
    return picture_of(figure)


def trimap_curves(lines: Mapping[str, Sequence[float]], size: tuple[int, int] = (760, 460)) -> Image.Image:
    """Mean IU near the borders of the truth, by the width of the band (the trimap).

    Args: lines: by method, the mean IU (0..1) at width 1, 2, 3, … pixels; size: as in `curves`.

    Source: Kohli et al., IJCV 2009; Zheng et al., ICCV 2015, section 7.

    >>> trimap_curves({"before": [0.5, 0.6], "after": [0.6, 0.7]}).size
    (760, 460)
    """
    percent = {name: [100 * value for value in line] for name, line in lines.items()}
    return curves(percent, "width of the trimap, pixels", "mean IU, %", size)


def energy_curve(traces: Mapping[str, Sequence[float]], size: tuple[int, int] = (760, 460)) -> Image.Image:
    """The free energy before the first iteration and after each, above the least value of all lines.

    Args: traces: by name, F after 0, 1, 2, … iterations, from `crfrnn.free_energy_trace`; size: as in
        `curves`.

    >>> energy_curve({"undamped": [3.0, 1.0, 0.5]}).size
    (760, 460)
    """
    least = min((value for trace in traces.values() for value in trace), default=0.0)
    lines = {name: [value - least for value in trace] for name, trace in traces.items()}
    return curves(lines, "iterations", "free energy above the least", size, first=0)


def figure_of(width: float, height: float) -> tuple[Any, Any]:
    """A figure of this size in inches with one pair of axes, without a window or global state."""
    figure = optional("matplotlib.figure", "plots", "figures").Figure(
        (width, height), dpi=DPI, layout="constrained"
    )
    return figure, figure.add_subplot()


def picture_of(figure: Any) -> Image.Image:
    """The figure as pixels, RGB."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    for text in figure.findobj(Text):  # do not parse names as formulas
        text.set(parse_math=False, usetex=False)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
