# SPDX-License-Identifier: MIT
"""Registers the name pydensecrf, for code that cannot be edited."""

from __future__ import annotations

import sys

from crfrnn.compat._names import stand_in

_ROOMS = ("densecrf", "eigen", "utils")


def install() -> None:
    """Make ``import pydensecrf`` import `crfrnn.compat.pydensecrf` for the rest of this process.

    Registers the package and its modules densecrf, eigen and utils in `sys.modules`; nothing on disk
    changes. Call it before the code that imports pydensecrf. Repeated calls have no effect.

    Warns:
        RuntimeWarning: the original was already imported. New imports get this module; names imported
            before still refer to the original.

    >>> from crfrnn.compat.pydensecrf import install
    >>> install()
    >>> import pydensecrf.densecrf
    >>> pydensecrf.densecrf.DenseCRF2D.__module__
    'crfrnn.compat.pydensecrf.densecrf'
    """
    package = sys.modules[__package__ or "crfrnn.compat.pydensecrf"]
    modules = {
        "pydensecrf": package,
        **{f"pydensecrf.{room}": sys.modules[f"{package.__name__}.{room}"] for room in _ROOMS},
    }
    # The package itself is not checked: it has no names that could have been imported.
    bound = {name: module for name, module in modules.items() if "." in name}
    stand_in(modules, bound, "crfrnn.compat.pydensecrf.install", "pydensecrf")
