# SPDX-License-Identifier: MIT
"""Scores and label maps of a volume from files as people have them, in the guide's order of voxels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crfrnn.io.arrays import npz_names, read_array
from crfrnn.io.files import FileError, PathLike
from crfrnn.io.nifti import ENDINGS, Volume, read_grid, read_nifti, same_places
from crfrnn.io.volume_unaries import KINDS
from crfrnn.lattice.validate import warn

AXES = ("lxyz", "lzyx", "xyzl", "zyxl")  # l = labels; x, y, z as nibabel has them, z, y, x as SimpleITK
NNUNET_KEYS = ("probabilities", "softmax")  # of nnU-Net 2 and 1: [C, z, y, x]
SLACK = 0.01  # of a sum of probabilities


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
    """Read what `refine_volume` takes as probabilities, logits or labels, in the guide's order of voxels.

    A NIfTI file has three axes (one number per voxel), or four with the labels last, and must lie on the
    guide's grid. An array (.npy, .npz, .pt) says nothing of its axes: its shape decides, and where it fits
    in two orders, `axes`. The .npz of nnU-Net, known by its entry `probabilities` or `softmax`, is
    [C, z, y, x] in that case; a NIfTI file of the same stem beside it must lie on the guide's grid.

    Several files hold one label each. Label maps are masks: above 0 is label 1, 2, … in the order of the
    files, 0 in all of them label 0. Probabilities that sum to 1 are the labels 0, 1, …; where they leave
    something over, that is the background, which becomes label 0 before them. Logits are the labels 0, 1, ….

    Args:
        paths: one file, or one per label.
        guide: what `read_nifti` made of the guide.
        kind: "probabilities", "logits" or "labels".
        axes: order of an array's axes, one of `AXES`, without the l for one number per voxel.
        num_labels: L, checked; one more than the file or the files have adds the background. None: see above.
        key: entry of an .npz or .pt file.
        mask: Bool[X, Y, Z]; only there sums of probabilities are looked at.
        role: what the files are to the caller, for messages.

    Returns:
        Float32[L, X, Y, Z], one label where a file holds one number per voxel; for "labels" real numbers
        [X, Y, Z].

    Raises:
        ValueError: an unusable file, another grid, axes that do not fit or fit twice.
        ImportError: nibabel is not installed.
    """
    if kind not in KINDS:
        raise ValueError(f"kind: expected one of {', '.join(map(repr, KINDS))}, got {kind!r}")
    files = [paths] if isinstance(paths, str | Path) or not isinstance(paths, Sequence) else list(paths)
    if not files:
        raise ValueError(f"{role}: expected a file, or one for each label, got none")
    found = [_read(file, guide, kind, axes, key, role) for file in files]
    if len(files) > 1:
        for file, values in zip(files, found, strict=True):
            if values.shape[0] != 1:
                raise FileError(
                    role, file, "one number per voxel, since each of several files holds one label",
                    f"{values.shape[0]} labels", "give this file alone, or one file for each label",
                )  # fmt: skip
    if kind == "labels":
        return _one_map(files, found, role)
    scores = np.concatenate(found)
    if kind == "probabilities":
        scores = _with_background(scores, num_labels, mask, several=len(files) > 1)
    have = max(len(scores), 2)
    if num_labels is not None and num_labels != have:
        raise ValueError(
            f"num_labels: expected {have} as {role} has it, got {num_labels}; correct num_labels or the files"
        )
    return scores


def _read(
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
    return _from_array(path, guide, kind, axes, key, role)


def check_grid(
    path: PathLike, role: str, shape: tuple[int, ...], affine: NDArray[np.float64], guide: Volume
) -> None:
    """FileError where the voxels do not lie in the guide's places."""
    wanted = guide.values.shape[-3:]
    if shape != wanted:
        turned = sorted(shape) == sorted(wanted)
        raise FileError(
            role, path, f"the guide's grid, {wanted} voxels", f"{shape}",
            "it may be turned: bring both to one orientation with nibabel.as_closest_canonical"
            if turned
            else "resample it onto the guide",
        )  # fmt: skip
    if not same_places(affine, guide.affine):
        same_axes = np.allclose(affine[:3, :3], guide.affine[:3, :3], rtol=1e-4, atol=1e-3)
        raise FileError(
            role, path, f"the guide's grid, affine {_rows(guide.affine)}", f"{_rows(affine)}",
            "the voxels lie elsewhere: resample it onto the guide"
            if same_axes
            else "the axes are turned or scaled: bring both to one orientation with "
            "nibabel.as_closest_canonical, or resample it onto the guide",
        )  # fmt: skip


def _rows(affine: NDArray[np.float64]) -> str:
    return "; ".join(" ".join(f"{v:.5g}" for v in row) for row in affine[:3])


def _from_array(
    path: PathLike, guide: Volume, kind: str, axes: str | None, key: str | None, role: str
) -> NDArray[Any]:
    grid = guide.values.shape[-3:]
    nnunet = False
    if str(path).lower().endswith(".npz"):
        names = npz_names(path, role)
        known = [name for name in NNUNET_KEYS if name in names]
        if key is None and len(names) > 1 and len(known) == 1:  # other entries beside nnU-Net's
            key = known[0]
        nnunet = (key or (names[0] if len(names) == 1 else None)) in NNUNET_KEYS
    orders: list[str] = []

    def check(shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        if dtype.kind not in ("iufb" if kind == "labels" else "f"):
            raise FileError(
                role, path, f"floating-point {kind}", f"dtype {dtype}",
                "convert to float32, or for a label map say kind='labels'",
            )  # fmt: skip
        orders.append(_order(shape, grid, kind, axes, nnunet, path, role))

    values = read_array(path, role, key=key, check=check)
    if nnunet:
        _check_beside(path, guide, role)
    order = orders[0]
    values = values.reshape(values.shape[-len(order) :])
    if "l" not in order:
        values, order = values[None], "l" + order
    values = values.transpose([order.index(a) for a in "lxyz"])
    return np.array(values, values.dtype if kind == "labels" else np.float32, order="C")


def _order(
    shape: tuple[int, ...],
    grid: tuple[int, ...],
    kind: str,
    axes: str | None,
    nnunet: bool,
    path: PathLike,
    role: str,
) -> str:
    """The order of an array's axes: what was said, what fits the guide, or what nnU-Net documents."""
    alone = [order.replace("l", "") for order in AXES[:2]]
    known: list[str] = [] if kind == "labels" else list(AXES)
    known += alone
    if axes is not None and axes not in known:
        raise ValueError(f"axes: expected one of {', '.join(map(repr, known))}, got {axes!r}")
    bare = shape[1:] if len(shape) == 5 and shape[0] == 1 else shape
    if kind == "labels" and len(bare) == 4 and bare[0] == 1:
        bare = bare[1:]
    sizes = dict(zip("xyz", grid, strict=True))
    fits = [
        order
        for order in known
        if len(order) == len(bare) and all(sizes.get(a, n) == n for a, n in zip(order, bare, strict=True))
    ]
    shown = " or ".join(f"axes={order!r}" for order in fits)
    if axes is not None and axes not in fits:
        remedy = f"{shown} would fit" if fits else "resample it onto the guide"
        raise FileError(role, path, f"the guide's {_said(sizes)} in the order {axes}", f"{shape}", remedy)
    if axes is not None or len(fits) == 1:
        return axes or fits[0]
    if not fits:
        raise FileError(
            role, path, f"the guide's {_said(sizes)}{'' if kind == 'labels' else ' and an axis of labels'}",
            f"shape {shape}", "resample it onto the guide, or give the guide that it was made from",
        )  # fmt: skip
    documented = "lzyx" if len(bare) == 4 else "zyx"
    if nnunet and documented in fits:
        name = "labels, " if len(bare) == 4 else ""
        warn(
            f"{role} {str(path)!r}: {shape} fits the guide in more than one order; read as [{name}z, y, x], "
            f"as nnU-Net writes it; if another program wrote it, say axes={fits[0]!r}"
        )
        return documented
    raise FileError(
        role, path, f"an order of the axes, since {shape} fits the guide in {len(fits)}", "none",
        f"say {shown}: x, y, z is nibabel's order, z, y, x SimpleITK's",
    )  # fmt: skip


def _said(sizes: dict[str, int]) -> str:
    return ", ".join(f"{axis} {size}" for axis, size in sizes.items())


def _check_beside(path: PathLike, guide: Volume, role: str) -> None:
    """An .npz has no affine; the segmentation that nnU-Net wrote beside it has."""
    file = Path(path)
    for ending in ENDINGS:
        beside = file.with_name(file.name[: -len(".npz")] + ending)
        if beside.is_file():
            check_grid(
                beside, f"{role} {str(path)!r}, by the file beside it", *read_grid(beside, role), guide
            )


def _one_map(files: Sequence[PathLike], found: list[NDArray[Any]], role: str) -> NDArray[Any]:
    """The label map of one file, or of a mask for each label."""
    if len(found) == 1:
        if found[0].shape[0] != 1:
            raise FileError(
                role, files[0], "one number per voxel for kind='labels'", f"{found[0].shape[0]}",
                "for scores say kind='probabilities' or kind='logits'",
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


def _with_background(
    scores: NDArray[np.float32], num_labels: int | None, mask: NDArray[np.bool_] | None, several: bool
) -> NDArray[np.float32]:
    """What the labels leave over as label 0, where that was asked for or several files leave something."""
    if len(scores) < 2:
        return scores  # a binary problem: the background is what one score leaves over, in any case
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
            f"{counts.max():.4g}; labels that overlap (a sigmoid each) are refined one by one"
        )
    rest = (1 - total).clip(0, 1).astype(np.float32)
    return np.concatenate([rest[None], scores])
