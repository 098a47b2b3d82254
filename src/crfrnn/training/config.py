# SPDX-License-Identifier: MIT
"""Configurations: frozen values, validated on creation, changed by ``key=value``, written as YAML."""

from __future__ import annotations

import copy
import difflib
import functools
import inspect
import re
import typing
from collections.abc import Mapping, Sequence
from dataclasses import asdict, field, fields, is_dataclass
from typing import Annotated, Any, TypeVar

from typing_extensions import dataclass_transform

from crfrnn.extras import install_line

try:
    from pydantic import BeforeValidator, ConfigDict, Field, ValidationError
    from pydantic.dataclasses import dataclass as checked_dataclass
except ImportError as error:
    raise ImportError(f"training needs pydantic: {install_line('train')}") from error

T = TypeVar("T")
Count = Annotated[int, Field(strict=True, ge=0)]
Number = Annotated[int, Field(strict=True, ge=1)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Words = BeforeValidator(lambda value: str(value) if isinstance(value, int | float) else value)  # YAML's 16


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def configuration(kind: type[T]) -> type[T]:
    """A frozen dataclass whose values are validated and converted on creation.

    Raises (on creation): ValueError that names the key, the expected and the actual value.

    >>> @configuration
    ... class Speed:
    ...     steps: Count = 3
    >>> Speed(steps=-1)
    Traceback (most recent call last):
    ValueError: steps: expected a finite number of at least 0, got -1
    """
    made = checked_dataclass(kind, frozen=True, config=ConfigDict(extra="forbid", coerce_numbers_to_str=True))
    init = made.__init__

    @functools.wraps(init)
    def worded(self: Any, *values: Any, **named: Any) -> None:
        try:
            init(self, *values, **named)
        except ValidationError as error:
            raise ValueError(_worded(error, made)) from None

    made.__init__ = worded
    return typing.cast("type[T]", made)


def build(kind: type[T], content: Mapping[str, Any], settings: Sequence[str] = ()) -> T:
    """The configuration that nested mappings describe, changed by ``key=value``.

    A key is a dotted path of names; an entry of a list is given by its name, its number, or ``*`` for all
    entries. Values are YAML.

    Raises: ValueError for an unknown key, with the nearest known one, or for an invalid value.
    """
    tree = changed(content, settings)
    for key in tree:
        if not isinstance(key, str):  # YAML also has numbers, dates and nothing as keys
            raise ValueError(f"{key!r}: expected a name as key, got {type(key).__name__}; correct that line")
    return kind(**tree)


def configured(kind: type[T], settings: Sequence[str] = (), /, **given: Any) -> T:
    """The default configuration, changed by the keyword arguments that are not None and by ``key=value``.

    Raises: ValueError if a key is given in both ways.

    >>> from crfrnn.training import FitConfig
    >>> configured(FitConfig, ["freeze=[log_theta_gamma]"], epochs=2, batch=None).freeze
    ('log_theta_gamma',)
    """
    given = {name: item for name, item in given.items() if item is not None}
    for setting in settings:
        name = setting.partition("=")[0]
        if not isinstance(given.get(name, {}), Mapping):
            raise ValueError(
                f"--{name}: expected one value, got {given[name]!r} and -s {setting}; leave one of them out"
            )
    value = kind(**given)
    return build(kind, plain(asdict(typing.cast("Any", value))), settings) if settings else value


def described(kind: type[Any]) -> str:
    """The default values as YAML, preceded by comments that explain each key."""
    about = inspect.getdoc(kind) or ""
    return "\n".join(f"# {line}".rstrip() for line in about.splitlines()) + "\n" + text_of(kind())


def changed(content: Mapping[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """A copy of nested mappings with ``key=value`` applied."""
    tree = copy.deepcopy(dict(content))
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key:
            raise ValueError(f"setting: expected KEY=VALUE, got {setting!r}")
        _set(tree, key.split("."), yaml().safe_load(value), key)
    return tree


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` updated by `over`, recursively."""
    both = copy.deepcopy(dict(base))
    for key, value in over.items():
        old = both.get(key)
        both[key] = merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return both


def text_of(value: Any) -> str:
    """A configuration as YAML that reads back to the same value."""
    return yaml().safe_dump(plain(asdict(value)), sort_keys=False, allow_unicode=True, width=100)


def plain(value: Any) -> Any:
    """Converted to plain mappings, lists and numbers for YAML."""
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, tuple | list) else value


def yaml() -> Any:
    try:
        import yaml
    except ImportError as error:
        raise ImportError(f"configurations need PyYAML: {install_line('train')}") from error
    return yaml


def _set(tree: Any, path: list[str], value: Any, key: str) -> None:
    first, rest = path[0], path[1:]
    if isinstance(tree, list):
        names = [item.get("name") if isinstance(item, dict) else None for item in tree]
        if first == "*":
            chosen = list(range(len(tree)))
        elif first in names:
            chosen = [names.index(first)]
        elif first.isdigit() and int(first) < len(tree):
            chosen = [int(first)]
        else:
            known = ", ".join(str(name) for name in names if name) or f"0..{len(tree) - 1}"
            raise ValueError(f"{key}: expected one of {known} or *, got {first!r}")
        for index in chosen:
            if rest:
                _set(tree[index], rest, value, key)
            else:
                tree[index] = value
    elif isinstance(tree, dict):
        if not rest:
            tree[first] = value
            return
        if not isinstance(tree.get(first), dict | list):
            tree[first] = {}
        _set(tree[first], rest, value, key)
    else:
        raise ValueError(f"{key}: expected a key with parts, got {tree!r} above {first!r}")


def _worded(error: ValidationError, kind: Any) -> str:
    """The first error: key, expected, got."""
    found = error.errors(include_url=False)[0]
    path, said, got = list(found["loc"]), found["type"], repr(found["input"])
    context = found.get("ctx", {})
    if said == "unexpected_keyword_argument":
        owner = _kind_at(kind, path[:-1])
        known, strange = [f.name for f in fields(owner)], str(path.pop())
        near = difflib.get_close_matches(strange, known, 1)
        expected, got = f"keys among {', '.join(known)}", ", did you mean ".join([strange, *near])
    elif said == "missing" and isinstance(path[-1], int):  # a tuple of fixed length is too short
        expected, got = f"{path[-1] + 1} values", str(len(found["input"]))
        path.pop()
    elif said == "missing":
        expected, got = f"the key {path.pop()}", "none"
    elif said == "too_long":
        expected, got = f"{context['max_length']} values", str(context["actual_length"])
    elif said == "value_error":
        return ": ".join([*([_key(path)] if path else []), str(context["error"])])
    elif said in _EXPECTED:
        expected = _EXPECTED[said].format(**context)
    elif said == "literal_error":
        expected = "one of " + ", ".join(re.findall("'([^']*)'", context["expected"]))
    else:
        expected = found["msg"].removeprefix("Input should be ")
    where = _key(path) if path else "configuration"
    return f"{where}: expected {expected}, got {got}"


_EXPECTED = {
    "greater_than_equal": "a finite number of at least {ge:g}",
    "finite_number": "a finite number",
    "greater_than": "a number above {gt:g}",
    "less_than_equal": "at most {le:g}",
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "int"),
    **dict.fromkeys(("float_type", "float_parsing"), "float"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"),
    **dict.fromkeys(("dict_type", "mapping_type", "dataclass_type"), "keys and values"),
    **dict.fromkeys(("tuple_type", "list_type"), "a list"),
    "string_type": "text",
}


def _key(path: Sequence[Any]) -> str:
    return ".".join(map(str, path))


def _kind_at(kind: Any, path: Sequence[Any]) -> Any:
    """The dataclass at a path of names and numbers."""
    for step in [*path, None]:
        while not is_dataclass(kind):  # the last part of X | None, tuple[X, ...], Mapping[str, X]
            kind = [part for part in typing.get_args(kind) if part not in (type(None), Ellipsis)][-1]
        if isinstance(step, str):
            hints = typing.get_type_hints(kind)
            kind = hints.get(step, kind)
    return kind
