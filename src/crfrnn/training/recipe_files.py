# SPDX-License-Identifier: MIT
"""Recipes as YAML files: read, changed by ``key=value``, written."""

from __future__ import annotations

import copy
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

from crfrnn.extras import install_line
from crfrnn.io.files import FileError, PathLike, read_text, write_text
from crfrnn.training.recipe import Recipe

RECIPES = Path(__file__).with_name("recipes")
MAX_BYTES = 2**20


def recipe_names() -> tuple[str, ...]:
    """The recipes that come with the package."""
    return tuple(sorted(path.stem for path in RECIPES.glob("*.yaml")))


def load_recipe(name_or_file: PathLike, settings: Sequence[str] = ()) -> Recipe:
    """A packaged recipe or a YAML file, with values replaced by ``key=value``.

    A key is a path of names with dots: ``seed``, ``network.name``, ``stages.joint.rates.crf_theta`` (stages
    by name or number, ``*`` for all of them), ``defaults.batch``. Values are YAML.

    Raises:
        ValueError: no such recipe, no YAML, unknown keys, values that cannot be; each names key and remedy.
        ImportError: PyYAML is not installed.

    >>> load_recipe("cpu-small", ["seed=3", "stages.*.epochs=1"]).seed
    3
    """
    path = Path(name_or_file)
    if str(name_or_file) in recipe_names():
        path = RECIPES / f"{name_or_file}.yaml"
    elif not path.is_file():
        raise FileError(
            "recipe", name_or_file, f"one of {', '.join(recipe_names())}, or a YAML file", "neither",
            "check the spelling",
        )  # fmt: skip
    if path.stat().st_size > MAX_BYTES:
        raise FileError("recipe", path, f"at most {MAX_BYTES} bytes", "more", "name the right file")
    try:
        content = _yaml().safe_load(read_text(path, "recipe"))
    except _yaml().YAMLError as error:
        raise FileError("recipe", path, "YAML", " ".join(str(error).split()), "mend that line") from error
    if not isinstance(content, dict):
        raise FileError("recipe", path, "keys and values", type(content).__name__, "see docs/training.md")
    return recipe_from(content, settings)


def recipe_from(content: Mapping[str, Any], settings: Sequence[str] = ()) -> Recipe:
    """A recipe from nested mappings; ``defaults`` in them holds for every stage that says nothing else."""
    tree = copy.deepcopy(dict(content))
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key:
            raise ValueError(f"setting: expected KEY=VALUE, got {setting!r}")
        _set(tree, key.split("."), _yaml().safe_load(value), key)
    defaults = tree.pop("defaults", {}) or {}
    stages = tree.get("stages", [])
    if not isinstance(stages, list) or not all(isinstance(stage, dict) for stage in stages):
        raise ValueError("stages: expected a list of mappings with a name each")
    tree["stages"] = [_merged(defaults, stage) for stage in stages]
    train = (tree.get("data") or {}).get("train")
    if isinstance(train, list):
        tree["data"] = {**tree["data"], "train": {"train": train}}
    return _convert(Recipe, tree, "recipe")


def recipe_text(recipe: Recipe) -> str:
    """The recipe as YAML that `load_recipe` reads back to the same value."""
    return _yaml().safe_dump(_plain(asdict(recipe)), sort_keys=False, allow_unicode=True, width=100)


def save_recipe(recipe: Recipe, path: PathLike) -> None:
    """Write `recipe_text`, whole or not at all."""
    write_text(path, recipe_text(recipe))


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    both = copy.deepcopy(dict(base))
    for key, value in over.items():
        old = both.get(key)
        both[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return both


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
        raise ValueError(f"{key}: expected a key that has parts, got {tree!r} above {first!r}")


def _convert(kind: Any, value: Any, where: str) -> Any:
    """`value`, as YAML gave it, as the annotated type; ValueError names the key."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        return _convert(next(part for part in parts if part is not type(None)), value, where)
    if is_dataclass(kind) and isinstance(kind, type):
        return _object(kind, value, where)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ValueError(f"{where}: expected a list, got {value!r}")
        if parts[-1] is not Ellipsis and len(parts) != len(value):
            raise ValueError(f"{where}: expected {len(parts)} values, got {len(value)}")
        return tuple(_convert(parts[0], item, f"{where}.{i}") for i, item in enumerate(value))
    if origin is not None:  # Mapping[str, …]
        if not isinstance(value, Mapping):
            raise ValueError(f"{where}: expected keys and values, got {value!r}")
        return {str(name): _convert(parts[1], item, f"{where}.{name}") for name, item in value.items()}
    return _scalar(kind, value, where)


def _scalar(kind: Any, value: Any, where: str) -> Any:
    if kind is float and not isinstance(value, bool):
        try:  # YAML 1.1 takes 1e-13 for text
            return float(value)
        except (TypeError, ValueError):
            pass
    if kind is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if kind is str and isinstance(value, str | int | float) and not isinstance(value, bool):
        return str(value)  # a year or a precision is a number to YAML
    if kind is bool and isinstance(value, bool):
        return value
    raise ValueError(f"{where}: expected {kind.__name__}, got {value!r}")


def _object(kind: type, value: Any, where: str) -> Any:
    if isinstance(value, kind):
        return value
    if not isinstance(value, Mapping):
        raise ValueError(f"{where}: expected keys and values, got {value!r}")
    hints = typing.get_type_hints(kind)
    known = {f.name: f for f in fields(kind)}
    strange = [str(name) for name in value if name not in known]
    if strange:
        raise ValueError(f"{where}: expected keys among {', '.join(known)}, got {', '.join(strange)}")
    needed = [n for n, f in known.items() if f.default is MISSING and f.default_factory is MISSING]
    missing = [name for name in needed if name not in value]
    if missing:
        raise ValueError(f"{where}: expected the keys {', '.join(missing)}, got none")
    made = {n: _convert(hints[n], v, n if where == "recipe" else f"{where}.{n}") for n, v in value.items()}
    try:
        return kind(**made)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value


def _yaml() -> Any:
    try:
        import yaml
    except ImportError as error:
        raise ImportError(f"recipes need PyYAML: {install_line('train')}") from error
    return yaml
