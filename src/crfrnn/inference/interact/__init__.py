# SPDX-License-Identifier: MIT
"""Interactive segmentation from scribbles, seeds and boxes, by a colour model and the CRF."""

from crfrnn.inference.interact.marked import Marked as Marked
from crfrnn.inference.interact.marked import colour_unary as colour_unary
from crfrnn.inference.interact.marked import default_crf as default_crf
from crfrnn.inference.interact.mixture import Mixture as Mixture
from crfrnn.inference.interact.segment import segment_box as segment_box
from crfrnn.inference.interact.segment import segment_scribbles as segment_scribbles
from crfrnn.inference.interact.segment import segment_seeds as segment_seeds
