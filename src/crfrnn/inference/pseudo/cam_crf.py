# SPDX-License-Identifier: MIT
"""How published methods turn class activation maps into labels: their settings by name, in one table."""

from __future__ import annotations

from dataclasses import dataclass

from crfrnn.crf import CRFRNN
from crfrnn.lattice.validate import check_choice

BACKGROUNDS = ("threshold", "power")


@dataclass(frozen=True)
class CamCRF:
    """A dense CRF after class activation maps.

    The background has no map; `levels` say what stands for it, and each level is one inference:

    - "threshold": where no map exceeds the level, background; the winner of every pixel then is a label that
      is right with probability `gt_prob`;
    - "power": the background's score is ``(1 - max_k cam_k)^level`` and all scores are taken as
      probabilities, ``U = log max(score, 1e-5)``.

    With one level the labels are the argmax. With two, the first is strict about the foreground and the
    second about the background: foreground where the first finds it, 0 where the second finds background,
    255 where neither is sure.

    Attributes:
        source: method, paper, and the file its numbers stand in.
        spatial_weight, theta_gamma: the Gaussian kernel (bare, pixels).
        bilateral_weight, theta_alpha, theta_beta: the bilateral kernel (bare, pixels, steps of 0..255).
        background: "threshold" or "power".
        levels: one or two numbers.
        background_wins: of two levels that contradict each other, background goes first.
        gt_prob: for "threshold", and for label maps as input.
        certain: pixels whose best probability is below become 255; None keeps all.
        iterations: T.
    """

    source: str
    spatial_weight: float
    theta_gamma: float
    bilateral_weight: float
    theta_alpha: float
    theta_beta: float
    background: str
    levels: tuple[float, ...]
    background_wins: bool = False
    gt_prob: float = 0.7
    certain: float | None = None
    iterations: int = 10

    def __post_init__(self) -> None:
        check_choice("background", self.background, BACKGROUNDS)
        if len(self.levels) not in (1, 2):
            raise ValueError(f"levels: expected one or two numbers, got {self.levels}; each is an inference")
        if not 0 < self.gt_prob < 1:
            raise ValueError(f"gt_prob: expected a number in (0, 1), got {self.gt_prob}")
        if self.iterations < 0:
            raise ValueError(f"iterations: expected at least 0, got {self.iterations}; 0 skips the CRF")

    def crf(self, num_labels: int, quality: str = "default") -> CRFRNN:
        """The layer: Potts, normalised symmetrically, as these methods call pydensecrf.

        >>> CAM_CRFS["irn"].crf(3).normalization
        'symmetric'
        """
        return CRFRNN(
            num_labels,
            self.theta_alpha,
            self.theta_beta,
            self.theta_gamma,
            self.spatial_weight,
            self.bilateral_weight,
            iterations=self.iterations,
            normalization="symmetric",
            quality=quality,
        ).eval()


CAM_CRFS: dict[str, CamCRF] = {
    "irn": CamCRF(
        "IRN: Ahn, Cho & Kwak, CVPR 2019, arXiv:1904.05044; jiwoon-ahn/irn, "
        "misc/imutils.py crf_inference_label, step/cam_to_ir_label.py, run_sample.py",
        3.0, 3.0, 10.0, 50.0, 5.0, "threshold", (0.30, 0.05),
    ),
    "affinitynet": CamCRF(
        "AffinityNet: Ahn & Kwak, CVPR 2018, arXiv:1803.10464; jiwoon-ahn/psa, "
        "tool/imutils.py crf_inference, infer_cls.py, voc12/data.py",
        3.0, 3.0, 10.0, 80.0, 13.0, "power", (4.0, 32.0), background_wins=True,
    ),
    "seam": CamCRF(
        "SEAM: Wang et al., CVPR 2020, arXiv:2004.04581; YudeWang/SEAM, "
        "tool/imutils.py crf_inference, infer_SEAM.py",
        3.0, 3.0, 10.0, 80.0, 13.0, "power", (4.0, 24.0), background_wins=True,
    ),
    "clip-es": CamCRF(
        "CLIP-ES: Lin et al., CVPR 2023, arXiv:2212.09506; linyq2117/CLIP-ES, "
        "eval_cam_with_crf.py",
        3.0, 1.0, 4.0, 67.0, 3.0, "power", (1.0,), certain=0.95,
    ),
}  # fmt: skip


def cam_crf(recipe: str | CamCRF) -> CamCRF:
    """The recipe of that name; a `CamCRF` is returned as it is.

    >>> cam_crf("seam").levels
    (4.0, 24.0)
    """
    if isinstance(recipe, CamCRF):
        return recipe
    return CAM_CRFS[check_choice("recipe", recipe, CAM_CRFS)]
