# SPDX-License-Identifier: MIT
"""Pseudo-labels of pictures in memory, with one native call for pictures of similar size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crfrnn.crf.binary import two_labels
from crfrnn.crf.mean_field import mean_field, mean_field_labels
from crfrnn.crf.unit import warn_of_probabilities
from crfrnn.inference.pseudo.cam_crf import CamCRF, cam_crf
from crfrnn.io import VOID, unary_from_labels
from crfrnn.io.cams import Cams
from crfrnn.io.scores import SMALLEST

_WASTE = 1.25  # pictures share a call while the padding is less than a quarter of their pixels
_BOTH = 2


class _Candidates(NamedTuple):
    """Input of the CRF: unaries Float[S, K, H, W] of S levels, and the label of each of the K."""

    unaries: Tensor
    labels: NDArray[np.int64]


class _Best(NamedTuple):
    """The best of the K labels of each pixel, Int[H, W], and where it is certain; None: everywhere."""

    of: Tensor
    certain: Tensor | None

    @staticmethod
    def by_logits(logits: Tensor, certain: float | None) -> _Best:
        best = logits.max(0)  # over the first axis torch takes a tenth of the time
        if certain is None:
            return _Best(best.indices, None)
        return _Best(best.indices, (best.values - logits.logsumexp(0)).exp() >= certain)


@torch.no_grad()
def refine_labels(
    images: Sequence[NDArray[np.uint8]],
    maps: Sequence[Cams | Tensor],
    recipe: str | CamCRF = "irn",
    *,
    quality: str = "default",
    device: str | torch.device = "cpu",
) -> list[NDArray[np.uint8]]:
    """Pseudo-labels of several pictures, UInt8[H, W] each: 255 where the recipe is uncertain.

    Only the labels that are known to be in a picture are used, so a picture with two classes costs three
    labels for any size of the label set. Pictures with equally many labels and similar size are padded to one
    size and batched; padding sends no messages, so batching does not change a picture's labels.

    Args:
        images: UInt8[H, W, 3] each, of any sizes.
        maps: for each picture its `Cams`, or logits Float[L, H, W] of all labels, background first, of which
            the argmax after the CRF is taken (`levels` are then ignored).
        recipe: a name in `CAM_CRFS`, or a `CamCRF`.
        quality: quality of the lattice, "classic", "default", "high" or "finest".
        device: device of the CRF, "cpu" or "cuda".

    Raises:
        ValueError: other shapes, more than 255 labels, unknown names.

    Source: `CamCRF.preset.source`; the inference is that of `CRFRNN`.

    >>> image = np.zeros((4, 6, 3), np.uint8)
    >>> image[:, 3:] = 200
    >>> cam = torch.zeros(1, 4, 6)
    >>> cam[0, :, 3:] = 0.9
    >>> refine_labels([image], [Cams(cam, np.array([15]))])[0][0].tolist()
    [0, 0, 0, 15, 15, 15]
    """
    chosen = cam_crf(recipe)
    if any(isinstance(source, Cams) for source in maps):
        chosen.check_levels()
    if len(images) != len(maps):
        raise ValueError(f"maps: expected one for each of {len(images)} pictures, got {len(maps)}")
    candidates = [
        _candidates(_checked(image, source, k), source, chosen)
        for k, (image, source) in enumerate(zip(images, maps, strict=True))
    ]
    out: list[NDArray[np.uint8]] = [np.zeros(c.unaries.shape[2:], np.uint8) for c in candidates]
    for group in _groups([c.unaries.shape for c in candidates]):
        refined = _infer(
            [images[i] for i in group], [candidates[i].unaries for i in group], chosen, quality, device
        )
        for i, x in zip(group, refined, strict=True):
            out[i] = _decide(x, candidates[i].labels, chosen)
    return out


def _checked(image: NDArray[np.uint8], source: Cams | Tensor, number: int) -> NDArray[np.uint8]:
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ValueError(
            f"images: expected uint8 [H, W, 3], got {image.dtype} {image.shape} at {number}; use read_image"
        )
    scores = source.scores if isinstance(source, Cams) else source
    if not isinstance(scores, Tensor) or scores.ndim != 3 or scores.shape[1:] != image.shape[:2]:
        got = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise ValueError(
            f"maps: expected Cams or a tensor [L, {image.shape[0]}, {image.shape[1]}] for picture "
            f"{number}, got {got}; resize the maps to the picture"
        )
    if not isinstance(source, Cams) and not 1 <= len(scores) <= VOID:
        raise ValueError(f"maps: expected 1..255 labels, got {len(scores)} at {number}; a byte holds no more")
    return image


def _candidates(image: NDArray[np.uint8], source: Cams | Tensor, recipe: CamCRF) -> _Candidates:
    if not isinstance(source, Cams):
        warn_of_probabilities(source)
        logits = two_labels(source if source.dtype == torch.float16 else source.float())
        return _Candidates(logits[None], np.arange(len(logits)))
    labels = np.concatenate([[0], source.labels])
    best = source.scores.amax(0) if len(source.scores) else torch.zeros(image.shape[:2])
    levels = []
    for level in recipe.levels:
        if recipe.background == "threshold":
            scores = torch.cat([torch.full_like(best, level)[None], source.scores])
            levels.append(unary_from_labels(scores.max(0).indices, len(labels), gt_prob=recipe.gt_prob))
        elif recipe.background == "softmax":
            levels.append(torch.cat([torch.full_like(best, level)[None], source.scores]))
        else:
            scores = torch.cat([((1 - best) ** level)[None], source.scores])
            levels.append(scores.clamp(min=SMALLEST).log())
    return _Candidates(torch.stack(levels), labels)


def _groups(shapes: Sequence[tuple[int, ...]]) -> list[list[int]]:
    """Group pictures that share a call: equally many levels and labels, and little padding."""
    groups: list[list[int]] = []
    for i in sorted(range(len(shapes)), key=lambda i: shapes[i]):
        if groups:
            members = [shapes[j] for j in (*groups[-1], i)]
            rows, columns = (max(s[axis] for s in members) for axis in (2, 3))
            area = sum(s[2] * s[3] for s in members)
            if members[0][:2] == shapes[i][:2] and rows * columns * len(members) <= _WASTE * area:
                groups[-1].append(i)
                continue
        groups.append([i])
    return groups


def _infer(
    images: Sequence[NDArray[np.uint8]],
    unaries: Sequence[Tensor],
    recipe: CamCRF,
    quality: str,
    device: str | torch.device,
) -> list[list[_Best]]:
    """The labels after the CRF of every picture and level; all levels of a picture share the kernels."""
    size = unaries[0].shape[1]
    crf = recipe.crf(size, quality).to(device).eval()
    if size == 1 or not crf.iterations:  # with one label there is nothing to infer
        return [[_Best.by_logits(level.float(), recipe.certain) for level in own] for own in unaries]
    unary, guide, mask = _batch(images, unaries)
    mask = None if mask is None else mask.to(device)
    kernels = crf.kernels(guide.to(device), mask, torch.float32)
    weights = (crf.spatial_weights, crf.bilateral_weights)
    in_play = crf.least_in_play(torch.device(device))
    sizes = [own.shape[2:] for own in unaries]

    def infer(level: Tensor) -> list[_Best]:
        given = (kernels, weights, crf.compatibility, crf.iterations)
        if recipe.certain is None:
            labels = mean_field_labels(level.to(device), *given, mask=mask, in_play=in_play).cpu()
            return [_Best(own[:h, :w], None) for own, (h, w) in zip(labels, sizes, strict=True)]
        logits = mean_field(level.to(device).float(), *given, mask=mask, in_play=in_play).cpu()
        return [
            _Best.by_logits(own[:, :h, :w], recipe.certain) for own, (h, w) in zip(logits, sizes, strict=True)
        ]

    return list(map(list, zip(*map(infer, unary), strict=True)))


def _batch(
    images: Sequence[NDArray[np.uint8]], unaries: Sequence[Tensor]
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Float[S, B, K, H, W], UInt8[B, 3, H, W] and Bool[B, H, W], None without padding.

    Scores of many labels are large: those of one picture are not copied.
    """
    if len(unaries) == 1:
        guide = torch.from_numpy(np.ascontiguousarray(images[0].transpose(2, 0, 1)))
        return unaries[0].unsqueeze(1), guide.unsqueeze(0), None
    rows, columns = (max(u.shape[axis] for u in unaries) for axis in (2, 3))
    unary = torch.zeros(len(unaries[0]), len(images), unaries[0].shape[1], rows, columns)
    guide = torch.zeros(len(images), 3, rows, columns, dtype=torch.uint8)
    valid = torch.zeros(len(images), rows, columns, dtype=torch.bool)
    for k, (image, own) in enumerate(zip(images, unaries, strict=True)):
        h, w = own.shape[2:]
        unary[:, k, :, :h, :w] = own
        guide[k, :, :h, :w] = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        valid[k, :h, :w] = True
    return unary, guide, None if bool(valid.all()) else valid


def _decide(best: Sequence[_Best], labels: NDArray[np.int64], recipe: CamCRF) -> NDArray[np.uint8]:
    bytes_of = labels.astype(np.uint8)
    found = [bytes_of[level.of.numpy()] for level in best]
    out = found[0].copy()
    if len(found) == _BOTH:
        sure, background = found[0] != 0, found[1] == 0
        out[~sure] = VOID
        out[background if recipe.background_wins else background & ~sure] = 0
    if best[0].certain is not None:
        out[~best[0].certain.numpy()] = VOID
    return out
