# SPDX-License-Identifier: MIT
"""Inference on pictures: refine, segment, tiles, volumes, scribbles, pseudo-labels."""

from crfrnn.inference.checkpoints import default_checkpoint as default_checkpoint
from crfrnn.inference.checkpoints import packaged_checkpoints as packaged_checkpoints
from crfrnn.inference.held import Held as Held
from crfrnn.inference.held import Seen as Seen
from crfrnn.inference.prediction import Area as Area
from crfrnn.inference.prediction import Prediction as Prediction
from crfrnn.inference.prediction import Tiling as Tiling
from crfrnn.inference.predictor import Predictor as Predictor
from crfrnn.inference.refine import refine as refine
from crfrnn.inference.tiles import refine_tiles as refine_tiles
from crfrnn.inference.volume import VOLUME_PRESET as VOLUME_PRESET
from crfrnn.inference.volume import refine_volume as refine_volume
from crfrnn.inference.volume import to_display_range as to_display_range
