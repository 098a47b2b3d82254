# SPDX-License-Identifier: MIT
"""Pictures, masks and unaries on disk. Nothing here has heard of a metric or of training."""

from crfrnn.data.arrays import read_array as read_array
from crfrnn.data.arrays import read_arrays as read_arrays
from crfrnn.data.deeplab import DeepLabUnaries as DeepLabUnaries
from crfrnn.data.files import FileError as FileError
from crfrnn.data.files import atomic as atomic
from crfrnn.data.images import read_image as read_image
from crfrnn.data.palette import VOID as VOID
from crfrnn.data.palette import read_label_png as read_label_png
from crfrnn.data.palette import voc_palette as voc_palette
from crfrnn.data.palette import write_label_png as write_label_png
from crfrnn.data.scribbles import read_label_map as read_label_map
from crfrnn.data.scribbles import read_scribbles as read_scribbles
from crfrnn.data.shared import shared_folder as shared_folder
from crfrnn.data.shared import voc_person_folder as voc_person_folder
from crfrnn.data.unary_files import Unary as Unary
from crfrnn.data.unary_files import read_unary as read_unary
from crfrnn.data.unary_files import unary_from_labels as unary_from_labels
from crfrnn.data.voc import VOC_CLASSES as VOC_CLASSES
from crfrnn.data.voc import LabelledPicture as LabelledPicture
from crfrnn.data.voc import PictureSet as PictureSet
