# SPDX-License-Identifier: MIT
"""Compiles every Triton kernel for an H100 without one: `python tests/gpu/triton_targets.py`.

Prints a line per kernel: registers and stack (spills) of a thread and shared memory of a program.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from crfrnn.crf.triton import kernels as field
from crfrnn.lattice.triton import build, exact, numbering
from crfrnn.lattice.triton import kernels as passes
from crfrnn.lattice.triton.launch import FUSED

TARGET = GPUTarget("cuda", 90, 32)
INTEGERS = {
    "*i32": ("order", "corner", "neighbour", "clamp", "bad"),
    "*i64": ("bounds", "quotient", "steps", "keys", "table"),
    "*i8": ("rank", "rank_out"),
    "*u8": ("mask",),
    "i64": ("picture_step", "bias", "hidden", "slots"),
    "i32": ("count", "rows", "channels", "stride", "out_stride", "vertices", "points", "values_stride",
            "labels", "senders", "total", "sent_stride", "lattice_stride", "q_stride", "length", "width",
            "step", "sectors", "per_picture", "columns", "shift", "axis", "group", "rounds"),
    "fp32": ("damping", "cut"),
}  # fmt: skip
KINDS = {name: kind for kind, names in INTEGERS.items() for name in names}
FLAGS = {"MASKED": True, "CLAMPED": True}
UPDATE = {**FLAGS, "SIZE": 6, "LATTICE": True, "LATTICE_SCALED": True, "DENSE": True, "DENSE_SCALED": True,
          "EXTRA": False, "DAMPED": False, "WRITE_X": False, "WRITE_Q": True, "PADDED": True,
          "SECTOR": 8}  # fmt: skip
ROWS = {"SECTOR": 8, "BLOCK": 32, "COLUMNS": 32}
BAND = {"SECTOR": 8, "BLOCK": 64, "TAPS": 32, "COLUMNS": 64}
TILE = {"ROWS": exact.TILE, "COLUMNS": exact.TILE}
HALF = {**TILE, "COLUMNS": exact.TILE // 2}
CASES: list[tuple[Any, dict[str, Any], dict[str, str], int]] = [
    (build._embed, {"DIM": 5, "PAD": 8, "BLOCK": 128}, {}, 4),
    (build._embed, {"DIM": 8, "PAD": 16, "BLOCK": 32}, {"": "*fp64"}, 4),
    (build._keys, {"SIZE": 6, "PAD": 8, "MASKED": True, "BLOCK": 128}, {"keys": "*i32"}, 4),
    (numbering._claim, {"BLOCK": 128}, {}, 4),
    (numbering._claim, {"BLOCK": 128}, {"keys": "*i32", "table": "*i32"}, 4),
    (numbering._find, {"BLOCK": 128}, {"vertices": "*i32", "steps": "*i32", "out": "*i32"}, 4),
    (build._feature_gradient, {"DIM": 5, "PAD": 8, "BLOCK": 128}, {}, 4),
    (passes.sum_pieces, {"SIZE": 6, "FIRST": True, "PADDED": False, **ROWS}, {}, 4),
    (passes.sum_pieces, {"SIZE": 6, "FIRST": True, "PADDED": True, **ROWS}, {}, 4),
    (passes.sum_pieces, {"SIZE": 9, "FIRST": True, "PADDED": True, **ROWS}, {"values": "*bf16"}, 4),
    (passes.sum_pieces, {"SIZE": 6, "FIRST": False, "PADDED": True, **ROWS}, {}, 4),
    (passes.sum_pieces, {"SIZE": 6, "FIRST": False, "PADDED": True, **ROWS, "SECTOR": 4}, {"": "*fp64"}, 4),
    (passes.blur_axis, ROWS, {}, 4),
    (passes.blur_group, {"OFFSETS": 26, **ROWS}, {}, 4),
    (passes.slice_rows, {"SIZE": 6, **ROWS, "SECTOR": 4}, {"": "*fp64"}, 4),
    (passes.corner_dots, {"SIZE": 6, "ADD": True, "SCALED": True, **ROWS}, {}, 4),
    (exact._sums, {"DIM": 5, **TILE, "CHANNELS": 32}, {}, 4),
    (exact._sums, {"DIM": 8, **TILE, "CHANNELS": 32}, {}, 4),
    (exact._sums, {"DIM": 16, **TILE, "CHANNELS": 32}, {}, 4),
    (exact._pulls, {"DIM": 8, "PAD": 8, **HALF, "CHANNELS": 32}, {}, 4),
    (exact._pulls, {"DIM": 16, "PAD": 16, **HALF, "CHANNELS": 32}, {}, 8),
    (field.start_kernel, {**FLAGS, "PADDED": True, "SECTOR": 8, "BLOCK": 32, "LABELS": 32}, {}, 4),
    (field.update_kernel, {**UPDATE, "SLICED": False, "BLOCK": 16, "LABELS": 32, "SENDERS": 32}, {}, 4),
    (field.update_kernel, {**UPDATE, "SLICED": False, "BLOCK": 16, "LABELS": 128, "SENDERS": 32}, {}, 8),
    (field.update_kernel, {**UPDATE, "SLICED": True, "BLOCK": 16, "LABELS": 256, "SENDERS": 16}, {}, 16),
    (field.update_kernel, {**UPDATE, "SLICED": True, "BLOCK": 32, "LABELS": 64, "SENDERS": 64}, {}, 8),
    (field.update_kernel, {**UPDATE, "SLICED": True, "BLOCK": 16, "LABELS": 128, "SENDERS": 128}, {}, 8),
    (field.update_kernel, {**UPDATE, "SLICED": True, "BLOCK": 16, "LABELS": 256, "SENDERS": 256}, {}, 16),
    (field.back_kernel, {**FLAGS, "BLOCK": 16, "LABELS": 128}, {}, 8),
    (field.back_kernel, {**FLAGS, "BLOCK": 16, "LABELS": 256}, {}, 16),
    (field.band_kernel, {"SCALED": True, "DERIVATIVE": False, "PADDED": False, **BAND}, {}, 4),
    (field.band_kernel, {"SCALED": True, "DERIVATIVE": False, "PADDED": True, **BAND}, {}, 4),
]  # fmt: skip


def compile_for_target(kernel: Any, constants: dict[str, Any], kinds: dict[str, str], warps: int) -> str:
    names = kernel.arg_names
    usual = kinds.get("", "*fp32")
    signature = {n: "constexpr" if n in constants else kinds.get(n, KINDS.get(n, usual)) for n in names}
    # As at a launch: tensors begin at a multiple of 16 bytes.
    aligned = {(i,): [["tt.divisibility", 16]] for i, n in enumerate(names) if signature[n].startswith("*")}
    constexprs = {(names.index(n),): v for n, v in constants.items()}
    source = ASTSource(kernel, signature, constexprs=constexprs, attrs=aligned)
    compiled = triton.compile(source, target=TARGET, options={"num_warps": warps, **FUSED})
    loads = [len(re.findall(rf"ld\.global\S*\.v{n}\.", compiled.asm["ptx"])) for n in (2, 4)]
    single = len(re.findall(r"ld\.global", compiled.asm["ptx"])) - sum(loads)
    return (
        f"{kernel.__name__} {constants.get('LABELS', '')}: {resources(compiled)}, loads of one, two, four: "
        f"{single}, {loads[0]}, {loads[1]}"
    )


def resources(compiled: Any) -> str:
    """Registers and stack as reported by ptxas, if Triton includes its tools."""
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(compiled.asm["cubin"])
        out = subprocess.run(
            [tool, "--dump-resource-usage", file.name], capture_output=True, text=True
        ).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", out)
    used = f"{found[1]} registers, {found[2]} bytes of stack, " if found else ""
    return f"{used}{compiled.metadata.shared} bytes of shared memory"


if __name__ == "__main__":
    for case in CASES:
        print(compile_for_target(*case), flush=True)
    sys.exit(0)
