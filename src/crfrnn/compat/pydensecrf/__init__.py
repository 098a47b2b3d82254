# SPDX-License-Identifier: MIT
"""pydensecrf's interface on this engine: change the import line, or call `install()`."""

from crfrnn.compat.pydensecrf import densecrf, eigen, utils
from crfrnn.compat.pydensecrf._install import install

__all__ = ["densecrf", "eigen", "install", "utils"]
