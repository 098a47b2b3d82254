# SPDX-License-Identifier: MIT
"""Learning and choosing the parameters of a CRF from unaries and masks, and the file that keeps them."""

from crfrnn.training.config import FitConfig as FitConfig
from crfrnn.training.dataset import FolderUnaries as FolderUnaries
from crfrnn.training.dataset import Sample as Sample
from crfrnn.training.dataset import UnaryDataset as UnaryDataset
from crfrnn.training.dataset import split_folds as split_folds
from crfrnn.training.fit import FitResult as FitResult
from crfrnn.training.fit import cross_fit as cross_fit
from crfrnn.training.fit import fit as fit
from crfrnn.training.losses import lovasz_softmax as lovasz_softmax
from crfrnn.training.parameters import SavedParameters as SavedParameters
from crfrnn.training.parameters import load_parameters as load_parameters
from crfrnn.training.parameters import save_parameters as save_parameters
from crfrnn.training.set_iou import SetIoU as SetIoU
from crfrnn.training.tune import TuneConfig as TuneConfig
from crfrnn.training.tune import TuneResult as TuneResult
from crfrnn.training.tune import tune as tune
