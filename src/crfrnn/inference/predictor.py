# SPDX-License-Identifier: MIT
"""`Predictor`: picture in, label map out, with the CRF or without, in tiles where memory asks for them."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from crfrnn.crf.binary import for_two_labels, label_names, two_labels
from crfrnn.inference.bands import Bands, check_clamp, collect, enlarge, shrink, shrink_clamp
from crfrnn.inference.checkpoints import default_checkpoint
from crfrnn.inference.memory import (
    AMPLE,
    MIB,
    Appetite,
    corner,
    crf_appetite,
    network_appetite,
    tile_within,
    vertices_per_pixel,
)
from crfrnn.inference.pictures import Picture, picture_tensor
from crfrnn.inference.prediction import Prediction
from crfrnn.inference.windows import windows
from crfrnn.io.files import PathLike
from crfrnn.models import Segmenter


class Predictor:
    """Segment any picture with a `Segmenter`, at the picture's own size.

    ``labels = argmax_l p_l`` with ``p = softmax(crf(U, I))``, ``U = network(I)``; a network of one channel
    gives the labels 0 and 1 of ``p = [1 - sigmoid(x), sigmoid(x)]``. A picture that takes more
    than `memory` is cut into overlapping tiles, network and CRF run on each, and the tiles' p are faded into
    each other: a weighted mean whose weights sum to 1.

    Args:
        segmenter: is put into evaluation mode, and stays on its device.
        use_crf: False leaves the network's own labels, to compare.
        iterations: of the CRF; None takes its own.
        long_side: in pixels; larger pictures are segmented at this size and p is enlarged again (bilinear).
            A network knows things at the size at which it was trained, so large photographs gain by it.
        memory: MiB that one picture may take, beside the weights and the probabilities that are returned:
            an estimate from the network's largest layer and the CRF's vertices, made on pieces of it.
        tile: side of the tiles in pixels; None derives it from `memory`.
        overlap: pixels that neighbouring tiles share, at most a quarter of a tile.

    Raises:
        TypeError: not a `Segmenter`, or numbers of another kind.
        ValueError: numbers out of range; a CRF whose labels overlap, which give no label map.

    Source: Zheng et al., ICCV 2015, doi:10.1109/ICCV.2015.179, section 5 and Fig. 3.

    >>> import numpy as np
    >>> from crfrnn import CRFRNN, Predictor, Segmenter
    >>> predictor = Predictor(Segmenter(torch.nn.Conv2d(3, 4, 1), CRFRNN(4)))
    >>> found = predictor(np.zeros((20, 30, 3), np.uint8), probabilities=True)
    >>> found.labels.shape, found.probabilities.shape, len(found.areas)
    ((20, 30), (4, 20, 30), 1)
    """

    def __init__(
        self,
        segmenter: Segmenter,
        *,
        use_crf: bool = True,
        iterations: int | None = None,
        long_side: int | None = None,
        memory: float = 2048,
        tile: int | None = None,
        overlap: int = 128,
    ) -> None:
        if not isinstance(segmenter, Segmenter):
            raise TypeError(
                f"segmenter: expected a Segmenter, got {type(segmenter).__name__}; "
                "Segmenter(network, crf) makes one, Segmenter.from_pretrained(path) reads one"
            )
        for name, value, least in (
            ("iterations", iterations, 0), ("long_side", long_side, 1), ("tile", tile, 8),
            ("overlap", overlap, 0),
        ):  # fmt: skip
            if value is None and name != "overlap":
                continue
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{name}: expected a whole number, got {value!r}")
            if value < least:
                raise ValueError(f"{name}: expected at least {least}, got {value}")
        if not memory > 0:
            raise ValueError(f"memory: expected MiB above 0, got {memory!r}")
        if iterations is not None and segmenter.crf is None:
            raise ValueError("iterations: expected a segmenter with a CRF, got crf=None; leave it out")
        if segmenter.crf is not None:
            for_two_labels(segmenter.crf)  # refuses labels that overlap
        self.segmenter = segmenter.eval()
        self.use_crf, self.iterations, self.long_side = bool(use_crf), iterations, long_side
        self.memory, self.tile, self.overlap = memory, tile, overlap
        self._appetites: dict[torch.Size, Appetite] = {}

    @classmethod
    def from_pretrained(
        cls, path_or_name: PathLike | None = None, *, device: str | torch.device = "cpu", **options: Any
    ) -> Predictor:
        """A predictor with the segmenter of a checkpoint.

        Args:
            path_or_name: as `Segmenter.from_pretrained` takes it; None: the checkpoint of this package.
            device: where the segmenter is put.
            options: of `Predictor`; without a `long_side` that of the checkpoint, if it has one.

        Raises:
            ValueError: nothing there, damaged, or no checkpoint in this package.
        """
        found = default_checkpoint() if path_or_name is None else path_or_name
        segmenter = Segmenter.from_pretrained(found).to(device)
        if options.get("long_side") is None:
            options["long_side"] = segmenter.long_side
        return cls(segmenter, **options)

    @torch.no_grad()
    def __call__(
        self,
        picture: Picture,
        *,
        clamp: NDArray[Any] | Tensor | None = None,
        probabilities: bool = False,
        use_crf: bool | None = None,
    ) -> Prediction:
        """Segment one picture.

        Args:
            picture: a path; a Pillow picture; UInt8 or UInt16 [H, W], [H, W, 3] or [H, W, 4]; or a tensor
                UInt8 or Float [3, H, W] in 0..255.
            clamp: Int[H, W] of the upright picture, known labels, -1 = free. They are kept as they are, and
                the CRF spreads them.
            probabilities: also return them; 4·L·H·W bytes.
            use_crf: for this call; None takes the predictor's.

        Raises:
            ValueError, TypeError: naming the argument, what was expected, what came and the remedy.
        """
        image = picture_tensor(picture)
        height, width = image.shape[1:]
        held = check_clamp(clamp, height, width)
        crf = (self.use_crf if use_crf is None else bool(use_crf)) and self.segmenter.crf is not None
        long_side = max(height, width)
        small = self.long_side is not None and long_side > self.long_side
        work, kept = image, held
        if small and self.long_side is not None:
            share = self.long_side / long_side
            size = max(1, round(height * share)), max(1, round(width * share))
            work = shrink(image, size)
            kept = None if held is None else shrink_clamp(held, size)
        side = self.tile or self._side(work, crf, (height, width))
        bands, tiles = self._tiles(work, kept, crf, side)
        if small:
            bands = enlarge(bands, work.shape[1], height, width)
        labels, kept_probabilities = collect(bands, height, width, held, probabilities)
        return Prediction(labels, kept_probabilities, label_names(self.segmenter.class_names), crf, tiles)

    def _side(self, image: Tensor, crf: bool, whole: tuple[int, int]) -> int:
        """The side of a tile that fits into the memory."""
        height, width = image.shape[1:]
        if AMPLE * height * width <= self.memory * MIB:
            return max(height, width)
        piece = corner(image)
        if piece.shape not in self._appetites:
            self._appetites[piece.shape] = network_appetite(self.segmenter, self._to_device(piece))
        needs = self._appetites[piece.shape]
        if crf:
            needs = crf_appetite(needs, vertices_per_pixel(self.segmenter, self._to_device(image)))
        return tile_within(self.memory, (height, width), needs, whole)

    def _tiles(self, image: Tensor, clamp: Tensor | None, crf: bool, side: int) -> tuple[Bands, int]:
        height, width = image.shape[1:]
        rows, columns = windows(height, side, self.overlap), windows(width, side, self.overlap)

        def bands() -> Bands:
            carried: Tensor | None = None
            for i, row in enumerate(rows):
                band: Tensor | None = None
                for column in columns:
                    part = slice(row.start, row.stop), slice(column.start, column.stop)
                    held = None if clamp is None else clamp[part]
                    p = self._probabilities(image[:, part[0], part[1]], held, crf)
                    if len(rows) == len(columns) == 1:
                        yield 0, p
                        return
                    if band is None:
                        band = p.new_zeros(p.shape[0], p.shape[1], width)
                    p *= torch.from_numpy(row.weights[:, None] * column.weights)
                    band[:, :, part[1]] += p
                assert band is not None
                if carried is not None:
                    band[:, : carried.shape[1]] += carried
                done = (rows[i + 1].start if i + 1 < len(rows) else row.stop) - row.start
                carried = band[:, done:].clone()
                yield row.start, band[:, :done]

        return bands(), len(rows) * len(columns)

    def _probabilities(self, image: Tensor, clamp: Tensor | None, crf: bool) -> Tensor:
        """Float32[L, h, w] on the CPU, of one tile."""
        batch = self._to_device(image)[None]
        if crf:
            held = None if clamp is None else clamp.to(batch.device)[None]
            logits = self.segmenter(batch, clamp=held, iterations=self.iterations)
        else:
            logits = self.segmenter.unary(batch)
        p = two_labels(logits[0].float()).softmax(0).cpu()
        if not bool(torch.isfinite(p.sum())):  # of numbers in 0..1, so that NaN alone can spoil it
            raise ValueError(
                "segmenter: expected finite logits, got NaN or infinity; its weights are damaged, "
                "or were trained until they diverged"
            )
        return p

    def _to_device(self, image: Tensor) -> Tensor:
        first = next(self.segmenter.parameters(), image)
        if first.dtype == torch.float64:
            return image.to(first.device, torch.float64)
        return image.to(first.device, image.dtype if image.dtype == torch.uint8 else torch.float32)
