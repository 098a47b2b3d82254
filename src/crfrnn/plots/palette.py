# SPDX-License-Identifier: MIT
"""A palette with colours distinct for colour-blind readers, and a simulation of their vision."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Machado, Oliveira & Fernandes, IEEE TVCG 2009, doi:10.1109/TVCG.2009.113: severity 1.0, on linear RGB.
DEFICIENCIES = {
    "protanopia": (
        (0.152286, 1.052583, -0.204868),
        (0.114503, 0.786281, 0.099216),
        (-0.003882, -0.048116, 1.051998),
    ),
    "deuteranopia": (
        (0.367322, 0.860646, -0.227968),
        (0.280085, 0.672501, 0.047413),
        (-0.011820, 0.042940, 0.968881),
    ),
}
# Okabe & Ito, Color Universal Design, 2002; black stands for the background.
OKABE_ITO = (
    (0, 0, 0), (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0),
    (204, 121, 167),
)  # fmt: skip
_WHITE = (0.95047, 1.0, 1.08883)  # D65


def safe_palette(colours: int = 256) -> NDArray[np.uint8]:
    """Colours distinct in normal, protanopic and deuteranopic vision, UInt8[colours, 3].

    The first eight are Okabe and Ito's (label 0 is black). Each further one is, among 4,096
    evenly spaced colours, the one with the largest minimum CIE 1976 colour difference from the previous ones
    over the three kinds of vision. So the palette for few labels is a prefix of that for many.

    The least difference is 17 among 8 colours and among 21, 9 among 81, 4 among 256 (VOC's 21: 1); about
    2.3 is just noticeable side by side.

    >>> safe_palette(3).tolist()
    [[0, 0, 0], [230, 159, 0], [86, 180, 233]]
    """
    if not 1 <= colours <= 256:
        raise ValueError(f"colours: expected 1..256, got {colours}; a pixel of an indexed picture is a byte")
    return _palette()[:colours].copy()


def least_difference(palette: NDArray[np.uint8]) -> float:
    """The least CIE 1976 colour difference ΔE of two colours in normal, protanopic and deuteranopic vision.

    Args: palette, UInt8[K, 3], K ≥ 2.

    >>> round(least_difference(np.array([[0, 0, 0], [255, 255, 255]], np.uint8)))
    100
    """
    seen = _as_seen_by_all(np.asarray(palette, np.uint8))
    apart = np.linalg.norm(seen[:, :, None] - seen[:, None], axis=-1).min(0)
    return float(apart[np.triu_indices(len(palette), 1)].min())


def as_seen(image: NDArray[np.uint8], deficiency: str) -> NDArray[np.uint8]:
    """Simulate how a reader without one kind of cone sees a picture, UInt8[..., 3].

    Args: image, UInt8[..., 3], sRGB; deficiency, "protanopia" or "deuteranopia".

    Source: Machado, Oliveira & Fernandes, IEEE TVCG 2009, doi:10.1109/TVCG.2009.113.

    >>> as_seen(np.array([128, 128, 128], np.uint8), "deuteranopia").tolist()  # grey stays grey
    [128, 128, 128]
    """
    if deficiency not in DEFICIENCIES:
        raise ValueError(f"deficiency: expected one of {', '.join(DEFICIENCIES)}, got {deficiency!r}")
    linear = _linear(np.asarray(image, np.uint8)) @ np.array(DEFICIENCIES[deficiency]).T
    linear = linear.clip(0, 1)
    values = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return (255 * values).round().astype(np.uint8)


@functools.cache
def _palette() -> NDArray[np.uint8]:
    steps = np.arange(0, 256, 17, dtype=np.uint8)
    candidates = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(-1, 3)
    coordinates = _as_seen_by_all(candidates)  # [kinds of sight, candidates, 3]
    chosen = list(OKABE_ITO)
    known = _as_seen_by_all(np.array(chosen, np.uint8))
    apart = np.linalg.norm(coordinates[:, :, None] - known[:, None], axis=-1).min((0, 2))
    while len(chosen) < 256:
        best = int(apart.argmax())
        chosen.append(tuple(candidates[best].tolist()))
        step = np.linalg.norm(coordinates - coordinates[:, best : best + 1], axis=-1).min(0)
        apart = np.minimum(apart, step)
    return np.array(chosen, np.uint8)


def _as_seen_by_all(colours: NDArray[np.uint8]) -> Floats:
    """CIE L*a*b* coordinates in the three kinds of vision, Float[3, K, 3]."""
    return np.stack([_lab(colours), *(_lab(as_seen(colours, name)) for name in DEFICIENCIES)])


def _linear(colours: NDArray[np.uint8]) -> Floats:
    values = colours / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def _lab(colours: NDArray[np.uint8]) -> Floats:
    """CIE L*a*b* under D65 of sRGB, Float[..., 3]."""
    to_xyz = np.array(
        [[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]]
    )
    t = _linear(colours) @ to_xyz.T / np.array(_WHITE)
    f = np.where(t > (6 / 29) ** 3, np.cbrt(t), t / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = np.moveaxis(f, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)
