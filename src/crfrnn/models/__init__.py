# SPDX-License-Identifier: MIT
"""Networks that produce logits, and the segmenter that adds a CRF."""

from crfrnn.models.deeplab import DeepLab as DeepLab
from crfrnn.models.deeplab import load_deeplab as load_deeplab
from crfrnn.models.fcn import FCN as FCN
from crfrnn.models.fcn import FCN8s as FCN8s
from crfrnn.models.fcn import FCN16s as FCN16s
from crfrnn.models.fcn import FCN32s as FCN32s
from crfrnn.models.fcn import bilinear_kernel as bilinear_kernel
from crfrnn.models.lite import EfficientNetLite0 as EfficientNetLite0
from crfrnn.models.lite import LiteFPN as LiteFPN
from crfrnn.models.lite import load_lite0 as load_lite0
from crfrnn.models.logits import logits_of as logits_of
from crfrnn.models.logits import resize_logits as resize_logits
from crfrnn.models.preprocessing import CAFFE as CAFFE
from crfrnn.models.preprocessing import CAFFE_GUIDE as CAFFE_GUIDE
from crfrnn.models.preprocessing import DEEPLAB as DEEPLAB
from crfrnn.models.preprocessing import IMAGENET as IMAGENET
from crfrnn.models.preprocessing import LITE as LITE
from crfrnn.models.preprocessing import Preprocessing as Preprocessing
from crfrnn.models.registry import Recipe as Recipe
from crfrnn.models.registry import build_network as build_network
from crfrnn.models.registry import network_names as network_names
from crfrnn.models.registry import register_network as register_network
from crfrnn.models.segmenter import Segmenter as Segmenter
from crfrnn.models.vgg16 import load_vgg16 as load_vgg16
