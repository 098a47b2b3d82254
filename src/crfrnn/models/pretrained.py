# SPDX-License-Identifier: MIT
"""Segmenters on disk: weights as safetensors, the rest as JSON that refers to registered networks by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from crfrnn.crf.saved import layer_of, settings_of
from crfrnn.io.files import FileError, PathLike, atomic, existing, write_text
from crfrnn.io.weights import read_safetensors
from crfrnn.models.preprocessing import Preprocessing
from crfrnn.models.registry import build_network, recipe_of

if TYPE_CHECKING:
    from crfrnn.models.segmenter import Segmenter

Kind = TypeVar("Kind", bound="Segmenter")
FORMAT, VERSION = "crfrnn-segmenter", 1
WEIGHTS, CONFIG = "model.safetensors", "config.json"
CHECKPOINTS = Path(__file__).resolve().parents[1] / "checkpoints"  # the packaged checkpoints
GONE = {"lite-voc-person": "deeplab-voc-person"}  # removed names → replacement
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
MAX_CONFIG = 2**20
_AGAIN = "write it with save_pretrained or `crfrnn convert`"


def describe_segmenter(segmenter: Segmenter) -> dict[str, Any]:
    """The content of ``config.json``; ValueError for a network without a recipe."""
    recipe = recipe_of(segmenter.network)
    return {
        "format": FORMAT,
        "version": VERSION,
        "network": recipe.name,
        "network_arguments": dict(recipe.arguments),
        "preprocessing": segmenter.preprocessing.as_dict(),
        "crf": None if segmenter.crf is None else settings_of(segmenter.crf),
        "guide": segmenter.guide.as_dict(),
        "class_names": list(segmenter.class_names),
        "long_side": segmenter.long_side,
    }


def save_segmenter(segmenter: Segmenter, target: Path, dtype: torch.dtype = torch.float32) -> None:
    """`Segmenter.save_pretrained` without the Hub."""
    if dtype not in DTYPES:
        raise ValueError(f"dtype: expected float32, float16 or bfloat16, got {dtype}")
    config = json.dumps(describe_segmenter(segmenter), indent=2)
    tensors: dict[str, Tensor] = {}
    for name, value in segmenter.state_dict().items():
        narrow = name.startswith("network.") and value.is_floating_point()
        # Copy each: safetensors rejects tensors that share memory.
        stored = value.detach().to("cpu", dtype if narrow else value.dtype, copy=True).contiguous()
        if stored.is_floating_point() and not bool(torch.isfinite(stored).all()):
            raise ValueError(
                f"{name}: expected finite weights, got NaN or infinity in {dtype}; "
                "train with lower rates, or save in float32"
            )
        tensors[name] = stored
    single = target.suffix == ".safetensors"
    if not single:
        target.mkdir(parents=True, exist_ok=True)
    with atomic(target if single else target / WEIGHTS) as temporary:
        save_file(tensors, temporary, {"format": "pt", "config": config})
        temporary.chmod(0o644)  # safetensors creates files that only their owner can read
    if not single:
        write_text(target / CONFIG, config + "\n")


def find_checkpoint(path_or_name: PathLike) -> Path | None:
    """The given folder or file, or the packaged checkpoint of that name; None if it may be on the Hub.

    Raises: ValueError if it cannot be a name on the Hub either.
    """
    path = Path(path_or_name)
    if path.exists():
        return path
    name = str(path_or_name)
    packaged = sorted(p.name for p in CHECKPOINTS.iterdir()) if CHECKPOINTS.is_dir() else []
    if name in packaged:
        return CHECKPOINTS / name
    if name in GONE and GONE[name] in packaged:
        raise FileError(
            "checkpoint", path_or_name, f"one of {', '.join(packaged)}", "a removed one",
            f"use {GONE[name]}, a better network",
        )  # fmt: skip
    if isinstance(path_or_name, str) and name.count("/") == 1 and not name.endswith(".safetensors"):
        return None
    raise FileError(
        "checkpoint", path_or_name, "a folder, a .safetensors file, OWNER/NAME on the Hub"
        + (f", or one of {', '.join(packaged)}" if packaged else ""),
        "no such checkpoint", "check the spelling",
    )  # fmt: skip


def load_segmenter(kind: type[Kind], path: Path, network: nn.Module | None = None) -> Kind:
    """`kind.from_pretrained` for a folder or a .safetensors file."""
    weights = path / WEIGHTS if path.is_dir() else path
    if weights.suffix != ".safetensors":
        raise FileError("checkpoint", path, "a folder or a .safetensors file", "another file", _AGAIN)
    tensors, metadata = read_safetensors(weights, "checkpoint")
    if path.is_dir():
        found = existing(path / CONFIG, "configuration")
        if found.stat().st_size > MAX_CONFIG:
            raise FileError("configuration", found, f"at most {MAX_CONFIG} bytes", "more", _AGAIN)
        text, source = found.read_bytes(), found
    else:
        text, source = metadata.get("config", "").encode(), weights
    try:
        config = json.loads(text)
        if not isinstance(config, dict) or config.get("format") != FORMAT:
            raise ValueError(f"expected the format {FORMAT!r}")
        if config.get("version") != VERSION:
            raise ValueError(f"expected version {VERSION}, got {config.get('version')!r}")
        return _build(kind, config, tensors, network)
    except (ValueError, TypeError, LookupError, RuntimeError, ArithmeticError) as error:
        raise FileError(
            "checkpoint", source, "weights and a configuration that fit", str(error), _AGAIN
        ) from error


def _build(
    kind: type[Kind], config: dict[str, Any], tensors: dict[str, Tensor], network: nn.Module | None
) -> Kind:
    """Build on the meta device first, to check a file's claims against its content before allocating."""
    parts: dict[str, dict[str, Tensor]] = {"network": {}, "crf": {}}
    for name, value in tensors.items():
        part, _, rest = name.partition(".")
        if part not in parts:
            raise ValueError(f"expected tensors named network.* and crf.*, got {name!r}")
        parts[part][rest] = value.float() if value.is_floating_point() else value
    arguments = config["network_arguments"]
    if not isinstance(arguments, dict):
        raise ValueError(f"network_arguments: expected a mapping, got {arguments!r}")
    if network is None:
        with torch.device("meta"):
            network = build_network(config["network"], **arguments)
        _compare(network, parts["network"])
        network.load_state_dict(parts["network"], assign=True)
        if any(value.is_meta for value in network.buffers()):  # buffers that are not in state dicts
            network = build_network(config["network"], **arguments)
            network.load_state_dict(parts["network"])
    else:
        _compare(network, parts["network"])
        network.load_state_dict(parts["network"])
    crf = None
    if config["crf"] is not None:
        try:
            crf = layer_of(config["crf"], parts["crf"])
        except (ValueError, TypeError) as error:
            raise ValueError(f"crf.{error}") from error
    segmenter = kind(
        network,
        crf,
        preprocessing=Preprocessing.from_dict(config["preprocessing"]),
        guide=Preprocessing.from_dict(config["guide"]),
        class_names=config["class_names"],
        long_side=config.get("long_side"),
    )
    return segmenter.eval()


def _compare(network: nn.Module, tensors: dict[str, Tensor]) -> None:
    wanted = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    held = {name: tuple(value.shape) for name, value in tensors.items()}
    if wanted != held:
        name = next(n for n in sorted({*wanted, *held}) if wanted.get(n) != held.get(n))
        raise ValueError(
            f"network.{name}: expected shape {wanted.get(name, 'of no such tensor')}, "
            f"got {held.get(name, 'no such tensor')}"
        )
