# SPDX-License-Identifier: MIT
"""Volumes and sequences: three axes, each with its own spacing."""

from crfrnn.volumes.nifti import Volume as Volume
from crfrnn.volumes.nifti import read_nifti as read_nifti
from crfrnn.volumes.nifti import write_nifti as write_nifti
from crfrnn.volumes.scores import read_scores as read_scores
from crfrnn.volumes.volume import VOLUME_PRESET as VOLUME_PRESET
from crfrnn.volumes.volume import refine_volume as refine_volume
from crfrnn.volumes.volume import to_display_range as to_display_range
