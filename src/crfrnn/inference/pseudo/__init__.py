# SPDX-License-Identifier: MIT
"""Pseudo-labels for training from class activation maps and scores."""

from crfrnn.inference.pseudo.cam_crf import CAM_CRFS as CAM_CRFS
from crfrnn.inference.pseudo.cam_crf import CamCRF as CamCRF
from crfrnn.inference.pseudo.cam_crf import cam_crf as cam_crf
from crfrnn.inference.pseudo.folder import Job as Job
from crfrnn.inference.pseudo.folder import LabelStep as LabelStep
from crfrnn.inference.pseudo.folder import write_pseudo_labels as write_pseudo_labels
from crfrnn.inference.pseudo.labels import refine_labels as refine_labels
