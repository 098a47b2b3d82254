# SPDX-License-Identifier: MIT
"""`Predictor`: segment pictures with or without the CRF, in tiles if memory requires it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crfrnn.crf import CRFRNN
from crfrnn.crf.binary import for_two_labels, label_names
from crfrnn.inference.checkpoints import default_checkpoint
from crfrnn.inference.enlarge import check_clamp, finished, shrink, shrink_clamp, work_size
from crfrnn.inference.guide import Guide, check_unit, shared_directions, vertices_per_pixel
from crfrnn.inference.held import Held, Seen
from crfrnn.inference.memory import (
    AMPLE,
    FILES,
    KEPT,
    MIB,
    PROBE,
    SMALLEST,
    Network,
    crf_pixel,
    measured,
    tile_within,
)
from crfrnn.inference.pictures import Picture, picture_tensor
from crfrnn.inference.prediction import Prediction, Tiling, marginals
from crfrnn.inference.tiles import LARGEST, Progress, Write, deliver, reach, without_data
from crfrnn.inference.windows import Tile, Window, faded, windows
from crfrnn.io.files import PathLike
from crfrnn.io.rectangles import InMemory, Windowed
from crfrnn.models import Segmenter

OVERLAP = 128  # pixels of overlap between tiles for a network


class Predictor:
    """Segment any picture with a `Segmenter`, at the picture's original size.

    ``labels = argmax_l p_l`` with ``p = softmax(crf(U, I))``, ``U = network(I)``; a network of one channel
    gives the labels 0 and 1 of ``p = [1 - sigmoid(x), sigmoid(x)]``. A picture that needs more
    than `memory` is cut into overlapping tiles, network and CRF run on each, and the tiles' p are blended by
    a weighted mean whose weights sum to 1. All tiles use the lattice coordinates of the whole picture.

    Args:
        segmenter: set to evaluation mode; stays on its device.
        use_crf: False returns the network's labels.
        iterations: iterations of the CRF; None uses its setting.
        long_side: in pixels; larger pictures are segmented at this size and p is enlarged again (bilinear).
            A network recognises objects best at the scale of its training data, so this improves the result
            for large photographs.
        memory: MiB for one picture, in addition to the weights and the returned probabilities. Estimated
            from the network's largest layer and the CRF's vertices on pieces of the picture.
        tile: side of the tiles in pixels; None derives it from `memory`.
        overlap: pixels that neighbouring tiles share, at most a quarter of a tile; None: 128, or 3 θ_α of
            the CRF if larger.

    Raises:
        TypeError: not a `Segmenter`, or arguments of another type.
        ValueError: arguments out of range; a CRF with overlapping labels, which have no label map.

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
        overlap: int | None = None,
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
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{name}: expected a whole number, got {value!r}")
            if value < least:
                raise ValueError(f"{name}: expected at least {least}, got {value}")
        if not memory > 0:
            raise ValueError(f"memory: expected MiB above 0, got {memory!r}")
        if iterations is not None and segmenter.crf is None:
            raise ValueError("iterations: expected a segmenter with a CRF, got crf=None; omit it")
        if segmenter.crf is not None:
            for_two_labels(segmenter.crf)  # rejects overlapping labels
        self.segmenter = segmenter.eval()
        self.use_crf, self.iterations, self.long_side = bool(use_crf), iterations, long_side
        self.memory, self.tile, self.overlap = memory, tile, overlap
        self._measured: dict[torch.Size, Network] = {}

    @classmethod
    def from_pretrained(
        cls,
        path_or_name: PathLike | None = None,
        *,
        device: str | torch.device = "cpu",
        crf: CRFRNN | None = None,
        **options: Any,
    ) -> Predictor:
        """A predictor with the segmenter of a checkpoint.

        Args:
            path_or_name: as for `Segmenter.from_pretrained`; None: the packaged checkpoint.
            device: device of the segmenter.
            crf: replaces the checkpoint's CRF, with the same number of labels.
            options: of `Predictor`; `long_side` defaults to that of the checkpoint, if it has one.

        Raises:
            ValueError: no such checkpoint, damaged, no packaged checkpoint, a CRF for another number of
                labels.
        """
        found = default_checkpoint() if path_or_name is None else path_or_name
        segmenter = Segmenter.from_pretrained(found)
        if crf is not None:
            own = len(segmenter.class_names) if segmenter.crf is None else segmenter.crf.num_labels
            if own not in (0, crf.num_labels):
                raise ValueError(
                    f"crf: expected {own} labels, as in {str(found)!r}, got {crf.num_labels}; "
                    "use parameters that were learned with this network"
                )
            segmenter.crf = crf.eval()
        segmenter = segmenter.to(device)
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
            clamp: Int[H, W] of the upright picture, known labels, -1 = free. They are fixed, and the CRF
                propagates them.
            probabilities: also return them; 4·L·H·W bytes.
            use_crf: for this call; None uses the predictor's setting.

        Raises:
            ValueError, TypeError: naming the argument, the expected and the actual value, and the remedy.
        """
        image = picture_tensor(picture)
        height, width = image.shape[1:]
        held = check_clamp(clamp, height, width)
        crf = self._refines(use_crf)
        size = work_size((height, width), self.long_side)
        work, kept = image, held
        if size != (height, width):
            work = shrink(image, size)
            kept = None if held is None else shrink_clamp(held, size)
        guide = Guide(InMemory(work.cpu().numpy()), self._prepare)
        overlap = self._overlap(crf)
        side = self.tile
        if side is None:
            picture_held = KEPT + (8 * height * width + 3 * work[0].numel()) / MIB
            side = self._side(guide, crf, overlap, picture_held, "a shorter long_side")
        rows, columns = (windows(n, side, overlap) for n in guide.size)
        pieces = self._pieces(guide, rows, columns, crf, kept)
        labels, before, p = finished(
            pieces, size, (height, width), halves=crf, clamp=held, keep=probabilities
        )
        return Prediction(labels, before, p, self._names, crf, len(rows) * len(columns))

    @torch.no_grad()
    def see(self, picture: Picture) -> Seen:
        """Compute the network's scores of one picture, to apply any CRF without running the network again.

        The picture is processed as a whole: `memory` does not apply. ``see(picture)(segmenter.crf)`` equals
            the predictor's result for an untiled picture.

        Args:
            picture: as for a call.

        >>> from crfrnn import CRFRNN
        >>> segmenter = Segmenter(torch.nn.Conv2d(3, 2, 1), CRFRNN(2))
        >>> seen = Predictor(segmenter).see(np.zeros((20, 30, 3), np.uint8))
        >>> seen(CRFRNN(2, theta_beta=9.0)).labels.shape
        (20, 30)
        """
        image = picture_tensor(picture)
        height, width = image.shape[1:]
        size = work_size((height, width), self.long_side)
        batch = self._to_device(shrink(image, size) if size != (height, width) else image)[None]
        unary = self.segmenter.unary(batch)
        guide = Held(self.segmenter.guide(batch)[0])
        return Seen(guide, unary[0], marginals(unary), (height, width), self._names)

    @torch.no_grad()
    def by_windows(self, image: Windowed, write: Write, *, progress: Progress | None = None) -> Tiling:
        """Segment a picture read by windows, such as a `crfrnn.io.Raster`, at its original resolution.

        Pixels without data are ignored: they are the mean colour for the network and masked for the CRF.

        Args:
            image: numbers in 0..255 [3, H, W]: red, green, blue.
            write: called with top, left, labels, probabilities and the mask of pixels with data, once for
                every pixel, in order, such as the `write` of a `crfrnn.io.LabelRaster`.
            progress: called with (tiles done, total).

        Raises:
            ValueError: another number of channels, NaN or infinity where there is data, a `memory` too small
                for one tile.

        >>> from crfrnn import CRFRNN
        >>> from crfrnn.io import InMemory
        >>> predictor = Predictor(Segmenter(torch.nn.Conv2d(3, 2, 1), CRFRNN(2, theta_alpha=5.0)), tile=128)
        >>> done = np.zeros((90, 200), np.int64)
        >>> def keep(top, left, labels, p, valid):
        ...     done[top : top + len(labels), left : left + labels.shape[1]] = labels + 1
        >>> predictor.by_windows(InMemory(np.zeros((3, 90, 200), np.uint8)), keep).tiles, int(done.min() > 0)
        (2, 1)
        """
        if image.shape[0] != 3 or 0 in image.shape:
            raise ValueError(f"image: expected 3 channels, R, G, B, of some pixels, got {image.shape}")
        crf, guide = self._refines(), Guide(image, self._prepare)
        overlap = self._overlap(crf)
        side = self.tile or self._side(guide, crf, overlap, KEPT + FILES, "a smaller overlap", LARGEST)
        rows, columns = (windows(n, side, overlap) for n in guide.size)
        total = len(rows) * len(columns)
        pieces = self._pieces(guide, rows, columns, crf, None)
        counts, changed = deliver(pieces, write, total, progress, halves=crf)
        shared = min(overlap, side // 4)
        return Tiling(guide.size, total, side, shared, counts, changed, self._names, crf)

    @property
    def num_labels(self) -> int:
        """The number of labels in label maps; for a network alone, determined on a piece of a picture."""
        if self.segmenter.crf is not None:
            return for_two_labels(self.segmenter.crf).num_labels
        return self._network(torch.zeros(1, 3, PROBE, PROBE, dtype=torch.uint8)).labels

    @property
    def _names(self) -> tuple[str, ...]:
        return label_names(self.segmenter.class_names)

    def _refines(self, use_crf: bool | None = None) -> bool:
        return (self.use_crf if use_crf is None else bool(use_crf)) and self.segmenter.crf is not None

    def _overlap(self, crf: bool) -> int:
        if self.overlap is not None:
            return self.overlap
        return max(OVERLAP, reach(self.segmenter.crf)) if crf and self.segmenter.crf is not None else OVERLAP

    def _side(
        self, guide: Guide, crf: bool, overlap: int, held: float, remedy: str, most: int | None = None
    ) -> int:
        """The side of the largest tile that fits into the memory."""
        height, width = guide.size
        if AMPLE * height * width <= self.memory * MIB:
            return max(height, width)
        corner = slice(0, min(PROBE, height)), slice(0, min(PROBE, width))
        pixel, labels = self._network(guide.piece(*corner, guide.valid(*corner)))
        if crf and self.segmenter.crf is not None:
            vertices = vertices_per_pixel(self.segmenter.crf, guide)
            pixel = max(
                pixel, crf_pixel(labels, vertices) + 8 * labels
            )  # the probabilities before it are blended too
        return tile_within(
            self.memory, (height, width), pixel, (1 + crf) * labels, overlap, held=held, least=SMALLEST,
            most=most, remedy=remedy,
        )  # fmt: skip

    def _network(self, piece: Tensor) -> Network:
        if piece.shape not in self._measured:
            self._measured[piece.shape] = measured(self.segmenter, self._to_device(piece))
        return self._measured[piece.shape]

    def _pieces(
        self, guide: Guide, rows: list[Window], columns: list[Window], crf: bool, clamp: Tensor | None
    ) -> Iterator[tuple[int, int, Tile]]:
        """Finished rectangles of marginals, followed, with a CRF, by the network's probabilities."""
        layer = self.segmenter.crf if crf else None
        tiled = len(rows) * len(columns) > 1
        directions = None
        if layer is not None and tiled:
            directions = shared_directions(layer, guide)
            check_unit(layer, guide)

        def infer(y: slice, x: slice) -> Tile:
            valid = guide.valid(y, x)
            if valid is not None and not valid.any():
                return without_data((1 + crf) * self.num_labels, valid)
            batch = self._to_device(guide.piece(y, x, valid))
            mask = None if valid is None else torch.from_numpy(valid)[None].to(batch.device)
            unary = self.segmenter.unary(batch, mask)
            p = marginals(unary)
            if layer is None:
                return Tile(p, None, valid)
            logits = layer(
                unary,
                self.segmenter.guide(batch),
                mask=mask,
                clamp=None if clamp is None else clamp[y, x].to(batch.device)[None],
                iterations=self.iterations,
                origin=(y.start, x.start) if tiled else None,
                guide_components=directions,
            )
            return Tile(np.concatenate([marginals(logits), p]), None, valid)

        return faded(rows, columns, infer)

    def _prepare(self, piece: Tensor) -> Tensor:
        return self.segmenter.guide(self._to_device(piece))

    def _to_device(self, image: Tensor) -> Tensor:
        first = next(self.segmenter.parameters(), image)
        if first.dtype == torch.float64:
            return image.to(first.device, torch.float64)
        return image.to(first.device, image.dtype if image.dtype == torch.uint8 else torch.float32)
