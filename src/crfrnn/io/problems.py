# SPDX-License-Identifier: MIT
"""Summarise many problems: one line per kind, with a count and three examples."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

EXAMPLES = 3
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")
_VARIES = re.compile(_QUOTED.pattern + r"|-?\d+(?:\.\d+)?(?:e[+-]?\d+)?")  # names and numbers in a message


def kind_of(message: str, name: str = "") -> str:
    """A message without the parts that differ between pictures: `name`, quoted text and numbers.

    >>> kind_of("mask 'a.png': expected 0..2, got 7") == kind_of("mask 'b.png': expected 0..2, got 9")
    True
    """
    return _VARIES.sub("…", message.replace(name, "…") if name else message)


def by_kind(messages: Sequence[str], names: Iterable[str] | None = None) -> list[str]:
    """One line per kind of message: the first one and the number of the same kind.

    Args:
        messages: in order.
        names: the subject of each message, for the examples; by default its first quoted text, or itself.

    >>> by_kind(["mask 'a': got 7", "mask 'b': got 9", "no list"])
    ["mask 'a': got 7 (2 of this kind: 'a', 'b')", 'no list']
    """
    if names is None:
        names = [found[0] if (found := _QUOTED.search(m)) else m for m in messages]
        kinds = [kind_of(message) for message in messages]
    else:
        names = list(names)
        kinds = [kind_of(message, name) for message, name in zip(messages, names, strict=True)]
    groups: dict[str, list[tuple[str, str]]] = {}
    for kind, message, name in zip(kinds, messages, names, strict=True):
        groups.setdefault(kind, []).append((message, name))
    lines = []
    for group in groups.values():
        shown = list(dict.fromkeys(name for _, name in group))
        more = ", …" if len(shown) > EXAMPLES else ""
        count = f" ({len(group)} of this kind: {', '.join(shown[:EXAMPLES])}{more})" if len(group) > 1 else ""
        lines.append(group[0][0] + count)
    return lines
