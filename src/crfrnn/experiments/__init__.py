# SPDX-License-Identifier: MIT
"""The paper's tables and a comparison of refiners, as resumable runs with reports."""

from crfrnn.experiments.experiment import Experiment as Experiment
from crfrnn.experiments.fits import UnaryExperiment as UnaryExperiment
from crfrnn.experiments.networks import NetworkExperiment as NetworkExperiment
from crfrnn.experiments.plans import Plan as Plan
from crfrnn.experiments.plans import Row as Row
from crfrnn.experiments.plans import Run as Run
from crfrnn.experiments.plans import ablations as ablations
from crfrnn.experiments.plans import table1 as table1
from crfrnn.experiments.plans import unaries as unaries
from crfrnn.experiments.plans import unary_ablations as unary_ablations
from crfrnn.experiments.refinement import Refinement as Refinement
from crfrnn.experiments.refinement import RefinementConfig as RefinementConfig
from crfrnn.experiments.refinement import Source as Source
from crfrnn.experiments.refinement_report import draw_photographs as draw_photographs
from crfrnn.experiments.refinement_report import write_refinement as write_refinement
from crfrnn.experiments.report import write_report as write_report
from crfrnn.experiments.score_sources import CoarseLabels as CoarseLabels
from crfrnn.experiments.score_sources import NetworkScores as NetworkScores
from crfrnn.experiments.seeds import write_seeds as write_seeds
