# SPDX-License-Identifier: MIT
"""The settings that projects pass to pydensecrf: what a preset gives, and what the page lists."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from compat_pictures import PHOTOGRAPHS, assert_agree, energies, photograph, theirs_by
from crfrnn import CRFRNN
from crfrnn.crf.presets import PRESETS, USED

PAGE = Path(__file__).parents[2] / "docs" / "pydensecrf.md"


def ours_by(name: str, picture: str, labels: int, quality: str) -> torch.Tensor:
    image = photograph(picture)
    unary = -torch.from_numpy(energies(picture, labels)).view(1, labels, *image.shape[:2])
    with torch.no_grad():
        crf = CRFRNN(labels, preset=name, quality=quality).eval()
        return crf(unary, torch.from_numpy(image).permute(2, 0, 1)[None])[0].softmax(0).flatten(1)


@pytest.mark.parametrize("names", USED, ids="-".join)
@pytest.mark.parametrize("labels", [2, 5])
def test_a_preset_gives_what_the_project_gets_from_pydensecrf(names: tuple[str, ...], labels: int) -> None:
    assert len({PRESETS[name] for name in names}) == 1
    for picture in PHOTOGRAPHS:
        theirs = theirs_by(PRESETS[names[0]], photograph(picture), energies(picture, labels))
        assert_agree(ours_by(names[-1], picture, labels, "classic").numpy(), theirs)
        quick = ours_by(names[0], picture, labels, "default").numpy()
        assert (quick.argmax(0) == theirs.argmax(0)).mean() > 0.99


def test_options_override_a_preset() -> None:
    crf = CRFRNN(2, preset="manga")
    assert (crf.iterations, crf.normalization, crf.spatial_method) == (5, "none", "separable")
    crf = CRFRNN(2, preset="cutler", quality="classic")
    assert (crf.iterations, crf.normalization, crf.spatial_method) == (10, "symmetric", "lattice")
    crf = CRFRNN(2, preset="cutler", quality="classic", iterations=0, normalization="after", theta_beta=7.0)
    assert (crf.iterations, crf.normalization) == (0, "after")
    assert crf.log_theta_beta.exp().item() == pytest.approx(7.0)
    crf = CRFRNN(2, quality="classic")
    assert (crf.iterations, crf.normalization, crf.spatial_method) == (5, "after", "separable")
    own = PRESETS["toco"].but(theta_alpha=12.5)
    assert CRFRNN(2, preset=own).log_theta_alpha.exp().item() == pytest.approx(12.5)


def test_the_page_lists_every_setting() -> None:
    page = PAGE.read_text()
    for names, p in USED.items():
        shown = ", ".join(f"`{name}`" for name in names)
        numbers = (
            f"{p.spatial_weight:g}, {p.theta_gamma:g}",
            f"{p.bilateral_weight:g}, {p.theta_alpha:g}, {p.theta_beta:g}",
            f"{p.iterations}",
            p.normalization,
        )
        assert f"| {shown} | {' | '.join(numbers)} |" in page
