# SPDX-License-Identifier: MIT
"""Networks of other toolkits behind the CRF, each by one function that imports its library when called."""

from crfrnn.models.toolkits.monai import from_monai as from_monai
from crfrnn.models.toolkits.smp import from_smp as from_smp
from crfrnn.models.toolkits.timm import TimmFCN as TimmFCN
from crfrnn.models.toolkits.timm import from_timm as from_timm
from crfrnn.models.toolkits.torchvision import from_torchvision as from_torchvision
from crfrnn.models.toolkits.transformers import from_transformers as from_transformers
from crfrnn.models.toolkits.transformers import (
    post_process_semantic_segmentation as post_process_semantic_segmentation,
)
