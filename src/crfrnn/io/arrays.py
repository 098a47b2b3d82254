# SPDX-License-Identifier: MIT
"""Arrays from untrusted .npy, .npz and .pt files: no code is run, and sizes are checked before allocation."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import torch
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from crfrnn.io.files import FileError, PathLike, existing

MAX_BYTES = 2**31  # 21 labels of a 25 Mpx picture in float32
Check = Callable[[tuple[int, ...], np.dtype[Any]], None]

_HEADER_LIMIT = 10_000  # bytes
_MOST_AXES, _LONGEST = 32, 2**48
_CHUNK = 2**18
_OVERHEAD = 2**20  # of a .pt: its pickle and alignment
_AGAIN = "save or download it again"


def read_array(
    path: PathLike,
    role: str = "array",
    *,
    key: str | None = None,
    max_bytes: int = MAX_BYTES,
    check: Check | None = None,
) -> NDArray[Any]:
    """Read one array of numbers in native byte order, without running anything the file may contain.

    Args:
        path: ``.npy``, ``.npz``, ``.pt`` or ``.pth`` (from torch.save: a tensor or a dict of tensors).
        role: what the caller uses the file for, as named in the message.
        key: the entry of an .npz or of a dict; optional if there is only one.
        max_bytes: largest size of the array in memory; checked from the header, before any allocation.
        check: called with shape and dtype once the header is read; raises a `FileError` to reject the file.

    Raises:
        ValueError: no such file, unknown ending, pickled objects, too large, truncated, no such key.

    >>> import os, tempfile
    >>> name = os.path.join(tempfile.mkdtemp(), "a.npy")
    >>> np.save(name, np.arange(3.0))
    >>> read_array(name).tolist()
    [0.0, 1.0, 2.0]
    """
    found = existing(path, role)
    readers = {".npy": _read_npy, ".npz": _read_npz, ".pt": _read_torch, ".pth": _read_torch}
    reader = readers.get(found.suffix.lower())
    if reader is None:
        raise FileError(
            role, path, "a file ending in .npy, .npz, .pt or .pth", repr(found.suffix),
            "save the array with numpy.save or torch.save",
        )  # fmt: skip
    with _damage_named(path, role):
        return reader(found, role, key, max_bytes, check or (lambda shape, dtype: None))


def read_arrays(
    path: PathLike, role: str = "arrays", *, max_bytes: int = MAX_BYTES
) -> dict[str, NDArray[Any]]:
    """Read all arrays of an .npz by name, as `read_array` does; `max_bytes` limits their total."""
    arrays: dict[str, NDArray[Any]] = {}
    with _damage_named(path, role), zipfile.ZipFile(existing(path, role)) as archive:
        for member in archive.namelist():
            with archive.open(member) as stream:
                array = _parse_npy(_buffered(stream), path, role, max_bytes, lambda shape, dtype: None)
            max_bytes -= array.nbytes
            arrays[member.removesuffix(".npy")] = array
    return arrays


def npz_names(path: PathLike, role: str = "arrays") -> list[str]:
    """The names of the arrays of an .npz."""
    with _damage_named(path, role), zipfile.ZipFile(existing(path, role)) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]


@contextmanager
def _damage_named(path: PathLike, role: str) -> Iterator[None]:
    try:
        yield
    except FileError:
        raise
    except Exception as error:  # zipfile, zlib, pickle and torch each raise their own types
        got = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
        raise FileError(role, path, "a whole file of its kind", got, _AGAIN) from error


def _read_npy(path: Path, role: str, key: str | None, max_bytes: int, check: Check) -> NDArray[Any]:
    if key is not None:
        raise FileError(role, path, "no key for an .npy file: it holds one array", repr(key), "leave key out")
    with path.open("rb") as stream:
        return _parse_npy(stream, path, role, max_bytes, check)


def _read_npz(path: Path, role: str, key: str | None, max_bytes: int, check: Check) -> NDArray[Any]:
    with zipfile.ZipFile(path) as archive:
        members = {name.removesuffix(".npy"): name for name in archive.namelist()}
        name = _choose(list(members), key, path, role)
        with archive.open(members[name]) as stream:
            return _parse_npy(_buffered(stream), path, role, max_bytes, check)


def _choose(names: list[str], key: str | None, path: Path, role: str) -> str:
    shown = ", ".join(names[:8]) + (f", … ({len(names)} in all)" if len(names) > 8 else "")
    if key is None:
        if len(names) != 1:
            raise FileError(role, path, "one array", f"the entries {shown or '(none)'}", "name one with key=")
        return names[0]
    if key not in names:
        raise FileError(
            role, path, f"an entry {key!r}", f"the entries {shown or '(none)'}", "use one of these"
        )
    return key


def _parse_npy(
    stream: io.BufferedIOBase, path: PathLike, role: str, max_bytes: int, check: Check
) -> NDArray[Any]:
    """Parse the header with numpy but read the data here: numpy allocates any size that a header claims."""
    head = io.BytesIO(stream.read(_HEADER_LIMIT))  # limits what numpy reads, whatever the header claims
    shape, fortran, dtype = _parse_header(head, path, role)
    if dtype.hasobject:
        raise FileError(
            role, path, "plain numbers", "pickled Python objects, which can run code when they are loaded",
            "save a numeric array: numpy.save(name, numpy.asarray(x, dtype=numpy.float32))",
        )  # fmt: skip
    if dtype.kind not in "fiub":
        raise FileError(role, path, "real numbers", f"dtype {dtype}", "convert to float32 or an integer type")
    _check_bytes(math.prod(shape) * dtype.itemsize, shape, dtype, max_bytes, path, role)
    check(shape, dtype)
    flat = np.empty(math.prod(shape), dtype)
    raw, done = flat.view(np.uint8).data, 0
    for source in (head, stream):  # without a copy in between
        while count := source.readinto(raw[done : done + _CHUNK]):
            done += count
    if done < flat.nbytes:
        raise FileError(role, path, f"{flat.nbytes} bytes of data", f"a truncated file with {done}", _AGAIN)
    if head.read(1) or stream.read(1):  # in an archive, reading the end also verifies the checksum
        raise FileError(role, path, f"{flat.nbytes} bytes of data for {shape}", "more than that", _AGAIN)
    array = flat.reshape(shape, order="F" if fortran else "C")
    return array.astype(dtype.newbyteorder("="), copy=False)


def _buffered(member: IO[bytes]) -> io.BufferedIOBase:
    return cast(io.BufferedIOBase, member)  # as zipfile documents, but not its annotation


def _parse_header(head: IO[bytes], path: PathLike, role: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    try:
        version = npy_format.read_magic(head)
        if version not in ((1, 0), (2, 0), (3, 0)):  # 3.0 differs from 2.0 only in field names' encoding
            raise ValueError(f"version {version}")
        read = npy_format.read_array_header_1_0 if version == (1, 0) else npy_format.read_array_header_2_0
        shape, fortran, dtype = read(head, max_header_size=_HEADER_LIMIT)
        if len(shape) > _MOST_AXES or not all(0 <= n < _LONGEST for n in shape):
            raise ValueError(f"shape {shape!s:.60}")
    except Exception as error:  # the parser raises errors of syntax, recursion and memory
        got = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        raise FileError(role, path, "the header of an array in .npy format", got, _AGAIN) from error
    return shape, fortran, dtype


def _check_bytes(
    size: int, shape: tuple[int, ...], dtype: object, max_bytes: int, path: PathLike, role: str
) -> None:
    if size > max_bytes:
        raise FileError(
            role, path, f"at most {max_bytes} bytes in memory", f"{size} ({dtype} {shape})",
            "store a smaller type or picture (or, for a file that is trusted, raise max_bytes)",
        )  # fmt: skip


def _read_torch(path: Path, role: str, key: str | None, max_bytes: int, check: Check) -> NDArray[Any]:
    if not zipfile.is_zipfile(path):
        raise FileError(
            role, path, "a whole file of torch.save", "a truncated file or one of the form before torch 1.6",
            "save it again with a current torch",
        )  # fmt: skip
    with zipfile.ZipFile(path) as archive:  # members may be compressed: check their full sizes first
        total = sum(member.file_size for member in archive.infolist())
    _check_bytes(total - _OVERHEAD, (total,), "uint8", max_bytes, path, role)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        if "weights_only" not in str(error) and "Unsupported" not in str(error):
            raise
        raise FileError(
            role, path, "tensors only", "other Python objects, which can run code when they are loaded",
            "save the tensor alone: torch.save(tensor, name)",
        ) from error  # fmt: skip
    if isinstance(content, dict):
        content = content[_choose([str(name) for name in content], key, path, role)]
    elif key is not None:
        raise FileError(
            role, path, f"no key: it holds a {type(content).__name__}", repr(key), "leave key out"
        )
    if not isinstance(content, torch.Tensor) or content.is_meta or content.layout != torch.strided:
        raise FileError(role, path, "a dense tensor", type(content).__name__, "save tensor.cpu() itself")
    if content.is_complex() or content.is_quantized:
        raise FileError(role, path, "real numbers", str(content.dtype), "convert with tensor.float()")
    if content.dtype == torch.bfloat16:  # numpy has no such type
        itemsize, dtype = 4, np.dtype(np.float32)
    else:
        itemsize = content.element_size()
        dtype = torch.empty(0, dtype=content.dtype).numpy().dtype
    # With a stride of 0, a few stored bytes can have any shape.
    _check_bytes(content.numel() * itemsize, tuple(content.shape), dtype, max_bytes, path, role)
    check(tuple(content.shape), dtype)
    content = content.detach().resolve_neg()
    return (content.float() if content.dtype == torch.bfloat16 else content).numpy()
