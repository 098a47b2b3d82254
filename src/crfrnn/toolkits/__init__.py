# SPDX-License-Identifier: MIT
"""One-line wrappers for other toolkits; `crfrnn.toolkits.monai` has the transform for MONAI."""

from crfrnn.toolkits.monai_networks import from_monai as from_monai
from crfrnn.toolkits.smp import from_smp as from_smp
from crfrnn.toolkits.timm import TimmFCN as TimmFCN
from crfrnn.toolkits.timm import from_timm as from_timm
from crfrnn.toolkits.torchvision import from_torchvision as from_torchvision
from crfrnn.toolkits.transformers import from_transformers as from_transformers
from crfrnn.toolkits.transformers import (
    post_process_semantic_segmentation as post_process_semantic_segmentation,
)
