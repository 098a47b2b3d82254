# SPDX-License-Identifier: MIT
"""The plugin for napari: labels, probabilities or strokes of a viewer's layers, refined along an image."""

from crfrnn.napari.refinement import Request as Request
from crfrnn.napari.refinement import Session as Session
from crfrnn.napari.refinement import default_preset as default_preset
from crfrnn.napari.refinement import refine_arrays as refine_arrays
