# SPDX-License-Identifier: MIT
"""NIfTI files through nibabel (the extra `medical`): affine and header are kept with the voxels."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crfrnn.extras import optional
from crfrnn.io.files import FileError, PathLike, atomic, existing
from crfrnn.lattice.validate import warn

MAX_VOXELS = 2**28  # numbers in one file, all channels or labels counted: 1 GiB as float32
_MILLIMETRES = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}  # by NIfTI's code: unspecified, metres, mm, micrometres
ENDINGS = (".nii.gz", ".nii")
_AGAIN = "write it again as NIfTI (.nii or .nii.gz)"


@dataclass(frozen=True)
class Volume:
    """The content of a NIfTI file.

    Attributes:
        values: Float32[X, Y, Z], or [C, X, Y, Z] if the file has a fourth axis.
        affine: Float64[4, 4], voxel indices -> the file's world coordinates.
        header: nibabel's header, kept for the results.
        spacing: millimetres along the axes of the array.
    """

    values: NDArray[np.float32]
    affine: NDArray[np.float64]
    header: Any
    spacing: tuple[float, float, float]


def read_nifti(path: PathLike, role: str = "volume", *, max_voxels: int = MAX_VOXELS) -> Volume:
    """Read .nii or .nii.gz; a fourth axis is moved to the front, as the axis of channels or labels.

    Raises:
        ValueError: no such file, no NIfTI, damaged, too large, not three or four axes, complex numbers.
        ImportError: nibabel is not installed.

    >>> import os, tempfile
    >>> name = os.path.join(tempfile.mkdtemp(), "a.nii.gz")
    >>> import nibabel
    >>> nibabel.save(nibabel.Nifti1Image(np.zeros((4, 5, 6), np.uint8), np.diag([1, 1, 3, 1])), name)
    >>> read_nifti(name).spacing
    (1.0, 1.0, 3.0)
    """
    with _named(path, role):
        image, shape = _open(path, role)
        if int(np.prod(shape, dtype=object)) > max_voxels:
            remedy = "crop or resample it (or raise max_voxels)"
            raise FileError(role, path, f"at most {max_voxels} numbers", f"{shape}", remedy)
        if np.dtype(image.get_data_dtype()).kind not in "uif":
            raise FileError(role, path, "real numbers", f"{image.get_data_dtype()}", _AGAIN)
        values = np.asarray(image.dataobj, np.float32).reshape(shape)
    if len(shape) == 4:
        values = np.moveaxis(values, -1, 0)
    affine = np.asarray(image.affine, np.float64)
    code = int(image.header["xyzt_units"]) & 7  # the bits above are the unit of time
    if code not in _MILLIMETRES:
        warn(
            f"{role} {str(path)!r}: its unit of length has the code {code}, which NIfTI does not define; "
            "millimetres are assumed"
        )
    # The affine defines the voxels' positions; the sizes in the header may contradict it.
    sizes = np.sqrt((affine[:3, :3] ** 2).sum(0)) * _MILLIMETRES.get(code, 1.0)
    if not np.isfinite(sizes).all() or not (sizes > 0).all():
        raise FileError(role, path, "voxels of positive size", f"{sizes.tolist()}", "correct its affine")
    x, y, z = (float(size) for size in sizes)
    return Volume(np.ascontiguousarray(values), affine, image.header, (x, y, z))


def read_grid(path: PathLike, role: str = "volume") -> tuple[tuple[int, ...], NDArray[np.float64]]:
    """The shape of the three spatial axes and the affine, without reading voxels; errors as `read_nifti`."""
    with _named(path, role):
        image, shape = _open(path, role)
    return shape[:3], np.asarray(image.affine, np.float64)


def _open(path: PathLike, role: str) -> tuple[Any, tuple[int, ...]]:
    """nibabel's image and its shape of three or four axes, channels or labels last."""
    nibabel = optional("nibabel", "medical", "NIfTI")
    image = nibabel.load(existing(path, role))
    if not isinstance(image, nibabel.Nifti1Image):  # Nifti2Image is a subclass
        raise FileError(role, path, "a NIfTI file", type(image).__name__, _AGAIN)
    shape = tuple(int(n) for n in image.shape)
    if len(shape) == 5 and shape[3] == 1:  # vectors as written by ITK and ANTs: the fourth axis is time
        shape = (*shape[:3], shape[4])
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) not in (3, 4) or 0 in shape:
        raise FileError(role, path, "three axes, or four with channels last", f"{image.shape}", _AGAIN)
    return image, shape


@contextmanager
def _named(path: PathLike, role: str) -> Iterator[None]:
    try:
        yield
    except (FileError, ImportError):
        raise
    except Exception as error:  # nibabel, gzip and zlib raise many types for a bad file
        got = f"{type(error).__name__}: {error}"
        raise FileError(role, path, "a whole NIfTI file", got, _AGAIN) from error


def write_nifti(path: PathLike, values: NDArray[Any], like: Volume, *, intent: str = "none") -> None:
    """Write [X, Y, Z] or [L, X, Y, Z] with the affine, codes and units of `like`, atomically.

    Args:
        path: ends in .nii or .nii.gz.
        values: written in their dtype: uint8 labels, float32 probabilities.
        intent: NIfTI's name for the meaning of the numbers, such as "label" or "estimate".
    """
    nibabel = optional("nibabel", "medical", "NIfTI")
    name = str(path).lower()
    if not name.endswith(ENDINGS):
        raise ValueError(f"output: expected a name in .nii.gz or .nii, got {str(path)!r}; add the ending")
    data = np.moveaxis(values, 0, -1) if values.ndim == 4 else values
    header = like.header.copy()
    header.set_data_dtype(data.dtype)
    header["cal_min"] = header["cal_max"] = 0  # drop the display window of the guide's intensities
    # NIfTI-2 (axes longer than 32,767) stays NIfTI-2.
    kind = nibabel.Nifti2Image if isinstance(header, nibabel.Nifti2Header) else nibabel.Nifti1Image
    image = kind(data, like.affine, header)
    image.header.set_intent(intent)
    raw = image.to_bytes()
    with atomic(path) as temporary:
        # mtime 0, so that equal labels give equal bytes.
        temporary.write_bytes(gzip.compress(raw, compresslevel=6, mtime=0) if name.endswith(".gz") else raw)


def check_grid(
    path: PathLike, role: str, shape: tuple[int, ...], affine: NDArray[np.float64], guide: Volume
) -> None:
    """FileError unless the voxels have the guide's positions."""
    wanted = guide.values.shape[-3:]
    if shape != wanted:
        turned = sorted(shape) == sorted(wanted)
        raise FileError(
            role, path, f"the guide's grid, {wanted} voxels", f"{shape}",
            "it may be rotated: bring both to one orientation with nibabel.as_closest_canonical"
            if turned
            else "resample it onto the guide",
        )  # fmt: skip
    if not same_places(affine, guide.affine):
        same_axes = np.allclose(affine[:3, :3], guide.affine[:3, :3], rtol=1e-4, atol=1e-3)
        raise FileError(
            role, path, f"the guide's grid, affine {_rows(guide.affine)}", f"{_rows(affine)}",
            "the voxels are at other positions: resample it onto the guide"
            if same_axes
            else "the axes are rotated or scaled: bring both to one orientation with "
            "nibabel.as_closest_canonical, or resample it onto the guide",
        )  # fmt: skip


def _rows(affine: NDArray[np.float64]) -> str:
    return "; ".join(" ".join(f"{v:.5g}" for v in row) for row in affine[:3])


def same_places(a: NDArray[np.float64], b: NDArray[np.float64]) -> bool:
    """Whether two affines give voxels the same positions, to about a thousandth of a millimetre."""
    return np.allclose(a, b, rtol=1e-4, atol=1e-3)
