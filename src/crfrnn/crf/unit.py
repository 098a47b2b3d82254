# SPDX-License-Identifier: MIT
"""Checks that guide and unary are in the units of the CRF: colour steps of 0..255, and logits.

In a guide with range 0..1, or with mean 0 and deviation 1, all edges are tiny compared with a θ_β of several
colour steps, and probabilities are weak logits. Both run without error but give poor labels, so both produce
a warning. Harmless cases do not: other units with matching bandwidths, flat and dark guides, few pixels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from crfrnn.crf import validate
from crfrnn.lattice.validate import readable, warn

SPOTS = 32  # pixels along an axis that are checked first
FEW = 16  # pixels, too few to judge a unit by
SURE = 0.75  # confidence that probabilities reach: presence at some pixel, absence at another
UNIT, NORMALISED = 2.0, 10.0  # the largest value of a guide in 0..1, and of a standardised one


def check_guide(image: Tensor, mask: Tensor | None, log_theta_beta: Tensor, whole: bool = True) -> None:
    """Reject NaN and infinity in a float guide, and warn if it is not in the unit of θ_β.

    One pass and one GPU synchronisation in the usual case; for most guides a few pixels identify the unit.

    Args:
        image, mask: as in `CRFRNN.forward`.
        log_theta_beta: a number or one per channel.
        whole: False for a tile, which may be darker than its picture; then only NaN is checked for.
    """
    if not image.is_floating_point() or not readable(image) or image.numel() == 0:
        return
    remedy = "replace such pixels, or leave them out with mask="
    if not whole:
        return validate.check_finite("image", image, remedy, None if mask is None else mask.unsqueeze(1))
    values = image.detach()
    steps = tuple(slice(None, None, max(1, n // SPOTS)) for n in image.shape[2:])
    spots = values[(slice(None), slice(None), *steps)]
    if mask is not None:  # padding may hold any value
        spots = torch.where(mask[(slice(None), *steps)].unsqueeze(1), spots, 0)
    # If the sum is finite, so is every term.
    total, low, high = torch.stack([values.sum(), *torch.aminmax(spots)]).tolist()
    if not math.isfinite(total):
        validate.check_finite("image", image, remedy, None if mask is None else mask.unsqueeze(1))
    if -NORMALISED <= low <= high <= NORMALISED:
        warn_of_guide(values.movedim(1, 0) if mask is None else values.movedim(1, 0)[:, mask], log_theta_beta)


def warn_of_guide(values: Tensor, log_theta_beta: Tensor) -> None:
    """Warn if colours Float[C, ...] are in 0..1 or normalised but θ_β is in steps of 0..255."""
    if values.numel() < FEW * values.shape[0]:
        return
    low, high = (float(v) for v in torch.aminmax(values))
    size, theta = max(-low, high), float(log_theta_beta.detach().exp().min())
    if low == high or size > NORMALISED:
        return
    if low >= -0.25 * high:  # resizing may overshoot a little
        # A dark picture in 0..255 has integer values.
        whole = size > 1 and bool((values == values.round()).all())
        if size > UNIT or theta < 2 * size or whole:
            return
        form, remedy = "in 0..1", "give 255 * image"
    else:
        if theta < size / 2:
            return
        form, remedy = "normalised by mean and deviation", "give the picture as it was before, in 0..255"
    # Rounded to integers, so that the message is the same for every batch and Python shows it once.
    first, last, theta = math.floor(low), math.ceil(high), round(theta)
    warn(
        f"image: expected values in 0..255, the unit of theta_beta, got {first}..{last}, as in a picture "
        f"{form}; relative to theta_beta={theta} such a guide has almost no edges; {remedy}, or set "
        f"theta_beta in the guide's own unit, such as {theta * (last - first) / 255:.2g}"
    )


def check_logits(unary: Tensor, mask: Tensor | None, overlap: bool) -> None:
    """Warn if a unary Float[B, L, *spatial] looks like probabilities.

    One pixel distinguishes most logits from probabilities. Reading it from a GPU would synchronise, so a
    unary on a GPU is not checked.
    """
    if unary.is_cuda or not readable(unary) or unary.numel() < FEW * unary.shape[1]:
        return
    scores = unary.detach()
    place = (0,) * (unary.ndim - 2)
    if mask is not None:
        first = int(mask[0].reshape(-1).to(torch.uint8).argmax())
        place = tuple(int(i) for i in torch.unravel_index(torch.tensor(first), mask.shape[1:]))
    if _may_be_probabilities(scores[(0, slice(None), *place)], overlap):
        scores = scores.movedim(1, 0)
        warn_of_probabilities(scores if mask is None else scores[:, mask], overlap)


def _may_be_probabilities(pixel: Tensor, overlap: bool) -> bool:
    """Whether the scores Float[L] of one pixel are in 0..1 and, unless labels overlap, sum to 1."""
    one = pixel.tolist()
    return all(0 <= p <= 1 for p in one) and (overlap or len(one) == 1 or abs(sum(one) - 1) < 1e-3)


def warn_of_probabilities(scores: Tensor, overlap: bool = False) -> None:
    """Warn if scores Float[L, ...] are in 0..1 and, unless labels overlap, sum to 1 over the labels."""
    if scores.numel() < FEW * scores.shape[0]:
        return
    if not _may_be_probabilities(scores[(slice(None), *[0] * (scores.ndim - 1))], overlap):
        return
    low, high = (float(v) for v in torch.aminmax(scores))
    if not 0 <= low < high <= 1:
        return
    found, remedy = "all values lie in 0..1", "unary.clamp(1e-5, 1 - 1e-5).logit()"
    if overlap or len(scores) == 1:
        # There is no sum to check: the small numbers of an untrained network may lie in 0..1 by chance.
        if low > 1 - SURE or high < SURE:
            return
    else:
        total = scores.sum(0, dtype=torch.promote_types(scores.dtype, torch.float32))
        least, greatest = (float(v) for v in torch.aminmax(total))
        if abs(least - 1) > 1e-3 or abs(greatest - 1) > 1e-3:
            return
        found, remedy = "all values lie in 0..1 and sum to 1", "unary.clamp_min(1e-5).log()"
    warn(
        f"unary: read as logits, but {found}; if they are probabilities, pass kind='probabilities' "
        f"(--kind probabilities) where a file is read, or give their logits: {remedy}"
    )
