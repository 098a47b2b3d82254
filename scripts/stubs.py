# SPDX-License-Identifier: MIT
"""scripts/stubs.py [--check]: writes src/crfrnn/_native.pyi with nanobind's stub generator.

The compiled module must be up to date. With --check the file is compared and not changed; exit status 1 means
that it differs.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from nanobind.stubgen import StubGen

from crfrnn import _native

STUB = Path(__file__).resolve().parents[1] / "src/crfrnn/_native.pyi"
HEADER = """# SPDX-License-Identifier: MIT
# Made by scripts/stubs.py from native/bindings.cpp; do not edit.
from torch import Tensor
"""


def generate() -> str:
    generator = StubGen(_native, quiet=True)
    generator.put(_native)
    # Arguments may come from any library with DLPack; this package passes numpy arrays and torch tensors.
    taken = re.compile(r"Annotated\[(NDArray\[[\w.]+\])(?=, dict\([^()]*(?:\([^()]*\))[^()]*device=)")
    text = HEADER + taken.sub(r"Annotated[\1 | Tensor", generator.get())
    for command in (["check", "--select", "I", "--fix", "--quiet"], ["format"]):
        arguments = [sys.executable, "-m", "ruff", *command, "--stdin-filename", str(STUB), "-"]
        text = subprocess.run(arguments, input=text, capture_output=True, text=True, check=True).stdout
    return text


def main(arguments: list[str]) -> int:
    text = generate()
    if arguments == ["--check"]:
        if STUB.read_text(encoding="utf-8") == text:
            return 0
        print(f"{STUB}: not what native/bindings.cpp gives; run make stubs", file=sys.stderr)
        return 1
    STUB.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
