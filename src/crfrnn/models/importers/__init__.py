# SPDX-License-Identifier: MIT
"""Import of published weights: Caffe, Keras, the PyTorch port, torchvision's VGG-16."""

from crfrnn.models.importers.assemble import Converted as Converted
from crfrnn.models.importers.assemble import Found as Found
from crfrnn.models.importers.assemble import assemble as assemble
from crfrnn.models.importers.caffe import read_caffe as read_caffe
from crfrnn.models.importers.convert import READERS as READERS
from crfrnn.models.importers.convert import convert as convert
from crfrnn.models.importers.keras import read_keras as read_keras
from crfrnn.models.importers.pytorch import read_pytorch as read_pytorch
from crfrnn.models.importers.pytorch import read_torchvision as read_torchvision
