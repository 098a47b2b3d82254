# SPDX-License-Identifier: MIT
"""Refine the label probabilities of a volume; lengths in millimetres or the unit of `spacing`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crfrnn.crf import CRFRNN
from crfrnn.crf.binary import for_two_labels
from crfrnn.crf.likeliest import likeliest
from crfrnn.crf.presets import Preset
from crfrnn.inference.prediction import Prediction
from crfrnn.io.scale import Scale, check_scale, stretched
from crfrnn.io.unaries import volume_unary

AXES = 3
Length = float | Sequence[float]

# Lengths in millimetres, θ_β in steps of 0..255: chosen on one brain template, see docs/volumes.md.
VOLUME_PRESET = Preset(8.0, 12.0, 2.0, 1.0, 6.0)


@torch.no_grad()
def refine_volume(
    guide: NDArray[Any],
    probabilities: NDArray[Any],
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
    *,
    theta_alpha: Length | None = None,
    theta_beta: Length | None = None,
    theta_gamma: Length | None = None,
    spatial_weight: float | None = None,
    bilateral_weight: float | None = None,
    iterations: int = 5,
    kind: str = "probabilities",
    num_labels: int | None = None,
    gt_prob: float = 0.7,
    unknown: int | None = None,
    rescale: bool = True,
    scale: Scale | None = None,
    mask: NDArray[np.bool_] | None = None,
    **settings: Any,
) -> Prediction:
    """Refine the labels of a volume, or of a video as (t, y, x), along the edges of its guide.

    ``k(i, j) = exp(-½ Σ_a (s_a (p_i - p_j)_a / θ_α)² - ½ Σ_c ((I_i - I_j)_c / θ_β)²)``, s the spacing, and
    the same without I for θ_γ; then `CRFRNN` with θ / s voxels along axis a.

    Args:
        guide: real numbers [X, Y, Z], or [C, X, Y, Z] for C ≤ 5 channels (T1 and T2; red, green, blue).
        probabilities: Float[L, X, Y, Z], 0..1 with sum 1 over the labels; or logits or labels,
            depending on `kind`. [X, Y, Z] or one label: a binary problem, as with a sigmoid, see
            `crfrnn.io.scores`.
        spacing: voxel size along each axis **of the array**, in millimetres (or any unit that θ_α and
            θ_γ share). For a video [T, H, W] the first number is the distance between frames in pixels.
        theta_alpha, theta_gamma: bandwidths in the unit of `spacing`, a number or one per axis of the array.
        theta_beta: a number or one per channel, in steps of the guide after `rescale`.
        spatial_weight, bilateral_weight: weights of every label. None uses `VOLUME_PRESET` for all five.
        iterations: T ≥ 0.
        kind: "probabilities" (the unary is log max(p, 1e-5)), "logits", or "labels" (whole numbers
            [X, Y, Z], each right with probability `gt_prob`, see `crfrnn.io.unary_from_labels`).
        num_labels: L for "labels" with the numbers 0..L-1; None uses the numbers that occur, also in the
            result.
        gt_prob: in (0, 1), for "labels".
        unknown: the number of voxels without a label, for "labels". None: 255 if `num_labels` is given, as in
            `crfrnn.io.labels.known_labels`; otherwise every number is a label.
        rescale: map each channel so that its 0.5 and 99.5 percentile become 0 and 255, see
            `to_display_range`; False uses the guide unchanged.
        scale: (LOW, HIGH), the numbers of the guide that become 0 and 255 instead; values beyond are clipped.
        mask: Bool[X, Y, Z], True = valid; voxels outside keep the labels of the unary and send no messages,
            and their guide and scores are arbitrary.
        settings: any other argument of `CRFRNN`, such as ``quality="high"``.

    Returns:
        `Prediction` with labels Int64[X, Y, Z] and probabilities Float32[L, X, Y, Z], for "labels" in the
        order of their numbers.

    Raises:
        ValueError, TypeError: naming the argument, the expected and the actual value, and the remedy.

    Source: Krähenbühl & Koltun, NIPS 2011 (arXiv:1210.5644), eq. 3, with lengths instead of pixel counts.

    >>> p = np.full((2, 4, 5, 6), 0.5, np.float32)
    >>> refine_volume(np.zeros((4, 5, 6)), p, spacing=(1, 1, 3)).labels.shape
    (4, 5, 6)
    """
    channels = _guide(guide)
    inside = _mask(mask, channels.shape[1:])
    _fill_outside(channels, mask)
    shape = channels.shape[1:]
    unary, numbers = volume_unary(
        probabilities, kind, shape, num_labels=num_labels, gt_prob=gt_prob, unknown=unknown, mask=mask
    )
    check_scale(scale)
    if scale is not None:
        channels = stretched(channels, scale)
    elif rescale:
        channels = to_display_range(channels, mask)
    chosen = VOLUME_PRESET.but(
        theta_alpha=theta_alpha, theta_beta=theta_beta, theta_gamma=theta_gamma,
        spatial_weight=spatial_weight, bilateral_weight=bilateral_weight, iterations=iterations,
    )  # fmt: skip
    crf = crf_in_lengths(unary.shape[0], _lengths("spacing", spacing, AXES), chosen, **settings)
    for_two_labels(crf)  # rejects overlapping labels
    if unary.dtype == torch.float64:
        crf = crf.double()
    image = torch.from_numpy(channels).to(unary.dtype)[None]
    logits = crf(unary[None], image, mask=None if inside is None else inside[None])[0]
    before, after = likeliest(unary), likeliest(logits)
    if numbers is not None:
        before, after = numbers[before], numbers[after]
    return Prediction(after, before, logits.float().softmax(0).numpy())


def crf_in_lengths(num_labels: int, spacing: Sequence[float], preset: Preset, **settings: Any) -> CRFRNN:
    """The layer, in evaluation mode, for a grid with this `spacing`: θ / s pixels along each axis.

    Args:
        num_labels: L.
        spacing: one positive number for each axis of the array.
        preset: θ_α and θ_γ in the unit of `spacing`, a number or one per axis of the array; θ_β in steps of
            0..255; weights and iterations.
        settings: any other argument of `CRFRNN`.

    Raises: ValueError, TypeError for bandwidths with another number of axes.

    >>> preset = Preset(8.0, 12.0, 2.0, 1.0, 6.0)
    >>> crf_in_lengths(2, (2.0, 1.0), preset).log_theta_alpha.exp()  # x comes first
    tensor([8., 4.], grad_fn=<ExpBackward0>)
    """
    step = _lengths("spacing", spacing, len(spacing))
    return CRFRNN(
        num_labels,
        theta_alpha=_voxels("theta_alpha", preset.theta_alpha, step),
        theta_beta=preset.theta_beta,
        theta_gamma=_voxels("theta_gamma", preset.theta_gamma, step),
        spatial_weight=preset.spatial_weight,
        bilateral_weight=preset.bilateral_weight,
        **{"iterations": preset.iterations, **settings},
    ).eval()


def to_display_range(guide: NDArray[Any], mask: NDArray[np.bool_] | None = None) -> NDArray[np.float64]:
    """Map the 0.5 and 99.5 percentiles of each channel within the mask to 0 and 255, without clipping.

    Scanners have no common unit of intensity: this mapping gives θ_β the same meaning for each. A constant
        channel becomes 0.

    Args: guide, real numbers [C, *spatial]; mask, Bool[*spatial].

    >>> to_display_range(np.arange(201.0)[None])[0, [1, 200]]
    array([  0.        , 256.28787879])
    """
    out = np.empty(guide.shape, np.float64)
    for channel, values in enumerate(guide):
        inside = values if mask is None else values[mask]
        low, high = np.percentile(inside, (0.5, 99.5)) if inside.size else (0.0, 0.0)
        if high <= low:  # nearly all voxels have one value, such as a few bright ones on black
            low, high = (float(inside.min()), float(inside.max())) if inside.size else (0.0, 0.0)
        out[channel] = 0.0 if high <= low else (values - low) * (255.0 / (high - low))
    return out


def _guide(guide: Any) -> NDArray[np.float64]:
    array = np.asarray(guide)
    if array.dtype.kind not in "uif":
        raise TypeError(f"guide: expected real numbers, got {array.dtype}; convert it to float")
    if array.ndim == AXES:
        array = array[None]
    if array.ndim != AXES + 1 or 0 in array.shape:
        raise ValueError(
            f"guide: expected [X, Y, Z], or [C, X, Y, Z] with channels first, got {np.shape(guide)}; "
            "move the axis of the channels with np.moveaxis(guide, -1, 0)"
        )
    if array.shape[0] > 5:
        raise ValueError(
            f"guide: expected at most 5 channels (a lattice has 8 axes, 3 are spatial), got "
            f"{array.shape[0]}; a last axis of channels must be moved to the front, others reduced"
        )
    return array.astype(np.float64)


def _fill_outside(channels: NDArray[np.float64], mask: NDArray[np.bool_] | None) -> None:
    """Replace voxels outside the mask, which may be NaN, so that they do not affect the intensity range."""
    if mask is not None:
        channels[:, ~mask] = 0.0
    if not np.isfinite(channels).all():
        bad = int((~np.isfinite(channels)).sum())
        raise ValueError(
            f"guide: expected finite values, got {bad} NaN or infinite; exclude such voxels with "
            "mask=, such as np.isfinite(guide), or fill them with a value of the background"
        )


def _mask(mask: Any, shape: tuple[int, ...]) -> Tensor | None:
    if mask is None:
        return None
    array = np.asarray(mask)
    if array.dtype != np.bool_ or array.shape != shape:
        raise ValueError(
            f"mask: expected bool {shape}, True = valid, got {array.dtype} {array.shape}; "
            "compare first: mask > 0"
        )
    return torch.from_numpy(np.ascontiguousarray(array))


def _lengths(name: str, value: Any, axes: int) -> tuple[float, ...]:
    """Expand a positive number, or one per axis of the array, to one per axis."""
    given = np.asarray(value, dtype=object).reshape(-1).tolist()
    try:
        numbers = [float(v) for v in given]
    except (TypeError, ValueError):
        raise TypeError(f"{name}: expected a positive number or {axes} of them, got {value!r}") from None
    numbers = numbers * axes if len(numbers) == 1 else numbers
    if len(numbers) != axes or not all(math.isfinite(n) and n > 0 for n in numbers):
        raise ValueError(
            f"{name}: expected a positive number or {axes} of them, one per axis of the array, got {value!r}"
        )
    return tuple(numbers)


def _voxels(name: str, theta: Any, step: tuple[float, ...]) -> list[float]:
    # The array's last axis is the layer's x, so the order is reversed.
    return [t / s for t, s in zip(_lengths(name, theta, len(step)), step, strict=True)][::-1]
