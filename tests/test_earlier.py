# SPDX-License-Identifier: MIT
"""Modules under their earlier names provide the current ones, with a warning that states where."""

from __future__ import annotations

import importlib
import sys

import pytest

import crfrnn
from crfrnn._earlier import EARLIER


@pytest.fixture(autouse=True)
def _not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in EARLIER:
        monkeypatch.delitem(sys.modules, f"crfrnn.{name}", raising=False)


@pytest.mark.parametrize(
    ("name", "wanted", "place"),
    [
        ("data", "read_image", "crfrnn.io.images"),
        ("data", "voc_pictures", "crfrnn.datasets.voc"),
        ("interact", "segment_box", "crfrnn.inference.interact.segment"),
        ("predict", "Predictor", "crfrnn.inference.predictor"),
        ("pseudo", "refine_labels", "crfrnn.inference.pseudo.labels"),
        ("pseudo", "read_cams", "crfrnn.io.cams"),
        ("refine", "refine", "crfrnn.inference.refine"),
        ("tiles", "refine_tiles", "crfrnn.inference.tiles"),
        ("tiles", "Raster", "crfrnn.io.geotiff"),
        ("volumes", "refine_volume", "crfrnn.inference.volume"),
        ("volumes", "read_nifti", "crfrnn.io.nifti"),
    ],
)
def test_an_earlier_name_gives_the_current_object(name: str, wanted: str, place: str) -> None:
    with pytest.warns(DeprecationWarning, match=rf"crfrnn\.{name} is an earlier name; import from crfrnn\."):
        module = importlib.import_module(f"crfrnn.{name}")
    found = getattr(module, wanted)
    assert found is getattr(importlib.import_module(place), wanted) and found.__module__ == place


def test_other_names_are_unknown() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'crfrnn\.nothing'"):
        importlib.import_module("crfrnn.nothing")
    with pytest.warns(DeprecationWarning):
        module = importlib.import_module("crfrnn.volumes")
    with pytest.raises(AttributeError, match=r"module 'crfrnn\.volumes' has no attribute 'nothing'"):
        module.nothing  # noqa: B018
    assert not set(EARLIER) & set(crfrnn.__all__)
