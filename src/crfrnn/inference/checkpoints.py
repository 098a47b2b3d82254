# SPDX-License-Identifier: MIT
"""The checkpoints that come with the package, and which one is meant where none is named."""

from __future__ import annotations

from crfrnn.models import pretrained


def packaged_checkpoints() -> tuple[str, ...]:
    """The names of the checkpoints in this package, sorted; `Segmenter.from_pretrained` takes them."""
    home = pretrained.CHECKPOINTS
    if not home.is_dir():
        return ()
    return tuple(sorted(p.name for p in home.iterdir() if (p / pretrained.WEIGHTS).is_file()))


def default_checkpoint() -> str:
    """The name of the one checkpoint in this package.

    Raises: ValueError where there is none, or more than one.
    """
    names = packaged_checkpoints()
    if not names:
        raise ValueError(
            "checkpoint: expected a name or path, got none, and this package brings no checkpoint; "
            "name a folder or .safetensors file that `crfrnn train` or `crfrnn convert` wrote"
        )
    name, *others = names
    if others:
        raise ValueError(f"checkpoint: expected one of {', '.join(names)}, got none; name it")
    return name
