# SPDX-License-Identifier: MIT
"""Pseudo-labels: class activation maps and scores in, label maps to train on out."""

from crfrnn.pseudo.folder import Job as Job
from crfrnn.pseudo.folder import Report as Report
from crfrnn.pseudo.folder import write_pseudo_labels as write_pseudo_labels
from crfrnn.pseudo.labels import refine_labels as refine_labels
from crfrnn.pseudo.recipes import RECIPES as RECIPES
from crfrnn.pseudo.recipes import Recipe as Recipe
from crfrnn.pseudo.recipes import recipe_named as recipe_named
from crfrnn.pseudo.sources import Cams as Cams
from crfrnn.pseudo.sources import read_cams as read_cams
