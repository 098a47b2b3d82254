# SPDX-License-Identifier: MIT
"""The five numbers of a two-kernel dense CRF, by name: the one table that cross-validation changes."""

from __future__ import annotations

from typing import Any, NamedTuple


class Preset(NamedTuple):
    """Bandwidths and kernel weights: θ_α, θ_γ in pixels, θ_β in colour steps of 0..255, weights bare."""

    theta_alpha: Any  # a number, or one per axis (θ_β: per channel)
    theta_beta: Any
    theta_gamma: Any
    spatial_weight: Any
    bilateral_weight: Any


PRESETS: dict[str, Preset] = {
    # What served best in cross-validation on the training pictures of docs/results.md.
    "default": Preset(34.0, 5.6, 1.0, 1.2, 3.2),
    # Chen et al., DeepLab (ICLR 2015): Gaussian (3, 1), bilateral (4, 67, 3).
    "deeplab": Preset(67.0, 3.0, 1.0, 3.0, 4.0),
    # The released CRF-RNN model (Zheng et al., ICCV 2015, the public demo).
    "crfasrnn": Preset(160.0, 3.0, 3.0, 3.0, 5.0),
}


def preset_named(name: str | None) -> Preset:
    """The preset called `name`; None is the package's default.

    >>> preset_named("crfasrnn").theta_alpha
    160.0
    """
    key = "default" if name is None else name
    if key not in PRESETS:
        raise ValueError(f"preset: expected None or one of {', '.join(map(repr, PRESETS))}, got {name!r}")
    return PRESETS[key]
