# SPDX-License-Identifier: MIT
"""Evaluation of segmentations: counts per picture, figures per data set, intervals over pictures."""

from crfrnn.evaluation.bootstrap import Interval as Interval
from crfrnn.evaluation.bootstrap import bootstrap as bootstrap
from crfrnn.evaluation.bootstrap import paired_bootstrap as paired_bootstrap
from crfrnn.evaluation.boundary import boundary_f_counts as boundary_f_counts
from crfrnn.evaluation.boundary import boundary_iou_counts as boundary_iou_counts
from crfrnn.evaluation.boundary import mean_ratio as mean_ratio
from crfrnn.evaluation.boundary import per_label_ratio as per_label_ratio
from crfrnn.evaluation.boundary import trimap_bins as trimap_bins
from crfrnn.evaluation.boundary import trimap_confusion as trimap_confusion
from crfrnn.evaluation.confusion import ConfusionMatrix as ConfusionMatrix
from crfrnn.evaluation.confusion import Scores as Scores
from crfrnn.evaluation.confusion import confusion_matrix as confusion_matrix
from crfrnn.evaluation.confusion import frequency_weighted_iu as frequency_weighted_iu
from crfrnn.evaluation.confusion import iu as iu
from crfrnn.evaluation.confusion import mean_accuracy as mean_accuracy
from crfrnn.evaluation.confusion import mean_iu as mean_iu
from crfrnn.evaluation.confusion import mean_iu_of_truth as mean_iu_of_truth
from crfrnn.evaluation.confusion import pixel_accuracy as pixel_accuracy
from crfrnn.evaluation.confusion import scores as scores
from crfrnn.evaluation.evaluate import Evaluation as Evaluation
from crfrnn.evaluation.evaluate import Evaluator as Evaluator
from crfrnn.evaluation.evaluate import evaluate as evaluate
from crfrnn.evaluation.metrics import METRICS as METRICS
