# SPDX-License-Identifier: MIT
"""Named settings of a two-kernel dense CRF: one table for layers, commands, recipes and documents."""

from __future__ import annotations

from typing import Any, NamedTuple


class Preset(NamedTuple):
    """Bandwidths and kernel weights: θ_α, θ_γ in pixels, θ_β in colour steps of 0..255.

    Weights are meaningful only with their normalisation, which is therefore part of the preset.
    `classic_spatial_method` is the spatial method for quality "classic"; pydensecrf uses a lattice.
    """

    theta_alpha: Any  # a number, or one per axis (θ_β: per channel)
    theta_beta: Any
    theta_gamma: Any
    spatial_weight: Any
    bilateral_weight: Any
    iterations: int = 5
    normalization: str = "after"
    classic_spatial_method: str = "separable"
    source: str = ""

    def but(self, **given: Any) -> Preset:
        """A copy with the given values that are not None.

        >>> Preset(34.0, 5.6, 1.0, 1.2, 3.2).but(theta_beta=7.0, iterations=None)[:3]
        (34.0, 7.0, 1.0)
        """
        return self._replace(**{name: value for name, value in given.items() if value is not None})


def _pydensecrf(
    pos_w: float, pos_xy_std: float, bi_w: float, bi_xy_std: float, bi_rgb_std: float, source: str,
    iterations: int = 10, normalization: str = "symmetric",
) -> Preset:  # fmt: skip
    """Settings with the names and order used in pydensecrf scripts."""
    return Preset(
        bi_xy_std, bi_rgb_std, pos_xy_std, pos_w, bi_w, iterations, normalization, "lattice", source
    )


# What published scripts pass to pydensecrf; projects with the same settings share a line.
USED: dict[tuple[str, ...], Preset] = {
    ("irn",): _pydensecrf(
        3, 3, 10, 50, 5,
        "IRN: Ahn, Cho & Kwak, CVPR 2019, arXiv:1904.05044; jiwoon-ahn/irn, "
        "misc/imutils.py crf_inference_label, step/cam_to_ir_label.py, run_sample.py",
    ),
    ("affinitynet", "seam"): _pydensecrf(
        3, 3, 10, 80, 13,
        "AffinityNet: Ahn & Kwak, CVPR 2018, arXiv:1803.10464; jiwoon-ahn/psa, "
        "tool/imutils.py crf_inference, infer_cls.py, voc12/data.py. SEAM: Wang et al., CVPR 2020, "
        "arXiv:2004.04581; YudeWang/SEAM, tool/imutils.py crf_inference, infer_SEAM.py",
    ),
    ("clip-es", "more", "excel"): _pydensecrf(
        3, 1, 4, 67, 3,
        "CLIP-ES: Lin et al., CVPR 2023, arXiv:2212.09506; linyq2117/CLIP-ES, eval_cam_with_crf.py. "
        "MoRe: zwyang6/MoRe, tools/infer_lam.py, tools/infer_seg_voc.py. "
        "ExCEL: zwyang6/ExCEL, tools/infer_seg_voc.py",
    ),
    ("weclip", "afa"): _pydensecrf(
        3, 3, 4, 64, 5,
        "WeCLIP: zbf1991/WeCLIP, test_msc_flip_voc.py. AFA: rulixiang/afa, scripts/test_msc_flip.py",
    ),
    ("dupl", "seco"): _pydensecrf(
        1, 1, 4, 121, 5,
        "DuPL: Wu0409/DuPL, tools/eval_seg_voc.py. SeCo: zwyang6/SeCo, tools/infer_seg_voc.py. "
        "ToCo's segmentation: rulixiang/ToCo, tools/infer_seg_voc.py",
    ),
    ("toco",): _pydensecrf(
        3, 3, 4, 36, 3, "ToCo's pseudo-labels: rulixiang/ToCo, tools/infer_cam_crf_label.py"
    ),
    ("cutler",): _pydensecrf(7, 3, 10, 50, 5, "CutLER's MaskCut: facebookresearch/CutLER, maskcut/crf.py"),
    ("manga",): _pydensecrf(
        3, 1, 20, 23, 7,
        "manga-image-translator: zyddnys/manga-image-translator, "
        "manga_translator/mask_refinement/text_mask_utils.py refine_mask",
        iterations=5, normalization="none",
    ),
}  # fmt: skip

PRESETS: dict[str, Preset] = {
    # The best in cross-validation on the training pictures of docs/results.md; docs/results-history.md.
    "default": Preset(34.0, 5.6, 1.0, 1.2, 3.2),
    # Chen et al., DeepLab (ICLR 2015): Gaussian (3, 1), bilateral (4, 67, 3).
    "deeplab": Preset(67.0, 3.0, 1.0, 3.0, 4.0),
    # The released CRF-RNN model (Zheng et al., ICCV 2015, the public demo).
    "crfasrnn": Preset(160.0, 3.0, 3.0, 3.0, 5.0),
    **{name: preset for names, preset in USED.items() for name in names},
}


def preset_named(name: str | Preset | None) -> Preset:
    """The preset called `name`; None is the package's default, a `Preset` is returned unchanged.

    >>> preset_named("crfasrnn").theta_alpha
    160.0
    """
    if isinstance(name, Preset):
        return name
    key = "default" if name is None else name
    if key not in PRESETS:
        raise ValueError(f"preset: expected None or one of {', '.join(map(repr, PRESETS))}, got {name!r}")
    return PRESETS[key]
