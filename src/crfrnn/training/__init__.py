# SPDX-License-Identifier: MIT
"""Training of a CRF from unaries and masks, or of a network and a CRF together by a recipe."""

from crfrnn.datasets.splits import split_folds as split_folds
from crfrnn.datasets.unaries import FolderUnaries as FolderUnaries
from crfrnn.datasets.unaries import Sample as Sample
from crfrnn.datasets.unaries import UnaryDataset as UnaryDataset
from crfrnn.io.parameters import SavedParameters as SavedParameters
from crfrnn.io.parameters import load_parameters as load_parameters
from crfrnn.io.parameters import save_parameters as save_parameters
from crfrnn.training.fit import FitResult as FitResult
from crfrnn.training.fit import cross_fit as cross_fit
from crfrnn.training.fit import fit as fit
from crfrnn.training.guard import NotFinite as NotFinite
from crfrnn.training.losses import SetIoU as SetIoU
from crfrnn.training.losses import lovasz_softmax as lovasz_softmax
from crfrnn.training.recipe import FitConfig as FitConfig
from crfrnn.training.recipe import Recipe as Recipe
from crfrnn.training.recipe import Stage as Stage
from crfrnn.training.recipe import load_recipe as load_recipe
from crfrnn.training.recipe import recipe_from as recipe_from
from crfrnn.training.recipe import recipe_names as recipe_names
from crfrnn.training.recipe import save_recipe as save_recipe
from crfrnn.training.run_files import Interrupted as Interrupted
from crfrnn.training.train import Training as Training
from crfrnn.training.train import TrainingSets as TrainingSets
from crfrnn.training.train import build_segmenter as build_segmenter
from crfrnn.training.train import read_sets as read_sets
from crfrnn.training.train import train as train
from crfrnn.training.tune import TuneConfig as TuneConfig
from crfrnn.training.tune import TuneResult as TuneResult
from crfrnn.training.tune import tune as tune
