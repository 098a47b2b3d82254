# SPDX-License-Identifier: MIT
"""Networks by name, so that a saved segmenter can be rebuilt without running code from its file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

Builder = Callable[..., nn.Module]
_BUILDERS: dict[str, Builder] = {}


@dataclass(frozen=True)
class Recipe:
    """How to rebuild a network: its registered name and JSON-compatible keyword arguments."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


def register_network(name: str, builder: Builder) -> None:
    """Register your own network for `build_network` and `Segmenter.from_pretrained`.

    Raises: ValueError if the name is taken by another builder.

    >>> register_network("one-by-one", lambda num_labels: nn.Conv2d(3, num_labels, 1))
    >>> build_network("one-by-one", num_labels=4).recipe.arguments["num_labels"]
    4
    """
    if _BUILDERS.get(name, builder) is not builder:
        raise ValueError(f"name: expected an unused one, got {name!r}; choose another")
    _BUILDERS[name] = builder


def network_names() -> tuple[str, ...]:
    """The registered names, sorted."""
    return tuple(sorted(_BUILDERS))


def build_network(name: str, **arguments: Any) -> nn.Module:
    """The network registered as `name`; its attribute ``recipe`` is its `Recipe`.

    Raises: ValueError for an unknown name or arguments that the builder does not accept.
    """
    if name not in _BUILDERS:
        raise ValueError(
            f"network: expected one of {', '.join(network_names())}, got {name!r}; "
            "register your own with register_network(name, builder)"
        )
    try:
        network = _BUILDERS[name](**arguments)
    except TypeError as error:
        raise ValueError(
            f"network: expected arguments that {name!r} takes, got {arguments!r}: {error}"
        ) from error
    if getattr(network, "recipe", None) is None:
        network.recipe = Recipe(name, arguments)  # type: ignore[assignment]
    return network


def recipe_of(network: nn.Module) -> Recipe:
    """The recipe of a network; ValueError, with the remedy, if it has none."""
    recipe = getattr(network, "recipe", None)
    if not isinstance(recipe, Recipe) or recipe.name not in _BUILDERS:
        raise ValueError(
            f"network: expected one that can be rebuilt by name, got {type(network).__name__}; "
            "register_network('NAME', builder), then build_network('NAME', ...)"
        )
    return recipe
