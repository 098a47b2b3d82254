# SPDX-License-Identifier: MIT
"""Messages of the Python functions in the words of a command: what they name is an option that exists."""

from __future__ import annotations

import re
import typing
from collections.abc import Callable, Mapping
from typing import Any

from typer.models import OptionInfo

# Arguments that a command calls otherwise.
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
_FOR_PYTHON = re.compile(r" \(or[^()]*raise max_\w+\)")  # a limit that no option changes
_BESIDE = re.compile(
    r"(?<=[\w)]) \(([a-z]\w*)=(?:\([^()]*\))?\)"
)  # the argument, in brackets behind the option
_TWICE = re.compile(r"(?<!\S)(--[a-z][a-z-]*(?: [\w.,+-]+)??)(?: or \1| \(\1\))(?!\w)")
_AMBIGUOUS = {
    "labels",
    "crf",
}  # as the first word: those of a map, not their number; the layer


def options_of(command: Callable[..., Any]) -> dict[str, str]:
    """The option of each argument that a Python message may name.

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
            words = (info.default, *(info.param_decls or ()))  # Annotated: the first comes as the default
            long = [word for word in words if isinstance(word, str) and word.startswith("--")]
            if long:
                found[name] = long[0].split("/")[0]
    return found | {ours: found[theirs] for ours, theirs in _CALLED.items() if theirs in found}


def in_options(message: str, options: Mapping[str, str]) -> str:
    """The message with options in place of arguments, as far as the command has them.

    >>> in_options("kind: expected one of …; say axes='lwh'", {"axes": "--layout", "kind": "--kind"})
    '--kind: expected one of …; say --layout lwh'
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
