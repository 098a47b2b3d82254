# SPDX-License-Identifier: MIT
"""A tiny network, tiny pictures and a recipe that trains in a second."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from crfrnn.models import register_network
from crfrnn.training.recipe import Recipe, recipe_from
from toy import LABELS, make_pictures


def tiny(num_labels: int, dropout: float = 0.2) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Conv2d(8, num_labels, 1),
    )


register_network("tiny-for-tests", tiny)


def content(root: Path, **changes: Any) -> dict[str, Any]:
    """A recipe as nested mappings: one plain, one CRF and one joint stage on the pictures under `root`."""
    source = {"kind": "folder", "options": {"num_labels": LABELS}}
    return {
        "name": "toy",
        "network": {"name": "tiny-for-tests", "backbone": ["0", "1"]},
        "crf": {"iterations": 2, "eval_iterations": 3, "theta_alpha": 8.0, "theta_beta": 20.0},
        "data": {
            "train": [{**source, "root": str(root / "train")}],
            "val": [{**source, "root": str(root / "val")}],
            "leaks": "ignore",
        },
        "defaults": {
            "batch": 2,
            "rates": {"network": 1e-2, "head": 1e-2, "crf_weights": 1e-2, "crf_compatibility": 1e-2},
            "transform": {"flip": 0.5, "scale": [0.8, 1.2]},
        },
        "stages": [
            {"name": "plain", "crf": False, "learn": ["network", "head"], "epochs": 2},
            {"name": "crf", "learn": ["crf"], "epochs": 1},
            {"name": "joint", "epochs": 2},
        ],
        **changes,
    }


def make(root: Path, pictures: int = 5, **changes: Any) -> Recipe:
    make_pictures(root / "train", pictures, seed=1)
    make_pictures(root / "val", 2, seed=2)
    return recipe_from(content(root, **changes))


def one_stage(**changes: Any) -> list[Mapping[str, Any]]:
    return [{"name": "only", "epochs": 2, **changes}]


def recipe_file(root: Path, **changes: object) -> Path:
    make_pictures(root / "train", 6, seed=1)
    make_pictures(root / "val", 2, seed=2)
    path = root / "recipe.yaml"
    path.write_text(yaml.safe_dump(content(root, **changes)))
    return path
