# SPDX-License-Identifier: MIT
"""Pictures in, label maps out, whatever the picture is and however large."""

from crfrnn.predict.checkpoints import default_checkpoint as default_checkpoint
from crfrnn.predict.checkpoints import packaged_checkpoints as packaged_checkpoints
from crfrnn.predict.prediction import Area as Area
from crfrnn.predict.prediction import Prediction as Prediction
from crfrnn.predict.predictor import Predictor as Predictor
