# SPDX-License-Identifier: MIT
"""The packaged checkpoints, and the default one."""

from __future__ import annotations

from crfrnn.models import pretrained


def packaged_checkpoints() -> tuple[str, ...]:
    """The sorted names of the packaged checkpoints, for `Segmenter.from_pretrained`."""
    home = pretrained.CHECKPOINTS
    if not home.is_dir():
        return ()
    return tuple(sorted(p.name for p in home.iterdir() if (p / pretrained.WEIGHTS).is_file()))


def default_checkpoint() -> str:
    """The name of the only checkpoint in this package.

    Raises: ValueError if there is none, or more than one.
    """
    names = packaged_checkpoints()
    if not names:
        raise ValueError(
            "checkpoint: expected a name or path, got none, and this package contains no checkpoint; "
            "name a folder or .safetensors file from `crfrnn train` or `crfrnn convert`"
        )
    name, *others = names
    if others:
        raise ValueError(f"checkpoint: expected one of {', '.join(names)}, got none; name it")
    return name
