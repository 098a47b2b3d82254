# SPDX-License-Identifier: MIT
"""The parameters of a CRF as one file: tensors, settings, scores and provenance."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors.torch import save_file

from crfrnn.crf import CRFRNN
from crfrnn.crf.binary import check_class_names
from crfrnn.crf.saved import layer_of, settings_of
from crfrnn.io.files import FileError, PathLike, atomic, existing
from crfrnn.io.weights import read_safetensors

FORMAT, VERSION = "crfrnn-parameters", "1"
MAX_BYTES = 2**28  # three L×L matrices of 4,000 labels
_AGAIN = "write it with `crfrnn fit`, `crfrnn tune` or save_parameters"


@dataclass(frozen=True)
class SavedParameters:
    """The content of a parameter file.

    Attributes:
        crf: the layer, in evaluation mode.
        class_names: a name per label, or empty; for one logit, the foreground's name or both names.
        scores: scores that the parameters reached, as fractions of 1, by name.
        provenance: how the parameters were made (command, data, configuration, versions).
    """

    crf: CRFRNN
    class_names: tuple[str, ...] = ()
    scores: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)


def save_parameters(
    path: PathLike,
    crf: CRFRNN,
    *,
    class_names: Sequence[str] = (),
    scores: Mapping[str, Any] | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> None:
    """Write parameters and settings of a CRF atomically; an existing file is replaced.

    The file is a safetensors file: the tensors of the layer's state_dict, and in its metadata the keys
    ``format``, ``version``, ``settings``, ``class_names``, ``scores``, ``provenance`` (JSON).

    Raises:
        ValueError: parameters with NaN or infinity, no such folder, a wrong number of names.

    >>> import os, tempfile
    >>> name = os.path.join(tempfile.mkdtemp(), "crf.safetensors")
    >>> save_parameters(name, CRFRNN(3, iterations=7), scores={"mean_iu": 0.7})
    >>> load_parameters(name).crf.iterations
    7
    """
    tensors = {name: value.detach().cpu().contiguous() for name, value in crf.state_dict().items()}
    for name, value in tensors.items():
        if not bool(torch.isfinite(value).all()):
            raise ValueError(f"{name}: expected finite parameters, got NaN or infinity; fit with lower rates")
    parts = {
        "settings": settings_of(crf),
        "class_names": check_class_names(class_names, crf.num_labels),
        "scores": dict(scores or {}),
        "provenance": dict(provenance or {}),
    }
    metadata = {name: json.dumps(part) for name, part in parts.items()}
    with atomic(path) as temporary:
        save_file(tensors, temporary, {"format": FORMAT, "version": VERSION, **metadata})


def load_parameters(path: PathLike) -> SavedParameters:
    """Read a parameter file; no code in it is run, and sizes are checked before anything is built.

    Raises:
        ValueError: no such file, another kind of file, damaged, of a later version, tensors missing or of
            shapes that do not match, NaN or infinity, settings that the layer rejects.
    """
    size = existing(path, "params").stat().st_size
    if size > MAX_BYTES:
        raise FileError("params", path, f"at most {MAX_BYTES} bytes", f"{size}", "name the right file")
    tensors, metadata = read_safetensors(path, "params")
    for key, wanted, remedy in (
        ("format", FORMAT, _AGAIN),
        ("version", VERSION, "read it with the release of crfrnn that wrote it, or a newer one"),
    ):
        if metadata.get(key) != wanted:
            raise FileError("params", path, f"{key} {wanted!r}", repr(metadata.get(key)), remedy)
    try:
        parts = {key: json.loads(metadata.get(key, "{}")) for key in ("settings", "scores", "provenance")}
        class_names = json.loads(metadata.get("class_names", "[]"))
    except (ValueError, RecursionError) as error:  # the latter if it is nested too deeply
        raise FileError("params", path, "JSON in its metadata", str(error), _AGAIN) from error
    if not all(isinstance(part, dict) for part in parts.values()) or not isinstance(class_names, list):
        raise FileError("params", path, "JSON objects in its metadata", "something else", _AGAIN)
    try:
        crf = layer_of(parts["settings"], tensors)
        class_names = check_class_names(class_names, crf.num_labels)
    except (ValueError, TypeError, RuntimeError) as error:
        raise FileError("params", path, "parameters that fit the layer", str(error), _AGAIN) from error
    return SavedParameters(crf, class_names, parts["scores"], parts["provenance"])
