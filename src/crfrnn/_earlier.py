# SPDX-License-Identifier: MIT
"""Modules under earlier names: scripts that import them still work, with a warning."""

from __future__ import annotations

import importlib.abc
import importlib.util
import sys
import warnings
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

# Earlier module name → current modules.
EARLIER = {
    "data": ("io", "datasets"),
    "interact": ("inference.interact",),
    "predict": ("inference",),
    "pseudo": ("inference.pseudo", "io"),
    "refine": ("inference",),
    "tiles": ("inference", "io"),
    "volumes": ("inference", "io"),
}


class Earlier(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds ``package.NAME`` for every NAME in `EARLIER`; its names are looked up in the current modules."""

    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, name = fullname.rpartition(".")
        if package != self.package or name not in EARLIER:
            return None
        return importlib.util.spec_from_loader(fullname, self)

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__.rpartition(".")[2]
        places = [f"{self.package}.{place}" for place in EARLIER[name]]
        warnings.warn(
            f"{module.__name__} is an earlier name; import from {' or '.join(places)}",
            DeprecationWarning,
            stacklevel=2,
        )

        def __getattr__(wanted: str) -> Any:
            if not wanted.startswith("_"):
                for place in places:
                    found = importlib.import_module(place)
                    if hasattr(found, wanted):
                        return getattr(found, wanted)
            raise AttributeError(f"module {module.__name__!r} has no attribute {wanted!r}")

        module.__dict__["__getattr__"] = __getattr__


def install(package: str) -> None:
    """Make the earlier names of `package` importable; idempotent."""
    if not any(isinstance(finder, Earlier) and finder.package == package for finder in sys.meta_path):
        sys.meta_path.append(Earlier(package))
