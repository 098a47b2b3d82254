# SPDX-License-Identifier: MIT
"""``python -m crfrnn.compat.pydensecrf SCRIPT [ARGUMENTS]``: run a script that imports pydensecrf."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

from crfrnn.compat.pydensecrf import install


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        sys.exit("usage: python -m crfrnn.compat.pydensecrf SCRIPT [ARGUMENTS]\n" + str(__doc__))
    script = Path(sys.argv[1])
    if not script.is_file():
        sys.exit(f"SCRIPT: expected a Python file, got {str(script)!r}; check the spelling and the folder")
    install()
    del sys.argv[0]
    sys.path[0] = str(script.resolve().parent)  # first entry, as for python SCRIPT
    runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    main()
