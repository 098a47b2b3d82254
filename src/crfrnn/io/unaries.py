# SPDX-License-Identifier: MIT
"""Read unaries of pictures and volumes from common file formats; the caller states their meaning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crfrnn.io.arrays import MAX_BYTES, npz_names
from crfrnn.io.axes import MAP, PICTURE, VOLUME, VOLUME_MAP, Axes, check_axes, check_type
from crfrnn.io.files import FileError, PathLike
from crfrnn.io.images import stored_form, upright
from crfrnn.io.labels import FREE, ask_about_white, read_label_map, whole_numbers
from crfrnn.io.nifti import ENDINGS, Volume, check_grid, read_grid, read_nifti
from crfrnn.io.scores import KINDS, SLACK, AsLogits, check_kind, check_label_count, unary_from_labels
from crfrnn.io.scribbles import BLACK, read_scribbles

PICTURE_KINDS = (*KINDS, "scribbles")
LAYOUTS = (*PICTURE, *MAP)  # without l: one score per pixel
NNUNET_KEYS = ("probabilities", "softmax")  # of nnU-Net 2 and 1: [C, z, y, x]
MOST_LABELS = 1024  # limit of a single inference


@dataclass(frozen=True)
class Unary:
    """A unary in the form that the CRF takes, without the batch axis.

    Attributes:
        logits: Float32[L, H, W]; Float16 if `read_unary` was to keep it.
        clamp: Int64[H, W], the scribbled label, -1 where free; None for every kind except "scribbles".
    """

    logits: Tensor
    clamp: Tensor | None = None


def check_reading(kind: str, axes: str | None, num_labels: int | None) -> None:
    """ValueError for arguments that `read_unary` rejects for every file; call it before any work."""
    check_kind(kind, PICTURE_KINDS)
    if kind in ("labels", "scribbles"):
        check_label_count(kind, num_labels)
    else:
        check_axes(axes, LAYOUTS)


def read_unary(
    path: PathLike,
    *,
    kind: str,
    axes: str | None = None,
    size: tuple[int, int] | None = None,
    picture: PathLike | None = None,
    num_labels: int | None = None,
    gt_prob: float = 0.7,
    unknown: int | None = None,
    unknown_colour: tuple[int, int, int] | None = BLACK,
    palette: NDArray[np.uint8] | None = None,
    key: str | None = None,
    max_bytes: int = MAX_BYTES,
    keep_half: bool = False,
) -> Unary:
    """Read the unary of one picture.

    Args:
        path: .npy, .npz, .pt or .pth; for labels and scribbles also .png.
        kind: "logits" (any real numbers, larger = likelier), "probabilities" (0..1, sum 1 over labels; the
            logits are ``log max(p, 1e-5)``), "labels" (see `unary_from_labels`) or "scribbles" (see
            `read_scribbles`). One score per pixel is a binary problem, see `crfrnn.io.scores`.
        axes: order of the axes of logits and probabilities, one of `LAYOUTS`, such as "lhw" (torch) or "hwl"
            (TensorFlow, images), or "hw" for one score per pixel; required there. A leading batch
            axis of 1 is allowed.
        size: (height, width) of the picture, upright; the unary must have this size.
        picture: its file, so that an error can report a unary made from pixels before the EXIF rotation.
        num_labels: L; required for labels and scribbles, checked for the others.
        gt_prob: probability of the given label, for labels and scribbles.
        unknown, unknown_colour, palette: the pixels without a label, see `read_scribbles`.
        key: the entry of an .npz file or of a dict in a .pt file.
        max_bytes: largest size of the array in memory; larger files are rejected before any allocation.
        keep_half: return logits that are stored in float16 as they are, in half the memory.

    Raises:
        ValueError: an unusable file (missing, truncated, pickled, too large), a shape, dtype or size other
            than stated, NaN or infinity, numbers that are not probabilities, labels out of range.

    >>> import os, tempfile
    >>> name = os.path.join(tempfile.mkdtemp(), "p.npy")
    >>> np.save(name, np.full((4, 5, 2), 0.5, np.float32))
    >>> read_unary(name, kind="probabilities", axes="hwl", size=(4, 5)).logits.shape
    torch.Size([2, 4, 5])
    """
    check_reading(kind, axes, num_labels)
    of_labels = kind in ("labels", "scribbles")
    layout = Axes(
        path, "unary", MAP if of_labels else LAYOUTS, "hw" if of_labels else axes,
        sizes={} if size is None else dict(zip("hw", size, strict=True)),
        place="" if size is None else f"{size[0]} rows × {size[1]} columns as the picture has",
        num_labels=None if of_labels else num_labels,
        remedy="save the labels at the picture's size" if of_labels
        else "resize the unary to the picture (bilinear, on logits), or give the picture it was made from",
        turned=lambda shape, order: _turned(shape, order, picture, "labels" if of_labels else "unary"),
    )  # fmt: skip
    if of_labels:
        assert num_labels is not None
        if kind == "labels":
            labels = read_label_map(path, num_labels, unknown=unknown, key=key)
        else:
            labels = read_scribbles(
                path, num_labels, unknown=unknown, unknown_colour=unknown_colour, palette=palette, key=key
            )
        layout.order(labels.shape)
        known = torch.from_numpy(labels)
        logits = unary_from_labels(known, num_labels, gt_prob=gt_prob, unknown=FREE)
        return Unary(logits, known if kind == "scribbles" else None)
    values = layout.read(kind, key, max_bytes)
    dtype = np.float16 if keep_half and kind == "logits" and values.dtype == np.float16 else np.float32
    return Unary(AsLogits(kind, num_labels)(values, path=path, dtype=dtype, copy=False))


def _turned(shape: tuple[int, ...], order: str, picture: PathLike | None, name: str) -> str:
    """The remedy for an array made from pixels that EXIF rotates for display; "" for any other array."""
    if picture is None:
        return ""
    stored, orientation = stored_form(picture)
    rows, columns = (order.index(a) + len(shape) - len(order) for a in "hw")
    if orientation == 1 or (shape[rows], shape[columns]) != stored:
        return ""
    return (
        f"the picture carries EXIF orientation {orientation}, and the unary has the size of the stored "
        f"pixels: rotate it, {upright(orientation, name, rows, columns)}, or save the picture upright and "
        "make the unary of that"
    )


def read_scores(
    paths: PathLike | Sequence[PathLike],
    guide: Volume,
    *,
    kind: str = "probabilities",
    axes: str | None = None,
    num_labels: int | None = None,
    key: str | None = None,
    mask: NDArray[np.bool_] | None = None,
    role: str = "unary",
) -> NDArray[Any]:
    """Read the probabilities, logits or labels for `refine_volume`, in the guide's order of voxels.

    A NIfTI file has three axes (one number per voxel), or four with the labels last, and must lie on the
    guide's grid. An array (.npy, .npz, .pt) does not state its axes: they are taken from its shape or, if two
    orders fit, from `axes`. An .npz of nnU-Net, recognised by its entry `probabilities` or `softmax`, is read
    as [C, z, y, x] in that case; a NIfTI file of the same stem next to it must lie on the guide's grid.

    Several files hold one label each. Label maps are masks: pixels above 0 get label 1, 2, … in the order of
    the files, and those that are 0 in all of them get label 0. Probabilities that sum to 1 are the labels 0,
    1, …; if they sum to less, the remainder is the background and becomes label 0 before them. Logits are the
    labels 0, 1, ….

    Args:
        paths: one file, or one per label.
        guide: the result of `read_nifti` for the guide.
        kind: "probabilities", "logits" or "labels".
        axes: order of an array's axes, one of `crfrnn.io.axes.VOLUME`; omit the l for one number per
            voxel.
        num_labels: L, checked; one more than the files contain adds the background. None: see above.
        key: entry of an .npz or .pt file.
        mask: Bool[X, Y, Z]; sums of probabilities are checked only where True.
        role: what the caller uses the files for, as named in messages.

    Returns:
        Float32[L, X, Y, Z], L = 1 if a file holds one number per voxel; for "labels" real numbers
        [X, Y, Z].

    Raises:
        ValueError: an unusable file, another grid, axes that do not fit or are ambiguous.
        ImportError: nibabel is not installed.
    """
    check_kind(kind, KINDS)
    files = [paths] if isinstance(paths, str | Path) or not isinstance(paths, Sequence) else list(paths)
    if not files:
        raise ValueError(f"{role}: expected a file, or one for each label, got none")
    found = [_read_volume(file, guide, kind, axes, key, role) for file in files]
    for file, values in zip(files, found, strict=True) if len(files) > 1 else ():
        if values.shape[0] != 1:
            raise FileError(
                role, file, "one number per voxel, since each of several files holds one label",
                f"{values.shape[0]} labels", "give this file alone, or one file for each label",
            )  # fmt: skip
    if kind == "labels":
        return _one_map(files, found, role)
    scores = np.concatenate(found)
    if kind == "probabilities":
        scores = with_background(scores, num_labels, mask, several=len(files) > 1)
    AsLogits(kind, num_labels).count(len(scores), role)
    return scores


def _read_volume(
    path: PathLike, guide: Volume, kind: str, axes: str | None, key: str | None, role: str
) -> NDArray[Any]:
    """[C, X, Y, Z] of one file."""
    if str(path).lower().endswith(ENDINGS):
        for name, given in (("axes", axes), ("key", key)):
            if given is not None:
                raise FileError(
                    role, path, f"no {name} for NIfTI, which has its own", repr(given), f"leave {name} out"
                )
        found = read_nifti(path, role)
        check_grid(path, role, found.values.shape[-3:], found.affine, guide)
        return found.values if found.values.ndim == 4 else found.values[None]
    known = VOLUME_MAP if kind == "labels" else (*VOLUME, *VOLUME_MAP)
    if axes is not None:
        check_axes(axes, known)
    names = npz_names(path, role) if str(path).lower().endswith(".npz") else []
    entries = [name for name in NNUNET_KEYS if name in names]
    if key is None and len(names) > 1 and len(entries) == 1:  # other entries next to nnU-Net's
        key = entries[0]
    nnunet = (key or (names[0] if len(names) == 1 else None)) in NNUNET_KEYS
    sizes = dict(zip("xyz", guide.values.shape[-3:], strict=True))
    layout = Axes(
        path, role, known, axes, sizes,
        f"the guide's {', '.join(f'{axis} {size}' for axis, size in sizes.items())}",
        documented=("zyx" if kind == "labels" else "lzyx") if nnunet else None,
        remedy="resample it onto the guide, or give the guide that it was made from",
    )  # fmt: skip
    values = layout.read(kind, key)
    if nnunet:
        _check_beside(path, guide, role)
    return np.array(values, values.dtype if kind == "labels" else np.float32, order="C")


def _check_beside(path: PathLike, guide: Volume, role: str) -> None:
    """Check the affine of the segmentation that nnU-Net wrote next to an .npz, which has none itself."""
    file = Path(path)
    for ending in ENDINGS:
        beside = file.with_name(file.name[: -len(".npz")] + ending)
        if beside.is_file():
            check_grid(
                beside, f"{role} {str(path)!r}, by the file next to it", *read_grid(beside, role), guide
            )


def _one_map(files: Sequence[PathLike], found: list[NDArray[Any]], role: str) -> NDArray[Any]:
    """The label map from one file, or from one mask per label."""
    if len(found) == 1:
        if found[0].shape[0] != 1:
            raise FileError(
                role, files[0], "one number per voxel for kind='labels'", f"{found[0].shape[0]}",
                "for scores pass kind='probabilities' or kind='logits'",
            )  # fmt: skip
        return found[0][0]
    labels = np.zeros(found[0].shape[1:], np.int64)
    for number, (file, mask) in enumerate(zip(files, found, strict=True), 1):
        values = np.unique(mask)
        if len(values) > 2 or values[0] < 0:
            raise FileError(
                role, file, "a mask, 0 and one other number, since each of several files holds one label",
                f"{len(values)} numbers, {values[0]:g}..{values[-1]:g}",
                "give a map of several labels alone, scores with kind='probabilities'",
            )  # fmt: skip
        inside = mask[0] > 0
        both = inside & (labels > 0)
        if both.any():
            other = files[int(labels[both][0]) - 1]
            raise FileError(
                role, file, "masks that do not overlap",
                f"{int(both.sum())} voxels that are in {str(other)!r} too",
                "give each voxel to one of them, or refine them one by one",
            )  # fmt: skip
        labels[inside] = number
    return labels


def with_background(
    scores: NDArray[np.float32],
    num_labels: int | None = None,
    mask: NDArray[np.bool_] | None = None,
    several: bool = True,
) -> NDArray[np.float32]:
    """Probabilities with a background added as label 0 if they sum to less than 1.

    Args:
        scores: Float32[L, *spatial].
        num_labels: L + 1 adds the background, L adds none; None adds it if `several` and sums are below 1.
        mask: Bool[*spatial]; sums are checked only where True.
        several: each label comes from a separate file, so the background may be missing.

    >>> with_background(np.array([[0.25], [0.5]], np.float32)).tolist()
    [[0.25], [0.25], [0.5]]
    """
    if len(scores) < 2:
        return scores  # a binary problem: the background is always 1 minus the score
    total = scores.sum(0, dtype=np.float64)
    counts = total if mask is None else total[mask]
    if num_labels is None:
        missing = several and bool((counts < 1 - SLACK).any())
    else:
        missing = num_labels == len(scores) + 1
    if not missing:
        return scores
    if (counts > 1 + SLACK).any():
        raise ValueError(
            f"probabilities: expected sums of at most 1, so that the rest is the background, got up to "
            f"{counts.max():.4g}; refine labels that overlap (one sigmoid each) one by one"
        )
    rest = (1 - total).clip(0, 1).astype(np.float32)
    return np.concatenate([rest[None], scores])


def volume_unary(
    values: Any,
    kind: str,
    shape: tuple[int, ...],
    *,
    num_labels: int | None = None,
    gt_prob: float = 0.7,
    unknown: int | None = None,
    mask: NDArray[np.bool_] | None = None,
    also: NDArray[np.int64] | Sequence[int] = (),
) -> tuple[Tensor, NDArray[np.int64] | None]:
    """Logits Float[L, *spatial] of scores or labels in memory, and the label numbers if they are not 0..L-1.

    Args:
        values: Float[L, *spatial], or [*spatial] for labels and for a binary problem.
        kind, num_labels, gt_prob, unknown: as `AsLogits` takes them; without num_labels the labels are the
            numbers that occur.
        shape: shape of the guide, such as X, Y, Z.
        mask: Bool[*spatial]; values outside are arbitrary.
        also: further label numbers that need not occur among the values.
    """
    check_kind(kind, KINDS)
    role, array = "probabilities", np.asarray(values)
    check_type(array.dtype, kind, role)
    array = array[None] if array.shape == shape else array
    if array.shape[1:] != shape or (kind == "labels" and len(array) != 1):
        axes = ", ".join(map(str, shape))
        expected = f"labels [{axes}]" if kind == "labels" else f"[L, {axes}]"
        raise ValueError(
            f"{role}: expected {expected} as guide has it, got {np.shape(values)}; "
            + _reorder(np.shape(values), shape)
        )
    if kind != "labels":
        dtype = np.float64 if array.dtype == np.float64 else np.float32
        return AsLogits(kind)(array, mask, role=role, dtype=dtype), None
    if mask is not None and array.dtype.kind == "f":  # finite labels outside the mask are kept
        array = np.where(mask | np.isfinite(array), array, 0)
    if num_labels is not None:
        _check_room(num_labels, array)
        if unknown is None and num_labels > 1:
            ask_about_white(array, role)
        return AsLogits(kind, num_labels, gt_prob, unknown)(array, role=role), None
    held = whole_numbers(array[0], None, role)
    free = np.zeros(held.shape, bool) if unknown is None else held == unknown
    numbers = np.unique(held[~free])
    if len(numbers) and numbers[0] < 0:
        raise ValueError(
            f"{role}: expected labels 0 and above, got {numbers[0]}; state which one means unknown: "
            f"unknown={numbers[0]}"
        )
    numbers = np.union1d(numbers, np.asarray(also, np.int64))
    if len(numbers) < 2:  # a single label has nothing to compete with
        numbers = np.union1d(numbers, [0, 1])
    _check_room(len(numbers), array)
    places = torch.from_numpy(np.where(free, FREE, np.searchsorted(numbers, held)))
    unary = unary_from_labels(places, len(numbers), gt_prob=gt_prob, unknown=FREE)
    return unary, numbers.astype(np.int64)


def _check_room(labels: int, array: NDArray[Any]) -> None:
    if not 1 <= labels <= MOST_LABELS or labels * array.size * 4 > MAX_BYTES:
        raise ValueError(
            f"probabilities: expected at most {MOST_LABELS} labels and {MAX_BYTES} bytes for their scores, "
            f"got {labels} × {array.size} × 4; crop the volume or merge labels, and for scores say "
            "kind='probabilities'"
        )


def _reorder(given: tuple[int, ...], shape: tuple[int, ...]) -> str:
    """The expression that converts these axes to the guide's, if there is one."""
    if given[:-1] == shape:
        return "labels come first: np.moveaxis(probabilities, -1, 0)"
    if given[1:] == shape[::-1]:
        return "reverse z, y, x: probabilities.transpose(0, 3, 2, 1)"
    if given == shape[::-1]:
        return "reverse z, y, x: probabilities.transpose(2, 1, 0)"
    if len(given) == len(shape) + 2 and given[0] == 1 and given[2:] == shape:
        return "take the one volume of the batch: probabilities[0]"
    return "resample them onto the guide"
