# SPDX-License-Identifier: MIT
"""The napari plugin: refines labels, probabilities or strokes of layers along an image."""

from crfrnn.napari.refinement import Request as Request
from crfrnn.napari.refinement import Session as Session
from crfrnn.napari.refinement import default_preset as default_preset
from crfrnn.napari.refinement import refine_arrays as refine_arrays
