# SPDX-License-Identifier: MIT
"""The figures of an evaluation: their counts, the function of the summed counts, and their titles.

Means over labels are over those that occur in the truth, the same for every method.
"""

from __future__ import annotations

from typing import NamedTuple

from crfrnn.evaluation import boundary, confusion
from crfrnn.evaluation.bootstrap import Metric


class Figure(NamedTuple):
    """`counts`: the kind of counts; `function`: summed counts [..., *] → [...]; `title`: for tables."""

    counts: str
    function: Metric
    title: str


METRICS: dict[str, Figure] = {
    "mean_iu": Figure("confusion", confusion.mean_iu_of_truth, "mean IU"),
    "pixel_accuracy": Figure("confusion", confusion.pixel_accuracy, "pixel acc."),
    "mean_accuracy": Figure("confusion", confusion.mean_accuracy, "mean acc."),
    "frequency_weighted_iu": Figure("confusion", confusion.frequency_weighted_iu, "f.w. IU"),
    "trimap_iu": Figure("trimap", confusion.mean_iu_of_truth, "trimap IU"),
    "trimap_accuracy": Figure("trimap", confusion.pixel_accuracy, "trimap acc."),
    "boundary_iou": Figure("boundary_iou", boundary.mean_ratio, "boundary IoU"),
    "boundary_f": Figure("boundary_f", boundary.mean_ratio, "boundary F"),
}
