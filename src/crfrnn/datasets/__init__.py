# SPDX-License-Identifier: MIT
"""Labelled pictures for training and evaluation: VOC, SBD, COCO, Context, folders; splits, leaks."""

from crfrnn.datasets.coco import coco_pictures as coco_pictures
from crfrnn.datasets.context import CONTEXT_CLASSES as CONTEXT_CLASSES
from crfrnn.datasets.context import context_pictures as context_pictures
from crfrnn.datasets.folder import LabelList as LabelList
from crfrnn.datasets.folder import folder_pictures as folder_pictures
from crfrnn.datasets.leaks import Leak as Leak
from crfrnn.datasets.leaks import find_leaks as find_leaks
from crfrnn.datasets.leaks import refuse_leaks as refuse_leaks
from crfrnn.datasets.pictures import LabelledPicture as LabelledPicture
from crfrnn.datasets.pictures import PictureSet as PictureSet
from crfrnn.datasets.pictures import reduced as reduced
from crfrnn.datasets.samples import Batch as Batch
from crfrnn.datasets.samples import PictureSample as PictureSample
from crfrnn.datasets.samples import RandomTransform as RandomTransform
from crfrnn.datasets.samples import SegmentationDataset as SegmentationDataset
from crfrnn.datasets.samples import collate as collate
from crfrnn.datasets.sbd import sbd_pictures as sbd_pictures
from crfrnn.datasets.shared import shared_folder as shared_folder
from crfrnn.datasets.shared import voc_person_folder as voc_person_folder
from crfrnn.datasets.sources import Source as Source
from crfrnn.datasets.sources import prepare as prepare
from crfrnn.datasets.splits import augmented_lists as augmented_lists
from crfrnn.datasets.splits import held_fold as held_fold
from crfrnn.datasets.splits import merge as merge
from crfrnn.datasets.splits import paper_lists as paper_lists
from crfrnn.datasets.splits import paper_pictures as paper_pictures
from crfrnn.datasets.splits import split_folds as split_folds
from crfrnn.datasets.unaries import DeepLabUnaries as DeepLabUnaries
from crfrnn.datasets.unaries import FolderUnaries as FolderUnaries
from crfrnn.datasets.unaries import ReducedUnaries as ReducedUnaries
from crfrnn.datasets.unaries import Sample as Sample
from crfrnn.datasets.unaries import UnaryDataset as UnaryDataset
from crfrnn.datasets.voc import voc_pictures as voc_pictures
