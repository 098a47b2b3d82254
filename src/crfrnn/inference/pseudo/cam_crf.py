# SPDX-License-Identifier: MIT
"""Recipes of published methods that convert class activation maps, scores and masks to labels, by name."""

from __future__ import annotations

import math
from dataclasses import dataclass

from crfrnn.crf import CRFRNN
from crfrnn.crf.presets import PRESETS, Preset
from crfrnn.lattice.validate import check_choice

BACKGROUNDS = ("threshold", "power", "softmax")


@dataclass(frozen=True)
class CamCRF:
    """A dense CRF after class activation maps, scores of all labels, or masks.

    Activation maps have no background; `levels` define its score, with one inference per level:

    - "threshold": background where no map exceeds the level; each pixel's label is then taken to be right
      with probability `gt_prob`;
      - "power": the background's score is ``(1 - max_k cam_k)^level`` and all scores are treated as
      probabilities, ``U = log max(score, 1e-5)``;
    - "softmax": the background's score is the level, and the scores themselves are the logits U.

    With one level the labels are the argmax. With two, the first is strict about the foreground and the
    second about the background: foreground where the first finds it, 0 where the second finds background, 255
    where neither does. Without levels only scores of all labels and masks are accepted.

    Attributes:
        preset: kernels, normalisation, iterations, and the project and file that they are from.
        background: "threshold", "power" or "softmax".
        levels: up to two numbers.
        background_wins: whether background takes precedence if two levels contradict each other.
        gt_prob: for "threshold", and for label maps as input.
        certain: pixels whose best probability is below it become 255; None keeps all.
        iterations: T; None: the preset's.
    """

    preset: Preset
    background: str = "threshold"
    levels: tuple[float, ...] = ()
    background_wins: bool = False
    gt_prob: float = 0.7
    certain: float | None = None
    iterations: int | None = None

    def __post_init__(self) -> None:
        check_choice("background", self.background, BACKGROUNDS)
        if len(self.levels) > 2:
            raise ValueError(f"levels: expected at most two numbers, got {self.levels}; each is an inference")
        if not 0 < self.gt_prob < 1:
            raise ValueError(f"gt_prob: expected a number in (0, 1), got {self.gt_prob}")
        if self.iterations is not None and self.iterations < 0:
            raise ValueError(f"iterations: expected at least 0, got {self.iterations}; 0 skips the CRF")

    def check_levels(self) -> None:
        """ValueError without levels, since activation maps need a background."""
        if not self.levels:
            raise ValueError(
                "levels: expected one or two numbers for the background of activation maps, got none; this "
                "recipe accepts scores of all labels or label maps. Give levels, or a recipe that has them: "
                + ", ".join(name for name, recipe in CAM_CRFS.items() if recipe.levels)
            )

    def crf(self, num_labels: int, quality: str = "default") -> CRFRNN:
        """The layer: Potts, with the preset's numbers and normalisation.

        >>> CAM_CRFS["irn"].crf(3).normalization
        'symmetric'
        """
        return CRFRNN(num_labels, preset=self.preset, iterations=self.iterations, quality=quality).eval()


CAM_CRFS: dict[str, CamCRF] = {
    "irn": CamCRF(PRESETS["irn"], "threshold", (0.30, 0.05)),
    "affinitynet": CamCRF(PRESETS["affinitynet"], "power", (4.0, 32.0), background_wins=True),
    "seam": CamCRF(PRESETS["seam"], "power", (4.0, 24.0), background_wins=True),
    "clip-es": CamCRF(PRESETS["clip-es"], "power", (1.0,), certain=0.95),
    "more": CamCRF(PRESETS["more"], "power", (1.0,)),
    "toco": CamCRF(PRESETS["toco"], "softmax", (0.70, 0.25)),
    # These refine a network's scores of all labels.
    "excel": CamCRF(PRESETS["excel"]),
    "weclip": CamCRF(PRESETS["weclip"]),
    "afa": CamCRF(PRESETS["afa"]),
    "dupl": CamCRF(PRESETS["dupl"]),
    "seco": CamCRF(PRESETS["seco"]),
    # These refine masks: CutLER uses softmax(0, 1) for a label, manga-image-translator 1, clipped at 1e-5.
    "cutler": CamCRF(PRESETS["cutler"], gt_prob=1 / (1 + math.exp(-1))),
    "manga": CamCRF(PRESETS["manga"], gt_prob=1 - 1e-5),
}


def cam_crf(recipe: str | CamCRF) -> CamCRF:
    """The recipe of that name; a `CamCRF` is returned unchanged.

    >>> cam_crf("seam").levels
    (4.0, 24.0)
    """
    if isinstance(recipe, CamCRF):
        return recipe
    return CAM_CRFS[check_choice("recipe", recipe, CAM_CRFS)]
