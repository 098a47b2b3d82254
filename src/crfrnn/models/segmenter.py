# SPDX-License-Identifier: MIT
"""A network and a CRF as one module: picture in, refined logits out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crfrnn.crf import CRFRNN
from crfrnn.crf.binary import check_class_names
from crfrnn.io.files import PathLike
from crfrnn.models.logits import logits_of, resize_logits
from crfrnn.models.preprocessing import IMAGENET, Preprocessing, check_batch
from crfrnn.models.pretrained import find_checkpoint, load_segmenter, save_segmenter


class Segmenter(nn.Module):
    """Any network that returns logits, followed by a `CRFRNN`, trained as one.

    ``U = network(preprocess(I))`` enlarged to the picture's size, then ``crf(U, I)`` with the picture itself,
    in 0..255, as the guide.

    Args:
        network: returns a tensor [B, L, h, w], a mapping with "out" or "logits", or an object with
            ``.logits``, as torchvision, segmentation-models-pytorch and transformers do.
        crf: for the same number of labels, or None for the network alone. A network with one channel, made
            for a sigmoid, takes ``CRFRNN(1)``.
        preprocessing: the network's input; None uses the network's attribute ``preprocessing``, or
            ImageNet's if it has none.
        guide: preprocessing of the CRF's guide; None: the picture itself. The original model needs
            `CAFFE_GUIDE`.
        class_names: one per label, or none; for one channel the foreground's name, or both.
        long_side: the longer side, in pixels, of the training pictures, for callers that segment larger
            ones; None: unknown. The segmenter itself accepts any size.

    Attributes:
        network, crf, class_names, long_side: as given.

    Source: Zheng et al., ICCV 2015, doi:10.1109/ICCV.2015.179, section 5 and Fig. 3.

    >>> segmenter = Segmenter(nn.Conv2d(3, 4, 1), CRFRNN(4))
    >>> picture = torch.randint(256, (2, 3, 20, 30), dtype=torch.uint8)
    >>> segmenter(picture).shape
    torch.Size([2, 4, 20, 30])
    """

    def __init__(
        self,
        network: nn.Module,
        crf: CRFRNN | None = None,
        *,
        preprocessing: Preprocessing | None = None,
        guide: Preprocessing | None = None,
        class_names: Sequence[str] = (),
        long_side: int | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(network, nn.Module):
            raise TypeError(
                f"network: expected a torch.nn.Module, got {type(network).__name__}; wrap it in one"
            )
        if crf is not None and not isinstance(crf, CRFRNN):
            raise TypeError(f"crf: expected a CRFRNN or None, got {type(crf).__name__}")
        for name, value in (("preprocessing", preprocessing), ("guide", guide)):
            if value is not None and not isinstance(value, Preprocessing):
                raise TypeError(f"{name}: expected a Preprocessing or None, got {type(value).__name__}")
        if crf is not None:
            class_names = check_class_names(class_names, crf.num_labels)
        if long_side is not None and (not isinstance(long_side, int) or long_side < 1):
            raise ValueError(f"long_side: expected None or at least 1 pixel, got {long_side!r}")
        self.network, self.crf, self.long_side = network, crf, long_side
        self.class_names = tuple(map(str, class_names))
        self._preprocessing, self.guide = preprocessing, guide or Preprocessing()

    @property
    def preprocessing(self) -> Preprocessing:
        """The preprocessing as given, or the network's current one, or ImageNet's."""
        if self._preprocessing is not None:
            return self._preprocessing
        own = getattr(self.network, "preprocessing", None)
        return own if isinstance(own, Preprocessing) else IMAGENET

    def unary(self, picture: Tensor, mask: Tensor | None = None) -> Tensor:
        """The network's logits at the picture's size, without the CRF; arguments as `forward`'s."""
        _check_picture(picture, mask)
        wanted = self.preprocessing
        values = wanted(picture)
        if mask is not None:
            # Set padding to the mean colour, which equals zero padding after preprocessing.
            values = torch.where(mask.unsqueeze(1), values, values.new_zeros(()))
        height, width = picture.shape[2:]
        below, right = -height % wanted.multiple, -width % wanted.multiple
        if below or right:
            values = F.pad(values, (0, right, 0, below))
        logits = logits_of(self.network(values))
        logits = resize_logits(logits, (height + below, width + right))[:, :, :height, :width]
        return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits

    def forward(
        self,
        picture: Tensor,
        mask: Tensor | None = None,
        clamp: Tensor | None = None,
        iterations: int | None = None,
    ) -> Tensor:
        """Segment a batch of pictures.

        Args:
            picture: Float or UInt8 [B, 3, H, W], RGB in 0..255, not normalised.
            mask: Bool[B, H, W], True = valid; to batch pictures of different sizes, pad and mask them.
            clamp: Int[B, H, W], known labels, -1 = free.
            iterations: iterations of the CRF in this call; 0 returns the unary.

        Returns:
            Logits, Float[B, L, H, W].

        Raises:
            ValueError, TypeError: shapes, dtypes or label counts that do not fit.
        """
        logits = self.unary(picture, mask)
        if self.crf is None:
            if clamp is not None or iterations:
                raise ValueError("clamp, iterations: expected a segmenter with a CRF, got crf=None")
            return logits
        return self.crf(logits, self.guide(picture), mask=mask, clamp=clamp, iterations=iterations)

    def save_pretrained(
        self,
        save_directory: PathLike,
        *,
        dtype: torch.dtype = torch.float32,
        push_to_hub: bool = False,
        repo_id: str | None = None,
        **options: Any,
    ) -> None:
        """Write ``model.safetensors`` and ``config.json``, atomically.

        Args:
            save_directory: a folder, created if missing; or FILE.safetensors, which then holds the
                configuration in its metadata.
            dtype: dtype of the network's weights in the file: float32, float16 or bfloat16. The CRF's
                parameters stay float32.
            push_to_hub: also upload them, as `repo_id` (None: the folder's name), with `options`.

        Raises:
            ValueError: a network without a recipe (see `register_network`), NaN or infinity in a weight.

        >>> import tempfile
        >>> from crfrnn.models import LiteFPN
        >>> folder = tempfile.mkdtemp()
        >>> Segmenter(LiteFPN(3), CRFRNN(3)).save_pretrained(folder)
        >>> Segmenter.from_pretrained(folder).crf.num_labels
        3
        """
        save_segmenter(self, Path(save_directory), dtype)
        if push_to_hub:
            self.push_to_hub(repo_id or Path(save_directory).name, dtype=dtype, **options)
        elif repo_id is not None or options:
            got = ", ".join(["repo_id"] * (repo_id is not None) + sorted(options))
            raise TypeError(
                f"push_to_hub: expected True together with {got}, got False; omit one or the other"
            )

    @classmethod
    def from_pretrained(
        cls, path_or_name: PathLike, *, network: nn.Module | None = None, **hub: Any
    ) -> Segmenter:
        """The segmenter of a folder, a .safetensors file, a checkpoint of this package, or a Hub repository.

        No code in the files is run, and shapes are compared before anything is allocated.

        Args:
            path_or_name: folder or file that `save_pretrained` wrote; the name of a packaged checkpoint; or
                OWNER/NAME on the Hugging Face Hub (extra ``hub``).
            network: the network to fill if its name is not registered; None builds it by its recipe.
            hub: ``revision``, ``token``, ``cache_dir``, ``force_download``, ``local_files_only``.

        Returns:
            The segmenter in evaluation mode.

        Raises:
            ValueError: no such file, damaged, or weights that do not fit.
            ImportError: a name on the Hub without the extra.
        """
        found = find_checkpoint(path_or_name)
        if found is not None:
            return load_segmenter(cls, found, network)
        from crfrnn.models.hub import SegmenterHub

        return SegmenterHub.from_pretrained(str(path_or_name), kind=cls, network=network, **hub).segmenter

    def push_to_hub(self, repo_id: str, *, dtype: torch.dtype = torch.float32, **options: Any) -> Any:
        """Upload weights, configuration and a model card to the Hugging Face Hub (extra ``hub``).

        Args:
            repo_id: OWNER/NAME.
            dtype: as for `save_pretrained`.
            options: of huggingface_hub's ``push_to_hub``: ``private``, ``commit_message``, ``token``, ….
        """
        from crfrnn.models.hub import SegmenterHub

        return SegmenterHub(self, dtype).push_to_hub(repo_id=repo_id, **options)


def _check_picture(picture: Tensor, mask: Tensor | None) -> None:
    if not isinstance(picture, Tensor):
        raise TypeError(
            f"picture: expected a tensor [B, 3, H, W] in 0..255, got {type(picture).__name__}; "
            "torch.from_numpy(image).permute(2, 0, 1)[None] makes one"
        )
    if not picture.is_floating_point() and picture.dtype != torch.uint8:
        raise TypeError(f"picture: expected float or uint8 in 0..255, got {picture.dtype}; use .float()")
    check_batch(picture, "one picture alone needs picture[None]")
    if mask is None:
        return
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        raise TypeError("mask: expected a bool tensor [B, H, W], True = valid; compare first, mask > 0")
    if mask.shape != (picture.shape[0], *picture.shape[2:]):
        raise ValueError(f"mask: expected [B, H, W] of {tuple(picture.shape)}, got {tuple(mask.shape)}")
