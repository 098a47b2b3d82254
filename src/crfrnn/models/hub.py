# SPDX-License-Identifier: MIT
"""The Hugging Face Hub: a mixin around a segmenter, so that the package works without huggingface_hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from crfrnn.extras import install_line
from crfrnn.models.pretrained import WEIGHTS, load_segmenter, save_segmenter

if TYPE_CHECKING:
    from crfrnn.models.segmenter import Segmenter

try:
    from huggingface_hub import ModelHubMixin, hf_hub_download
except ImportError as error:
    raise ImportError(
        f"huggingface_hub: expected it for names on the Hub, got none; {install_line('hub')}, or name "
        "a local folder or .safetensors file"
    ) from error


class SegmenterHub(
    ModelHubMixin, library_name="crfrnn", pipeline_tag="image-segmentation", tags=["crf", "crf-rnn"]
):
    """A `Segmenter` with huggingface_hub's `save_pretrained`, `from_pretrained` and `push_to_hub`.

    Args:
        segmenter: the segmenter to upload, or the downloaded one.
        dtype: dtype of the network's weights in files.
    """

    def __init__(self, segmenter: Segmenter, dtype: torch.dtype = torch.float32) -> None:
        self.segmenter, self.dtype = segmenter, dtype

    def _save_pretrained(self, save_directory: Path) -> None:
        save_segmenter(self.segmenter, save_directory, self.dtype)

    @classmethod
    def _from_pretrained(
        cls, *, model_id: str, kind: type[Segmenter], network: nn.Module | None = None, **options: Any
    ) -> SegmenterHub:
        known = ("revision", "cache_dir", "force_download", "local_files_only", "token")
        chosen = {name: options[name] for name in known if name in options}
        # The weights contain their configuration; a cache may store config.json elsewhere.
        weights = Path(hf_hub_download(repo_id=model_id, filename=WEIGHTS, **chosen))
        return cls(load_segmenter(kind, weights, network))
