# SPDX-License-Identifier: MIT
"""transformers' ``pipeline("image-segmentation")`` with the CRF: `CRFPostProcessor`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from crfrnn.crf import CRFRNN
from crfrnn.io.files import PathLike
from crfrnn.io.parameters import load_parameters, save_parameters
from crfrnn.toolkits.transformers import post_process_semantic_segmentation

try:
    from transformers import AutoImageProcessor
    from transformers.feature_extraction_utils import BatchFeature
except ImportError as error:
    raise ImportError(
        f"transformers: expected the package transformers for CRFPostProcessor, got {error}; "
        "pip install transformers"
    ) from error

FILE = "crf.safetensors"
_SIZES = "target_size"  # the entry with which the pipeline passes the picture's size around the model


class _Side(int):
    """A picture's height that carries the picture: other entries are passed to the model or dropped."""

    image: Any = None

    @classmethod
    def of(cls, height: int, image: Any) -> _Side:
        side = cls(height)
        side.image = image
        return side


class _Inputs(BatchFeature):
    """A processor's output, which attaches the pictures to the sizes that the pipeline adds."""

    images: Sequence[Any] = ()

    def __setitem__(self, key: str, value: Any) -> None:
        if key == _SIZES and len(self.images) == len(value):
            pairs = zip(value, self.images, strict=True)
            value = [(_Side.of(height, image), width) for (height, width), image in pairs]
        super().__setitem__(key, value)


class CRFPostProcessor:
    """An image processor whose semantic segmentation is refined by a CRF, at the pictures' original sizes.

    It replaces the processor: ``pipeline("image-segmentation", model=model,
        image_processor=CRFPostProcessor(processor, crf))``, also with batches and workers. Other methods are
        delegated to the processor, so panoptic and instance segmentation, which a pipeline prefers if
        available, are unchanged; ``subtask="semantic"`` selects labels.

    Args:
        processor: the image processor of the model.
        crf: for the model's number of labels.
        iterations: iterations of the CRF; None uses its setting.

    Raises: TypeError for another kind of processor, or of CRF.
    """

    def __init__(self, processor: Any, crf: CRFRNN, iterations: int | None = None) -> None:
        if not hasattr(processor, "post_process_semantic_segmentation"):
            raise TypeError(
                "processor: expected an image processor with post_process_semantic_segmentation, got "
                f"{type(processor).__name__}; use the model's, AutoImageProcessor.from_pretrained(…)"
            )
        if not isinstance(crf, CRFRNN):
            raise TypeError(f"crf: expected a CRFRNN, got {type(crf).__name__}; CRFRNN(num_labels)")
        self.processor, self.crf, self.iterations = processor, crf.eval(), iterations

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "processor" not in vars(self):  # during unpickling
            raise AttributeError(name)
        return getattr(self.processor, name)

    def __call__(self, images: Any, **options: Any) -> Any:
        """The processor's output for the pictures."""
        found = self.processor(images=images, **options)
        made = _Inputs(dict(found))
        made.images = images if isinstance(images, list | tuple) else [images]
        return made

    def post_process_semantic_segmentation(
        self, outputs: Any, target_sizes: Sequence[tuple[int, int]] | None = None, images: Any = None
    ) -> list[Tensor]:
        """Label maps Int64[H, W] after the CRF, one per picture.

        Args:
            outputs: the model's output.
            target_sizes: (height, width) of the pictures, passed by the pipeline.
            images: the pictures, if called outside a pipeline.

        Raises: ValueError without pictures, or for sizes that do not match them.
        """
        if images is None:
            images = [getattr(height, "image", None) for height, _ in target_sizes or ()]
        if not images or any(image is None for image in images):
            raise ValueError("images: expected the pictures, got none; outside a pipeline pass images=[…]")
        found = post_process_semantic_segmentation(self.processor, outputs, images, self.crf, self.iterations)
        for labels, size in zip(found, target_sizes or (), strict=bool(target_sizes)):
            if tuple(labels.shape) != tuple(map(int, size)):
                raise ValueError(
                    f"target_sizes: expected {tuple(labels.shape)} of the picture, got "
                    f"{tuple(map(int, size))}; the CRF works at the picture's original size"
                )
        return found

    def save_pretrained(self, folder: PathLike, **options: Any) -> None:
        """Write the processor's file, and ``crf.safetensors`` next to it."""
        self.processor.save_pretrained(folder, **options)
        about = {} if self.iterations is None else {"iterations": self.iterations}
        save_parameters(Path(folder) / FILE, self.crf, provenance=about)

    @classmethod
    def from_pretrained(cls, folder: PathLike, processor: Any = None) -> CRFPostProcessor:
        """Load the files of `save_pretrained`; nothing is downloaded.

        Args:
            folder: the folder of both files.
            processor: replaces the one named in the folder.
        """
        saved = load_parameters(Path(folder) / FILE)
        if processor is None:
            processor = AutoImageProcessor.from_pretrained(str(folder), local_files_only=True)
        return cls(processor, saved.crf, saved.provenance.get("iterations"))
