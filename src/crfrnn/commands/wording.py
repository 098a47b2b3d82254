# SPDX-License-Identifier: MIT
"""Translates messages of the Python functions for the command line: arguments become options."""

from __future__ import annotations

import re
import typing
from collections.abc import Callable, Mapping
from typing import Any

from typer.models import OptionInfo

# Arguments with a different name on the command line.
_CALLED = {
    "axes": "layout",
    "num_labels": "labels",
    "unknown": "void",
    "probabilities": "unary",
    "levels": "level",
}
_VALUE = r"'[^']*'|\"[^\"]*\"|-?\d[\d.e+-]*\b"
_KEYWORD = re.compile(rf"(?<![(,\w.'\x22])(?<!, )\b([a-z]\w*)=({_VALUE})?(?![\w(\[])")  # \x22: "
_LEADING = re.compile(r"(^|: )([a-z]\w*)(?=: expected)")
_FOR_PYTHON = re.compile(r" \(or[^()]*raise max_\w+\)")  # a limit without an option
_BESIDE = re.compile(
    r"(?<=[\w)]) \(([a-z]\w*)=(?:\([^()]*\))?\)"
)  # the argument in brackets after the option
_TWICE = re.compile(r"(?<!\S)(--[a-z][a-z-]*(?: [\w.,+-]+)??)(?: or \1| \(\1\))(?!\w)")
_AMBIGUOUS = {
    "labels",
    "crf",
}  # as the first word these mean a map or the layer, not the option


def options_of(command: Callable[..., Any]) -> dict[str, str]:
    """The option for each argument that a Python message may name.

    >>> import typer
    >>> def f(theta_alpha: typing.Annotated[float, typer.Option("--theta-alpha")]): ...
    >>> options_of(f)
    {'theta_alpha': '--theta-alpha'}
    """
    found: dict[str, str] = {}
    for name, hint in typing.get_type_hints(command, include_extras=True).items():
        for info in getattr(hint, "__metadata__", ()):
            if not isinstance(info, OptionInfo):
                continue
            words = (info.default, *(info.param_decls or ()))  # Annotated passes the first one as the default
            long = [word for word in words if isinstance(word, str) and word.startswith("--")]
            if long:
                found[name] = long[0].split("/")[0]
    return found | {ours: found[theirs] for ours, theirs in _CALLED.items() if theirs in found}


def in_options(message: str, options: Mapping[str, str]) -> str:
    """The message with arguments replaced by the command's options, if it has them.

    >>> in_options("kind: expected one of …; pass axes='lwh'", {"axes": "--layout", "kind": "--kind"})
    '--kind: expected one of …; pass --layout lwh'
    >>> in_options("say so: --void 255 or unknown=255", {"unknown": "--void"})
    'say so: --void 255'
    """

    def option(found: re.Match[str]) -> str:
        name, value = found.groups()
        if name not in options:
            return found[0]
        return options[name] + (f" {value.strip(chr(39) + chr(34))}" if value else "")

    def first(found: re.Match[str]) -> str:
        before, name = found.groups()
        return found[0] if name in _AMBIGUOUS else before + options.get(name, name)

    def beside(found: re.Match[str]) -> str:
        return "" if found[1] in options else found[0]

    message = _BESIDE.sub(beside, _FOR_PYTHON.sub("", message))
    return _TWICE.sub(r"\1", _KEYWORD.sub(option, _LEADING.sub(first, message)))
