# SPDX-License-Identifier: MIT
"""Tensors of a .safetensors or .pth file; no code in a file is ever run."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from crfrnn.io.files import FileError, PathLike, existing

MAX_NUMBERS = 2**29  # four times FCN-8s
_AGAIN = "download it again, or name the right file"


def read_tensors(path: PathLike, role: str = "weights") -> dict[str, Tensor]:
    """All tensors of a file by name, on the CPU: .safetensors, or a file from ``torch.save``.

    A state dict may be nested under "state_dict" or "model". Files from torch.save are read with
    ``weights_only=True``.

    Raises:
        ValueError: no such file, damaged, not a mapping of names to tensors, a pickle that would run code.
    """
    found = existing(path, role)
    if found.suffix == ".safetensors":
        return read_safetensors(found, role)[0]
    return _checked(found, role, _read_pickle(found, role))


def read_safetensors(path: PathLike, role: str = "weights") -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a .safetensors file; ValueError if it is incomplete."""
    found = existing(path, role)
    try:
        with safe_open(found, framework="pt") as stream:
            metadata = dict(stream.metadata() or {})
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError, OSError) as error:
        raise FileError(role, path, "a whole safetensors file", str(error), _AGAIN) from error
    return _checked(found, role, tensors), metadata


def _read_pickle(path: Path, role: str) -> Mapping[Any, Any]:
    with path.open("rb") as stream:
        first = stream.read(4)
    if not first.startswith((b"PK", b"\x80")):  # a zip archive, or the second pickle protocol and later
        begins = f"a file that begins with {first!r}"
        raise FileError(role, path, "a file that torch.save wrote", begins, _AGAIN)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's message names the objects that the pickle contains; pass it on to the user.
        asked = next((line for line in str(error).splitlines() if "nsupported" in line), "damaged")
        raise FileError(
            role, path, "tensors only", f"a pickle that would run code or build other objects ({asked})",
            "do not load it; ask its author for a state_dict or a .safetensors file",
        ) from error  # fmt: skip
    except Exception as error:  # torch's constructors get what the file says, and fail in every way
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise FileError(role, path, "a file that torch.save wrote", first, _AGAIN) from error
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping):
        raise FileError(role, path, "a state_dict", type(content).__name__, _AGAIN)
    return content


def _checked(path: Path, role: str, content: Mapping[Any, Any]) -> dict[str, Tensor]:
    tensors = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors or not all(isinstance(name, str) for name in tensors):
        raise FileError(role, path, "tensors by name", f"{len(tensors)} tensors", _AGAIN)
    check_amount(path, role, (value.numel() for value in tensors.values()))
    for name, value in tensors.items():
        if value.layout != torch.strided or value.is_meta or value.is_quantized or value.is_complex():
            raise FileError(role, path, f"plain numbers in {name!r}", "another kind of tensor", _AGAIN)
    for name, value in tensors.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise FileError(role, path, f"finite numbers in {name!r}", "NaN or infinity", _AGAIN)
    return tensors


def check_amount(path: PathLike, role: str, counts: Iterable[int]) -> None:
    """Reject a file that claims more numbers than these networks have; views can claim many for few bytes."""
    total = sum(counts)
    if total > MAX_NUMBERS:
        raise FileError(role, path, f"at most {MAX_NUMBERS} numbers", str(total), "name the right file")
