# SPDX-License-Identifier: MIT
"""crfrnn.compat.dcrf against the same calls of pydensecrf2, with the settings of published projects."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import joblib
import numpy as np
import pytest
import torch
from pydensecrf import utils as their_utils

from compat_pictures import PHOTOGRAPHS, assert_agree, energies, photograph, theirs_by
from crfrnn.compat.dcrf import DenseCRF
from crfrnn.compat.pydensecrf import _engine
from crfrnn.crf.presets import USED, Preset

# The class has no argument for the normalisation.
SETTINGS = [preset for preset in USED.values() if preset.normalization == "symmetric"]


def probabilities(name: str) -> np.ndarray:
    p = np.exp(-energies(name).astype(np.float64))
    picture = photograph(name)
    return (p / p.sum(0)).astype(np.float32).reshape(-1, *picture.shape[:2])


@pytest.mark.parametrize(("setting", "name"), list(zip(SETTINGS, 2 * PHOTOGRAPHS, strict=False)))
def test_marginals_are_those_of_pydensecrf(setting: Preset, name: str) -> None:
    image, p = photograph(name), probabilities(name)
    post = DenseCRF(
        setting.iterations, setting.spatial_weight, setting.theta_gamma, setting.bilateral_weight,
        setting.theta_alpha, setting.theta_beta,
    )  # fmt: skip
    energy = np.ascontiguousarray(their_utils.unary_from_softmax(p))
    assert_agree(post(image, p).reshape(len(p), -1), theirs_by(setting, image, energy))


def test_it_is_pickled_and_serves_several_threads() -> None:
    name = PHOTOGRAPHS[0]
    image, p = photograph(name), probabilities(name)
    post = pickle.loads(pickle.dumps(DenseCRF(3, 3, 3, 10, 50, 5)))
    alone = post(image, p)
    with ThreadPoolExecutor(2) as pool:
        assert all(np.array_equal(q, alone) for q in pool.map(lambda _: post(image, p), range(3)))


def labels_and_threads(post: DenseCRF, image: np.ndarray, p: np.ndarray) -> tuple[np.ndarray, int, int]:
    """In a worker with three threads: the argmax, the threads of an inference, and those after it."""
    torch.set_num_threads(3)
    with _engine.running():
        taken = torch.get_num_threads()
    return post(image, p).argmax(0), taken, torch.get_num_threads()


@pytest.mark.slow
def test_processes_of_joblib_take_one_thread_each() -> None:
    """So that as many processes as there are cores do not compete."""
    image, p = photograph(PHOTOGRAPHS[0])[:90, :80].copy(), probabilities(PHOTOGRAPHS[0])[:, :90, :80].copy()
    post = DenseCRF(3, 3, 3, 4, 64, 5)
    calls = (joblib.delayed(labels_and_threads)(post, image, p) for _ in range(3))
    found: Any = joblib.Parallel(n_jobs=2)(calls)
    alone = post(image, p).argmax(0)
    assert len(found) == 3
    for labels, taken, after in found:
        assert np.array_equal(labels, alone) and (taken, after) == (1, 3)


def test_mismatched_sizes_are_named() -> None:
    post = DenseCRF(1, 3, 3, 10, 50, 5)
    with pytest.raises(ValueError, match=r"probmap: expected \[L, H, W\], got \(4, 5\)"):
        post(np.zeros((4, 5, 3), np.uint8), np.zeros((4, 5)))
    with pytest.raises(ValueError, match=r"image: expected UInt8 \(4, 5, 3\) .* got \(5, 4, 3\)"):
        post(np.zeros((5, 4, 3), np.uint8), np.full((2, 4, 5), 0.5))
