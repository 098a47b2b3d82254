# SPDX-License-Identifier: MIT
"""transformers' ``pipeline("image-segmentation")`` with the CRF in it: `CRFPostProcessor`."""

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
_SIZES = "target_size"  # the entry by which the pipeline carries the size of the picture past the model


class _Side(int):
    """A picture's height that carries the picture: what is put beside it is given to the model or lost."""

    image: Any = None

    @classmethod
    def of(cls, height: int, image: Any) -> _Side:
        side = cls(height)
        side.image = image
        return side


class _Inputs(BatchFeature):
    """What a processor returns; sizes that the pipeline adds get their pictures."""

    images: Sequence[Any] = ()

    def __setitem__(self, key: str, value: Any) -> None:
        if key == _SIZES and len(self.images) == len(value):
            pairs = zip(value, self.images, strict=True)
            value = [(_Side.of(height, image), width) for (height, width), image in pairs]
        super().__setitem__(key, value)


class CRFPostProcessor:
    """An image processor whose semantic segmentation goes through a CRF, at the pictures' own sizes.

    It stands in the place of the processor: ``pipeline("image-segmentation", model=model,
    image_processor=CRFPostProcessor(processor, crf))``, also with batches and workers. What it does not
    define is the processor's, so panoptic and instance segmentation, which a pipeline prefers where the
    processor has them, stay as they are; ``subtask="semantic"`` asks for labels.

    Args:
        processor: the image processor of the model.
        crf: for as many labels as the model has.
        iterations: of the CRF; None takes its own.

    Raises: TypeError for another kind of processor, or of CRF.
    """

    def __init__(self, processor: Any, crf: CRFRNN, iterations: int | None = None) -> None:
        if not hasattr(processor, "post_process_semantic_segmentation"):
            raise TypeError(
                "processor: expected an image processor with post_process_semantic_segmentation, got "
                f"{type(processor).__name__}; take that of the model, AutoImageProcessor.from_pretrained(…)"
            )
        if not isinstance(crf, CRFRNN):
            raise TypeError(f"crf: expected a CRFRNN, got {type(crf).__name__}; CRFRNN(num_labels)")
        self.processor, self.crf, self.iterations = processor, crf.eval(), iterations

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "processor" not in vars(self):  # while it is unpickled
            raise AttributeError(name)
        return getattr(self.processor, name)

    def __call__(self, images: Any, **options: Any) -> Any:
        """What the processor returns for the pictures."""
        found = self.processor(images=images, **options)
        made = _Inputs(dict(found))
        made.images = images if isinstance(images, list | tuple) else [images]
        return made

    def post_process_semantic_segmentation(
        self, outputs: Any, target_sizes: Sequence[tuple[int, int]] | None = None, images: Any = None
    ) -> list[Tensor]:
        """Label maps Int64[H, W] after the CRF, one a picture.

        Args:
            outputs: what the model returned.
            target_sizes: (height, width) of the pictures, as the pipeline passes them.
            images: the pictures, where it is called outside of a pipeline.

        Raises: ValueError without pictures, or for sizes that are not theirs.
        """
        if images is None:
            images = [getattr(height, "image", None) for height, _ in target_sizes or ()]
        if not images or any(image is None for image in images):
            raise ValueError(
                "images: expected the pictures, got none; pass images=[…] where no pipeline does it"
            )
        found = post_process_semantic_segmentation(self.processor, outputs, images, self.crf, self.iterations)
        for labels, size in zip(found, target_sizes or (), strict=bool(target_sizes)):
            if tuple(labels.shape) != tuple(map(int, size)):
                raise ValueError(
                    f"target_sizes: expected {tuple(labels.shape)} of the picture, got "
                    f"{tuple(map(int, size))}; the CRF works at the picture's own size"
                )
        return found

    def save_pretrained(self, folder: PathLike, **options: Any) -> None:
        """Write the processor's own file, and ``crf.safetensors`` beside it."""
        self.processor.save_pretrained(folder, **options)
        about = {} if self.iterations is None else {"iterations": self.iterations}
        save_parameters(Path(folder) / FILE, self.crf, provenance=about)

    @classmethod
    def from_pretrained(cls, folder: PathLike, processor: Any = None) -> CRFPostProcessor:
        """What `save_pretrained` wrote; nothing is fetched.

        Args:
            folder: of both files.
            processor: in place of the one that the folder names.
        """
        saved = load_parameters(Path(folder) / FILE)
        if processor is None:
            processor = AutoImageProcessor.from_pretrained(str(folder), local_files_only=True)
        return cls(processor, saved.crf, saved.provenance.get("iterations"))
