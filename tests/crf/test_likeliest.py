# SPDX-License-Identifier: MIT
"""The label of the largest score: as numpy's argmax finds it, along any axis."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from crfrnn.crf.likeliest import likeliest


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 5, 4, 3), (21, 2, 17, 9), (3, 3, 0)])
def test_equal_to_argmax_of_numpy(shape: tuple[int, ...], axis: int) -> None:
    # Whole numbers from a short range give ties, which go to the lower label.
    scores = torch.randint(-2, 3, shape, generator=torch.Generator().manual_seed(0)).float()
    found = likeliest(scores, axis)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, scores.numpy().argmax(axis))


def test_scores_that_need_gradients_are_taken() -> None:
    assert likeliest(torch.tensor([[0.0], [1.0]], requires_grad=True)).tolist() == [1]
