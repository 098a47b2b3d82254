# SPDX-License-Identifier: MIT
"""The CRF in other toolkits, a line each; `crfrnn.toolkits.monai` has the transform for MONAI."""

from crfrnn.models.toolkits import TimmFCN as TimmFCN
from crfrnn.models.toolkits import from_monai as from_monai
from crfrnn.models.toolkits import from_smp as from_smp
from crfrnn.models.toolkits import from_timm as from_timm
from crfrnn.models.toolkits import from_torchvision as from_torchvision
from crfrnn.models.toolkits import from_transformers as from_transformers
from crfrnn.models.toolkits import (
    post_process_semantic_segmentation as post_process_semantic_segmentation,
)
