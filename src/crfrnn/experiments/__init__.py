# SPDX-License-Identifier: MIT
"""The paper's tables as resumable runs: trained, evaluated, written down."""

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
from crfrnn.experiments.report import write_report as write_report
from crfrnn.experiments.seeds import write_seeds as write_seeds
