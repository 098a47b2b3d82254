# SPDX-License-Identifier: MIT
"""Pseudo-labels: class activation maps and scores in, label maps to train on out."""

from crfrnn.inference.pseudo.folder import Job as Job
from crfrnn.inference.pseudo.folder import Report as Report
from crfrnn.inference.pseudo.folder import write_pseudo_labels as write_pseudo_labels
from crfrnn.inference.pseudo.labels import refine_labels as refine_labels
from crfrnn.inference.pseudo.recipes import RECIPES as RECIPES
from crfrnn.inference.pseudo.recipes import Recipe as Recipe
from crfrnn.inference.pseudo.recipes import recipe_named as recipe_named
