# SPDX-License-Identifier: MIT
"""Refinement of arrays from a viewer's layers; needs neither napari nor Qt."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crfrnn.crf.likeliest import likeliest
from crfrnn.crf.presets import PRESETS, Preset
from crfrnn.inference import VOLUME_PRESET, Held, Prediction
from crfrnn.inference.interact import colour_unary
from crfrnn.inference.volume import crf_in_lengths
from crfrnn.io.labels import FREE
from crfrnn.io.scale import Scale, check_scale, stretched
from crfrnn.io.scores import AsLogits
from crfrnn.io.unaries import volume_unary, with_background

GRIDS = (2, 3)  # axes of an image and of a volume
UNPAINTED = 0  # value of a labels layer without a stroke
_VOLUME_STEP = 2.0  # mm, the voxel size of the template used to choose VOLUME_PRESET


@dataclass(frozen=True)
class Request:
    """One inference on a viewer's layers.

    Attributes:
        image: real numbers [*spatial], two or three axes; with `rgb` [*spatial, 3 or 4].
        scores: one array of labels or scores, several with one label each, or none; see `refine_arrays`.
        scribbles: Int[*spatial] or None.
        spacing, limits, rgb, kind, gt_prob, background: see `refine_arrays`.
        preset: bandwidths in the unit of `spacing`, weights and iterations.
    """

    image: NDArray[Any]
    spacing: tuple[float, ...]
    preset: Preset
    scores: tuple[NDArray[Any], ...] = ()
    scribbles: NDArray[Any] | None = None
    limits: Scale | None = None
    rgb: bool = False
    kind: str = "labels"
    gt_prob: float = 0.7
    background: int | None = None

    def same_as(self, other: Request) -> bool:
        """Whether both have the same image object and equal values otherwise."""
        for name in (own.name for own in fields(self)):
            a, b = getattr(self, name), getattr(other, name)
            if name == "scores":
                same = len(a) == len(b) and all(map(np.array_equal, a, b))
            elif name == "scribbles" and a is not None and b is not None:
                same = np.array_equal(a, b)
            else:
                same = a is b if name in ("image", "scribbles") else a == b
            if not same:
                return False
        return True


def refine_arrays(
    image: NDArray[Any],
    scores: NDArray[Any] | Sequence[NDArray[Any]] | None = None,
    scribbles: NDArray[Any] | None = None,
    *,
    spacing: Sequence[float] | None = None,
    limits: Scale | None = None,
    rgb: bool = False,
    kind: str = "labels",
    gt_prob: float = 0.7,
    background: int | None = None,
    theta_alpha: float | None = None,
    theta_beta: float | None = None,
    theta_gamma: float | None = None,
    spatial_weight: float | None = None,
    bilateral_weight: float | None = None,
    iterations: int | None = None,
) -> Prediction:
    """Refine the labels of an image or a volume along its edges, as in the napari widget.

    ``x = CRFRNN(unary, guide)`` with θ_α / s and θ_γ / s pixels along each axis, s the spacing; the labels
    are ``argmax_l x_l``.

    Args:
        image: real numbers [H, W] or [Z, Y, X], or with `rgb` [..., 3]; a fourth channel, transparency, is
            ignored.
        scores: depending on `kind`: labels [*spatial]; or probabilities or logits [L, *spatial] or
            [*spatial, L], [*spatial] for a binary problem, or a list with one array per label
            (probabilities that sum to less than 1 get a background as label 0). None: learn the colours of
            the scribbled pixels, as in `crfrnn.inference.interact.segment_scribbles`.
        scribbles: Int[*spatial], pixels that keep their label; 0 = free, n = label n.
        spacing: spacing of the pixels along each axis, in the unit of θ_α and θ_γ; None is 1.
        limits: (LOW, HIGH), the numbers of a grey image that become 0 and 255, the unit of θ_β; values
            beyond are clipped. None, and always with `rgb`: the range of its dtype, 0..1 for floats.
        kind: "labels", "probabilities" or "logits".
        gt_prob: the probability in (0, 1) with which a given label is right, for "labels".
        background: the number of strokes for label 0; None: there are none.
            theta_alpha, theta_beta, theta_gamma, spatial_weight, bilateral_weight, iterations: None: from
            `default_preset`.

    Returns:
        `Prediction`: labels Int64[*spatial] with the given label numbers, the labels before the CRF, and
        the marginals Float32[L, *spatial] in ascending order of the labels.

    Raises:
        ValueError, TypeError: naming the argument, the expected and the actual value, and the remedy.

    >>> image = np.zeros((6, 8))
    >>> image[:, 4:] = 1
    >>> strokes = np.zeros((6, 8), int)
    >>> strokes[2, 1], strokes[3, 6] = 1, 7
    >>> refine_arrays(image, scribbles=strokes).labels[0].tolist()
    [1, 1, 1, 1, 7, 7, 7, 7]
    """
    axes = np.ndim(image) - rgb
    steps = (1.0,) * axes if spacing is None else tuple(spacing)
    preset = default_preset(steps).but(
        theta_alpha=theta_alpha, theta_beta=theta_beta, theta_gamma=theta_gamma,
        spatial_weight=spatial_weight, bilateral_weight=bilateral_weight, iterations=iterations,
    )  # fmt: skip
    given: Any = () if scores is None else tuple(scores) if isinstance(scores, list | tuple) else (scores,)
    return Session()(
        Request(
            image, steps, preset, given, scribbles, limits=limits, rgb=rgb, kind=kind, gt_prob=gt_prob,
            background=background,
        )
    )  # fmt: skip


def default_preset(spacing: Sequence[float]) -> Preset:
    """The package's defaults, in pixels along the axis with the smallest spacing.

    For an image they are those of `CRFRNN`; for a volume `VOLUME_PRESET`, which was chosen at 2 mm voxels, so
    θ_α is 4 voxels and θ_γ is 1.

    >>> default_preset((3.0, 0.5, 0.5))[:3]
    (2.0, 12.0, 0.5)
    """
    preset, unit = (VOLUME_PRESET, _VOLUME_STEP) if len(spacing) == 3 else (PRESETS["default"], 1.0)
    pixel = min(spacing, default=1.0) / unit
    return preset._replace(theta_alpha=preset.theta_alpha * pixel, theta_gamma=preset.theta_gamma * pixel)


@dataclass
class Session:
    """A sequence of inferences: the lattice is rebuilt only for another guide or other bandwidths.

    >>> steps, labels = (1.0, 1.0), np.eye(4, 5, dtype=int)
    >>> request = Request(np.zeros((4, 5)), steps, default_preset(steps), (labels,))
    >>> Session()(request).labels.shape
    (4, 5)
    """

    _held: Held | None = field(default=None, init=False, repr=False)

    def __call__(self, request: Request) -> Prediction:
        """The result of a request."""
        steps = self.steps(request)
        while True:
            try:
                next(steps)
            except StopIteration as ended:
                return ended.value

    @torch.no_grad()
    def steps(self, request: Request) -> Generator[str, None, Prediction]:
        """The same in steps: yields the name of the next step, so that a caller can stop between steps."""
        yield "reading the layers"
        guide = _guide(request)
        shape = tuple(guide.shape[1:])
        unary, numbers, clamp = _problem(request, guide, shape)
        if self._held is None or not _same(self._held.image, guide):
            self._held = Held(guide, len(shape))
        crf = crf_in_lengths(unary.shape[0], request.spacing, request.preset)
        yield "building the lattice"
        if crf.steps:
            self._held.kernels(crf, unary.dtype)
        yield "inferring"
        logits = self._held.logits(unary, crf, clamp=clamp)
        labels, before = (numbers[likeliest(x)] for x in (logits, unary))
        return Prediction(labels, before, logits.float().softmax(0).numpy())


def _guide(request: Request) -> Tensor:
    """UInt8 or Float32 [C, *spatial] in 0..255."""
    image = np.asarray(request.image)
    shape = image.shape[:-1] if request.rgb else image.shape
    if len(shape) not in GRIDS or 0 in shape or (request.rgb and image.shape[-1] not in (3, 4)):
        wanted = "[H, W, 3] or [Z, Y, X, 3]" if request.rgb else "[H, W] or [Z, Y, X]"
        raise ValueError(f"image: expected {wanted}, got {image.shape}; take one image or volume of it")
    if len(request.spacing) != len(shape):
        raise ValueError(f"spacing: expected {len(shape)} numbers for {shape}, got {len(request.spacing)}")
    if image.dtype.kind not in "uifb":
        raise TypeError(f"image: expected real numbers, got {image.dtype}; convert it to float")
    channels = np.moveaxis(image[..., :3], -1, 0) if request.rgb else image[None]
    limits = None if request.rgb else check_scale(request.limits)
    if image.dtype == np.uint8 and limits in (None, (0, 255)):
        return torch.from_numpy(np.array(channels))
    values = stretched(channels.astype(np.float64), _range(image.dtype) if limits is None else limits)
    return torch.from_numpy(values.astype(np.float32))


def _range(dtype: np.dtype[Any]) -> Scale:
    """The numbers that become black and white: the full range of integers, 0..1 for floats, as in napari."""
    if dtype.kind in "ui":
        return float(np.iinfo(dtype).min), float(np.iinfo(dtype).max)
    return 0.0, 1.0


def _problem(
    request: Request, guide: Tensor, shape: tuple[int, ...]
) -> tuple[Tensor, NDArray[np.int64], Tensor | None]:
    """Logits Float[L, *spatial], the numbers of the labels, and the clamp Int64[*spatial]."""
    strokes = None if request.scribbles is None else _strokes(request, shape)
    painted = np.unique(strokes[strokes != FREE]) if strokes is not None else np.zeros(0, np.int64)
    if not request.scores:
        unary, numbers = _by_colour(guide, strokes, painted)
    elif request.kind == "labels":
        if len(request.scores) > 1:
            raise ValueError(
                f"scores: expected one map of labels, got {len(request.scores)}; choose one, or pass "
                "kind='probabilities' for one array per label"
            )
        given = list(request.scores)
        unary, found = volume_unary(given[0], "labels", shape, gt_prob=request.gt_prob, also=painted)
        assert found is not None
        numbers = found
    else:
        unary = AsLogits(request.kind)(_scores(request, shape), role="scores")
        numbers = np.arange(len(unary))
        if painted.size and painted[-1] >= len(unary):
            raise ValueError(
                f"scribbles: expected labels 0..{len(unary) - 1} as in the scores, got {painted[-1]}; "
                "erase those strokes, or pass this number as background= if it means label 0"
            )
    if strokes is None or not painted.size:
        return unary, numbers, None
    places = np.where(strokes == FREE, FREE, np.searchsorted(numbers, strokes))
    return unary, numbers, torch.from_numpy(places)


def _strokes(request: Request, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """The label of each scribbled pixel, -1 elsewhere."""
    given = np.asarray(request.scribbles)
    if given.dtype.kind not in "iub" or given.shape != shape:
        raise ValueError(
            f"scribbles: expected whole numbers {shape} as the image has, got {given.dtype} {given.shape}; "
            "draw on a labels layer of the image's size"
        )
    values = given.astype(np.int64)
    if values.min() < 0:
        raise ValueError(f"scribbles: expected 0 = free or a label, got {values.min()}; erase such strokes")
    strokes = np.where(values == UNPAINTED, FREE, values)
    if request.background is not None:
        is_background = values == request.background
        if request.kind == "labels" and any((s == request.background).any() for s in request.scores):
            raise ValueError(
                f"background: expected a number other than the labels, got {request.background}, found in "
                "the labels; paint label 0 with another number"
            )
        strokes[is_background] = 0
    return strokes


def _scores(request: Request, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Float32[L, *spatial] of the arrays of a request."""
    arrays: list[NDArray[Any]] = [np.asarray(array) for array in request.scores]
    if len(arrays) == 1:
        (array,) = arrays
        if array.shape == shape:
            array = array[None]
        elif array.shape[1:] != shape and array.shape[:-1] == shape:
            array = np.moveaxis(array, -1, 0)
        if array.shape[1:] != shape:
            raise _other_shape(array, shape)
        return array.astype(np.float32)
    for array in arrays:
        if array.shape != shape:
            raise _other_shape(array, shape)
    stacked = np.stack([array.astype(np.float32) for array in arrays])
    return with_background(stacked) if request.kind == "probabilities" else stacked


def _other_shape(array: NDArray[Any], shape: tuple[int, ...]) -> ValueError:
    return ValueError(
        f"scores: expected {shape} as the image has, with an axis of labels before or after it or one array "
        f"for each label, got {array.shape}; resample them onto the image"
    )


def _by_colour(
    guide: Tensor, strokes: NDArray[np.int64] | None, painted: NDArray[np.int64]
) -> tuple[Tensor, NDArray[np.int64]]:
    """Logits Float32[L, *spatial] by the colours under the strokes, and the painted labels."""
    if strokes is None or len(painted) < 2:
        raise ValueError(
            "scores: expected labels or scores, or strokes of at least two labels in scribbles, got "
            f"{len(painted)} painted labels and no scores; choose a layer of labels, or paint a second label"
        )
    places = np.where(strokes == FREE, FREE, np.searchsorted(painted, strokes))
    return colour_unary(guide.movedim(0, -1).numpy(), places, len(painted)), painted


def _same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and bool(torch.equal(a, b))
