# SPDX-License-Identifier: MIT
"""Conversion of a viewer's layers to inference requests, and of results to new layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from napari.layers import Image, Labels, Layer

from crfrnn.crf.presets import Preset
from crfrnn.napari.refinement import Request

Scores = Labels | Image
_FIELDS = ("theta_alpha", "theta_beta", "theta_gamma", "spatial_weight", "bilateral_weight", "iterations")


def request_of(
    image: Image,
    scores: Sequence[Scores],
    scribbles: Labels | None,
    preset: Preset,
    *,
    kind: str = "probabilities",
    gt_prob: float = 0.7,
    background: int | None = None,
) -> Request:
    """The request for these layers; arrays that the user may paint on during inference are copied.

    The contrast limits of a grey image become 0 and 255, so that the guide matches the display; the layer's
    scale is the spacing.

    Args:
        image: the guide, with two or three axes and optionally colours.
        scores: one layer of labels; or image layers with scores, whose meaning is `kind`.
        scribbles: a layer of strokes, or None.
        preset, gt_prob, background: as for `refine_arrays`.

    Raises: ValueError for layers of both kinds, or on another grid than the image.
    """
    of_labels = [layer for layer in scores if isinstance(layer, Labels)]
    if of_labels and len(scores) > 1:
        names = ", ".join(repr(layer.name) for layer in scores)
        raise ValueError(
            f"scores: expected one layer of labels or only image layers, got {names}; choose one kind"
        )
    for layer in (*scores, *(() if scribbles is None else (scribbles,))):
        _check_grid(image, layer)
    rgb = bool(image.rgb)
    low, high = (float(limit or 0) for limit in image.contrast_limits)
    return Request(
        array_of(image),
        spacing_of(image),
        preset,
        tuple(np.array(array_of(layer)) if layer in of_labels else array_of(layer) for layer in scores),
        None if scribbles is None else np.array(array_of(scribbles)),
        limits=None if rgb else (low, high),
        rgb=rgb,
        kind="labels" if of_labels else kind,
        gt_prob=gt_prob,
        background=background,
    )


def array_of(layer: Scores) -> Any:
    """The array of a layer, at full resolution if it is multiscale."""
    return layer.data[0] if layer.multiscale else layer.data


def spacing_of(layer: Layer) -> tuple[float, ...]:
    """The spacing of a layer's pixels along each axis, in the unit of its scale."""
    return tuple(abs(float(step)) for step in layer.scale)


def place_of(layer: Layer) -> dict[str, Any]:
    """The arguments that place a new layer of the same shape on this one."""
    names = ("scale", "translate", "rotate", "shear", "affine", "units", "axis_labels")
    return {name: getattr(layer, name) for name in names}


def _check_grid(image: Image, layer: Scores) -> None:
    """ValueError if the pixel positions of two layers differ; shapes are checked elsewhere."""
    shape = np.shape(array_of(image))[: image.ndim]
    given = np.shape(array_of(layer))
    axes = next((a for a in (slice(0, None), slice(1, None), slice(0, -1)) if given[a] == shape), None)
    if axes is None:
        return  # a wrong shape is reported when the arrays are read
    for name in ("scale", "translate"):
        wanted, got = getattr(image, name), getattr(layer, name)[axes]
        if not np.allclose(wanted, got, rtol=1e-4, atol=1e-4 * float(np.min(spacing_of(image)))):
            raise ValueError(
                f"layer {layer.name!r}: expected {name} {_numbers(wanted)} as in the layer {image.name!r}, "
                f"got {_numbers(got)}; set it: viewer.layers[{layer.name!r}].{name} = {_numbers(wanted)}"
            )


def _numbers(values: Any) -> list[float]:
    return [round(float(value), 6) for value in values]


def as_python(image: Image, scores: Sequence[Scores], scribbles: Labels | None, request: Request) -> str:
    """Python code for napari's console, with the variable `viewer`, that gives the labels of `request_of`."""
    names = [_expression(layer) for layer in scores]
    given: dict[str, Any] = {}
    if names:
        given["scores"] = names[0] if len(names) == 1 else f"[{', '.join(names)}]"
    if scribbles is not None:
        given["scribbles"] = _expression(scribbles)
    given["spacing"] = request.spacing
    given |= {"rgb": True} if request.rgb else {"limits": request.limits}
    if names:
        given["kind"] = repr(request.kind)
        given |= {"gt_prob": request.gt_prob} if request.kind == "labels" else {}
    if scribbles is not None and request.background is not None:
        given["background"] = request.background
    given |= {name: getattr(request.preset, name) for name in _FIELDS}
    arguments = "".join(f"    {name}={value},\n" for name, value in given.items())
    return (
        "from crfrnn.napari import refine_arrays\n\n"
        f"found = refine_arrays(\n    {_expression(image)},\n{arguments})\n"
        f"viewer.add_labels(found.labels, scale={request.spacing})\n"
    )


def _expression(layer: Scores) -> str:
    return f"viewer.layers[{layer.name!r}].data" + ("[0]" if layer.multiscale else "")
