# SPDX-License-Identifier: MIT
"""Files that people have: pictures, label maps, arrays, unaries, scribbles, cams, NIfTI, GeoTIFF."""

from crfrnn.io.arrays import read_array as read_array
from crfrnn.io.arrays import read_arrays as read_arrays
from crfrnn.io.cams import Cams as Cams
from crfrnn.io.cams import read_cams as read_cams
from crfrnn.io.files import FileError as FileError
from crfrnn.io.files import atomic as atomic
from crfrnn.io.geotiff import LabelRaster as LabelRaster
from crfrnn.io.geotiff import Raster as Raster
from crfrnn.io.images import read_image as read_image
from crfrnn.io.labels import read_label_map as read_label_map
from crfrnn.io.labels import read_label_png as read_label_png
from crfrnn.io.labels import write_label_png as write_label_png
from crfrnn.io.matfile import read_mat as read_mat
from crfrnn.io.nifti import Volume as Volume
from crfrnn.io.nifti import read_nifti as read_nifti
from crfrnn.io.nifti import write_nifti as write_nifti
from crfrnn.io.palette import VOC_CLASSES as VOC_CLASSES
from crfrnn.io.palette import VOID as VOID
from crfrnn.io.palette import voc_palette as voc_palette
from crfrnn.io.parameters import SavedParameters as SavedParameters
from crfrnn.io.parameters import load_parameters as load_parameters
from crfrnn.io.parameters import save_parameters as save_parameters
from crfrnn.io.rectangles import InMemory as InMemory
from crfrnn.io.rectangles import Windowed as Windowed
from crfrnn.io.scores import AsLogits as AsLogits
from crfrnn.io.scores import unary_from_labels as unary_from_labels
from crfrnn.io.scribbles import read_scribbles as read_scribbles
from crfrnn.io.unaries import Unary as Unary
from crfrnn.io.unaries import read_scores as read_scores
from crfrnn.io.unaries import read_unary as read_unary
