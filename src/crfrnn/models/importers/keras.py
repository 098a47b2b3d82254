# SPDX-License-Identifier: MIT
"""Weights of the Keras port's .h5."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crfrnn.extras import optional
from crfrnn.io.files import FileError, PathLike, existing
from crfrnn.io.weights import check_amount
from crfrnn.models.importers.assemble import CRF_PARTS, NAMES, Found
from crfrnn.models.preprocessing import CAFFE, CAFFE_GUIDE

MAX_DEPTH, MAX_ENTRIES = 8, 10_000
CRF_NAMES = dict(
    zip(("spatial_ker_weights", "bilateral_ker_weights", "compatibility_matrix"), CRF_PARTS, strict=True)
)
_KERNEL, _BIAS = re.compile(r"(kernel|_W|^W)(_\d+)?$"), re.compile(r"(bias|_b|^b)(_\d+)?$")
_AGAIN = "download it again, or name the right file"


def read_h5(path: PathLike) -> dict[str, Tensor]:
    """All numeric arrays of an HDF5 file by path, Float32.

    Links to other files, stored or virtual, are rejected, and sizes are checked before anything is read.

    Raises: ImportError without h5py; ValueError for a damaged or hostile file.
    """
    h5py = optional("h5py", "convert", ".h5 files")
    found = existing(path, "keras file")
    try:
        with h5py.File(found, "r") as file:
            datasets: dict[str, Any] = {}
            for number, (name, item) in enumerate(_entries(h5py, path, file)):
                if number >= MAX_ENTRIES:  # groups count, too: those with several names multiply
                    raise FileError("keras file", path, f"at most {MAX_ENTRIES} entries", "more", _AGAIN)
                if isinstance(item, h5py.Dataset) and item.dtype.kind == "f":
                    if item.is_virtual or item.external:
                        got = f"{name!r} outside"
                        raise FileError("keras file", path, "arrays in the file itself", got, _AGAIN)
                    datasets[name] = item
            check_amount(path, "keras file", (d.size for d in datasets.values()))
            arrays = {name: np.asarray(d[()], dtype=np.float32) for name, d in datasets.items()}
    except FileError:
        raise
    except (OSError, RuntimeError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise FileError("keras file", path, "a whole HDF5 file", str(error), _AGAIN) from error
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise FileError("keras file", path, f"finite numbers in {name!r}", "NaN or infinity", _AGAIN)
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def _entries(
    h5py: Any, path: PathLike, group: Any, prefix: str = "", depth: int = 0
) -> Iterator[tuple[str, Any]]:
    """Everything below a group, with its path."""
    if depth > MAX_DEPTH:
        raise FileError("keras file", path, f"at most {MAX_DEPTH} nested groups", "more", _AGAIN)
    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise FileError("keras file", path, "arrays in the file itself", f"a link {name!r}", _AGAIN)
        item = group[name]
        yield f"{prefix}{name}", item
        if isinstance(item, h5py.Group):
            yield from _entries(h5py, path, item, f"{prefix}{name}/", depth + 1)


def read_keras(path: PathLike) -> Found:
    """The Keras port's weights in this package's names and conventions.

    Kernels are (h, w, in, out), of Conv2DTranspose (h, w, out, in): both become ours, (out, in, h, w)
    and (in, out, h, w), by the same permutation. ``conv1_1`` takes B, G, R. The CRF is
    ``U - Mu·msg``, as here.
    """
    tensors: dict[str, Tensor] = {}
    for name, value in read_h5(path).items():
        parts = name.removeprefix("model_weights/").split("/")
        if parts[0] == "optimizer_weights":
            continue
        last = parts[-1].split(":")[0]
        if last in CRF_NAMES:
            tensors[f"crf.{CRF_NAMES[last]}"] = value
        elif parts[0] in NAMES and _KERNEL.search(last):
            if value.ndim != 4:
                raise FileError("keras file", path, f"4 axes in {name!r}", str(value.ndim), _AGAIN)
            tensors[f"{NAMES[parts[0]]}.weight"] = value.permute(3, 2, 0, 1).contiguous()
        elif parts[0] in NAMES and _BIAS.search(last):
            tensors[f"{NAMES[parts[0]]}.bias"] = value
    return Found(tensors, CAFFE, CAFFE_GUIDE, bgr=True)
