# SPDX-License-Identifier: MIT
"""This package's and other methods to refine the scores of a picture, with one interface."""

from crfrnn.experiments.refiners.crfs import learned as learned
from crfrnn.experiments.refiners.ranking import after_crf as after_crf
from crfrnn.experiments.refiners.refiner import Range as Range
from crfrnn.experiments.refiners.refiner import Refiner as Refiner
from crfrnn.experiments.refiners.scene import Scene as Scene
from crfrnn.experiments.refiners.table import NAMES as NAMES
from crfrnn.experiments.refiners.table import NONE as NONE
from crfrnn.experiments.refiners.table import OURS as OURS
from crfrnn.experiments.refiners.table import refiner as refiner
