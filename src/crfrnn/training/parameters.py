# SPDX-License-Identifier: MIT
"""The parameters of a CRF as one file: tensors, settings, scores, and where they come from."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from crfrnn.crf import CRFRNN
from crfrnn.crf.binary import check_class_names, parameter_labels
from crfrnn.io.files import FileError, PathLike, atomic, existing
from crfrnn.lattice.validate import MAX_DIMENSION

FORMAT, VERSION = "crfrnn-parameters", "1"
MAX_BYTES = 2**28  # three L×L matrices of 4,000 labels
SETTINGS = (
    "iterations", "eval_iterations", "label_weights", "spatial_method", "bilateral_method", "quality",
    "normalization", "precision", "activation", "damping", "tolerance", "gradient", "exclude_self",
    "guide_components",
)  # fmt: skip
ONE_LOGIT = "one_logit"
_WEIGHTS = ("spatial_weights", "bilateral_weights", "compatibility")
_LOGS = ("log_theta_alpha", "log_theta_beta", "log_theta_gamma", "log_temperature")
_AGAIN = "write it with `crfrnn fit`, `crfrnn tune` or save_parameters"


@dataclass(frozen=True)
class SavedParameters:
    """What a parameter file holds.

    Attributes:
        crf: the layer, in evaluation mode.
        class_names: a name per label, or empty; of one logit the foreground's, or both.
        scores: figures they reached, as fractions of 1, by name.
        provenance: how they came about (command, data, configuration, versions).
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
    """Write parameters and settings of a CRF, whole or not at all; an existing file is replaced.

    The file is a safetensors file: the tensors of the layer's state_dict, and in its metadata the keys
    ``format``, ``version``, ``settings``, ``class_names``, ``scores``, ``provenance`` (JSON).

    Raises:
        ValueError: parameters with NaN or infinity, no such folder, names that are not one per label.

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
    names = check_class_names(class_names, crf.num_labels)
    settings = {name: getattr(crf, name) for name in SETTINGS}
    if len(crf.spatial_weights) != crf.num_labels:
        settings[ONE_LOGIT] = True  # else the tensors say how many labels
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "settings": json.dumps(settings),
        "class_names": json.dumps(names),
        "scores": json.dumps(dict(scores or {})),
        "provenance": json.dumps(dict(provenance or {})),
    }
    with atomic(path) as temporary:
        save_file(tensors, temporary, metadata)


def load_parameters(path: PathLike) -> SavedParameters:
    """Read a parameter file; nothing in it is run, and sizes are looked at before anything is built.

    Raises:
        ValueError: no such file, not such a file, damaged, of a later version, tensors missing or of
            shapes that do not fit each other, NaN or infinity, settings that the layer refuses.
    """
    found = existing(path, "params")
    if found.stat().st_size > MAX_BYTES:
        raise FileError(
            "params", path, f"at most {MAX_BYTES} bytes", f"{found.stat().st_size}", "name the right file"
        )
    try:
        with safe_open(found, framework="pt") as stream:
            metadata = dict(stream.metadata() or {})
            names = set(stream.keys())
            if metadata.get("format") != FORMAT:
                raise FileError(
                    "params", path, f"a file of the format {FORMAT!r}", repr(metadata.get("format")), _AGAIN
                )
            if metadata.get("version") != VERSION:
                raise FileError(
                    "params", path, f"version {VERSION}", repr(metadata.get("version")),
                    "read it with the release of crfrnn that wrote it, or a newer one",
                )  # fmt: skip
            tensors = {name: stream.get_tensor(name) for name in sorted(names)}
        parts = {key: json.loads(metadata.get(key, "{}")) for key in ("settings", "scores", "provenance")}
        class_names = json.loads(metadata.get("class_names", "[]"))
    except FileError:
        raise
    except Exception as error:  # safetensors and json raise their own
        raise FileError("params", path, "a whole safetensors file", _first_line(error), _AGAIN) from error
    if not all(isinstance(part, dict) for part in parts.values()) or not isinstance(class_names, list):
        raise FileError("params", path, "JSON objects in its metadata", "something else", _AGAIN)
    try:
        crf = _layer(tensors, parts["settings"])
        class_names = check_class_names(class_names, crf.num_labels)
    except (ValueError, TypeError, RuntimeError) as error:
        raise FileError("params", path, "parameters that fit the layer", str(error), _AGAIN) from error
    return SavedParameters(crf, class_names, parts["scores"], parts["provenance"])


def _layer(tensors: dict[str, Tensor], settings: dict[str, Any]) -> CRFRNN:
    needed = {*_WEIGHTS, *_LOGS[:3]}
    if not needed <= set(tensors) <= needed | {"log_temperature"}:
        raise ValueError(
            f"expected the tensors {', '.join(sorted(needed))}, got {', '.join(sorted(tensors))}"
        )
    for name, value in tensors.items():
        if not value.is_floating_point() or not bool(torch.isfinite(value).all()):
            raise ValueError(f"{name}: expected finite floating-point numbers, got {value.dtype}")
    settings = dict(settings)
    one_logit = settings.pop(ONE_LOGIT, False)
    strange = set(settings) - set(SETTINGS)
    if strange:
        raise ValueError(f"settings: expected {', '.join(SETTINGS)}, got {', '.join(sorted(strange))}")
    labels = tensors["spatial_weights"].shape[0] if tensors["spatial_weights"].ndim else 0
    held = parameter_labels(1 if one_logit else labels, settings.get("activation", "softmax"))
    matrix = settings.get("label_weights", "vector") == "matrix"
    for name in _WEIGHTS:
        wanted = (held, held) if matrix or name == "compatibility" else (held,)
        if labels < 1 or tuple(tensors[name].shape) != wanted:
            raise ValueError(f"{name}: expected shape {wanted}, got {tuple(tensors[name].shape)}")
    for name in _LOGS:
        if name in tensors and (tensors[name].ndim > 1 or tensors[name].numel() > MAX_DIMENSION):
            raise ValueError(f"{name}: expected one number or one per axis, got {tuple(tensors[name].shape)}")
    alpha, beta, gamma = (tensors[name].double().exp() for name in _LOGS[:3])
    crf = CRFRNN(
        1 if one_logit else labels,
        theta_alpha=alpha,
        theta_beta=beta,
        theta_gamma=gamma,
        temperature=math.exp(float(tensors["log_temperature"])) if "log_temperature" in tensors else None,
        **settings,
    )
    crf.load_state_dict(tensors)
    return crf.eval()


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__
