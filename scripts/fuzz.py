# SPDX-License-Identifier: MIT
"""Coverage-guided fuzzing: of every reader of files by atheris, of the native core by libFuzzer (Clang).

    scripts/fuzz.py readers [NAME ...] [--seconds 60] [--limit 10] [--corpus build/fuzz]
    scripts/fuzz.py native [NAME ...] [--plain] [--seconds 60] [--limit 10] [--corpus build/fuzz]

The core is built with AddressSanitizer and UndefinedBehaviorSanitizer or, with --plain, without them, which
tries several times as many inputs; both check the results. Its parts are the names in NATIVE.

Inputs that reach new code are kept in the folder, and the next run starts from them and from the small ones
of tests/fuzz-corpus, which the tests of the readers replay. An input that a reader does not reject with its
own error, that fails a check of the core or crashes, or that takes more than 10 s (--limit) or 3 GB is
written to crash-*, timeout-* or oom-* there and ends that name's run; exit status 1. Both times are of the
clock: raise the limit on a busy machine. `python -m pip install atheris` first for the readers.
"""

from __future__ import annotations

import argparse
import csv
import os
import re
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests/helpers"), str(ROOT / "src")]
KEPT = ROOT / "tests/fuzz-corpus"
INSTRUMENTED = ["crfrnn.io", "crfrnn.models.importers", "crfrnn.datasets", "crfrnn.training.recipe"]
FOUND = ("crash", "timeout", "oom", "leak", "slow")
LIMITS = ["-rss_limit_mb=3000", "-print_final_stats=1"]
NATIVE = ["build", "filter", "filter-gradient", "table", "inference", "gradient", "in-play", "narrow"]
# Fewer choices than bytes. Counting how rare the edges of each input are took two thirds of the time.
SMALL = ["-max_len=96", "-len_control=0", "-entropic=0", "-reload=0", "-print_funcs=0"]
SANITIZERS = "address,undefined,float-cast-overflow"


def fuzz_one(name: str, folder: Path, options: list[str]) -> None:
    """Run in a separate process, because atheris ends it."""
    atheris = import_module("atheris")
    import_module("crfrnn._native")
    # Atheris skips modules that another loader than Python's would load: that of an editable installation.
    sys.meta_path[:] = [
        finder for finder in sys.meta_path if not type(finder).__module__.startswith("_editable")
    ]
    with atheris.instrument_imports(include=INSTRUMENTED, enable_loader_override=False):
        readers = import_module("readers")

    reader = readers.READERS[name]
    for number, seed in enumerate(readers.seeds_of(reader)):
        (folder / f"seed-{number}").write_bytes(seed)
    with readers.at_hand(reader) as (home, path):
        for _ in reader.seeds(path):  # further files that a reader needs, such as pictures, stay there
            pass
        readers.attempt(reader, home, path, path.read_bytes())  # late imports, before the time is measured
        folders = [str(folder), *kept(name)]
        atheris.Setup(
            [name, "-use_value_profile=1", *options, *folders],
            lambda data: readers.attempt(reader, home, path, bytes(data)),
        )
        atheris.Fuzz()


def kept(name: str) -> list[str]:
    """The folder of a target's inputs in the repository, if it has one; it is only read."""
    return [str(KEPT / name)] if (KEPT / name).is_dir() else []


def run(
    name: str, command: list[str], folder: Path, seconds: int, limit: int, target: str = ""
) -> dict[str, object]:
    began = time.monotonic()
    options = [*LIMITS, f"-timeout={limit}", f"-max_total_time={seconds}", f"-artifact_prefix={folder}/"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CRFRNN_TARGET": target}
    log = folder.parent / f"{name}.log"
    with log.open("w") as stream:
        done = subprocess.run([*command, *options], stderr=stream, stdout=stream, env=environment)
    text = log.read_text(errors="replace")
    result = "nothing found" if done.returncode == 0 else f"exit status {done.returncode}, see {log}"
    found = re.findall(r"cov: (\d+)", text)
    inputs = re.findall(r"number_of_executed_units: (\d+)", text)
    if not any(int(edges) for edges in found):
        result = f"no coverage: its code was not instrumented, see {log}"
    return {
        "target": name,
        "inputs": int(inputs[-1]) if inputs else 0,
        "seconds": round(time.monotonic() - began),
        "coverage": int(found[-1]) if found else 0,
        "kept": sum(1 for p in folder.iterdir() if not p.name.startswith(FOUND)),
        "result": result,
    }


def build_native(plain: bool) -> Path:
    build = ROOT / ("build/guided-plain" if plain else "build/guided")
    environment = {**os.environ, "CC": "clang", "CXX": "clang++"}
    options = [
        "-DCMAKE_BUILD_TYPE=Debug",
        "-DCRFRNN_GUIDED=ON",
        "-DCRFRNN_OPENMP=OFF",
        f"-DCRFRNN_SANITIZE={'' if plain else SANITIZERS}",
    ]
    subprocess.run(["cmake", "-G", "Ninja", "-S", ROOT, "-B", build, *options], check=True, env=environment)
    subprocess.run(["cmake", "--build", build], check=True)
    return build / "crfrnn_guided"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["readers", "native"])
    parser.add_argument("names", nargs="*", help="readers or parts of the core; all where none is named")
    parser.add_argument("--plain", action="store_true", help="the core without sanitizers")
    parser.add_argument("--seconds", type=int, default=60, help="for each (60)")
    parser.add_argument("--limit", type=int, default=10, help="seconds for one input (10)")
    parser.add_argument("--corpus", type=Path, default=ROOT / "build/fuzz", help="folder (build/fuzz)")
    arguments = parser.parse_args()
    native = arguments.what == "native"
    known = NATIVE if native else list(import_module("readers").READERS)
    unknown = set(arguments.names) - set(known)
    if unknown:
        parser.error(f"expected names among {', '.join(known)}, got {', '.join(sorted(unknown))}")
    core = str(build_native(arguments.plain)) if native else ""
    rows = []
    for name in arguments.names or known:
        folder = arguments.corpus / (f"native-{name}" if native else name)
        folder.mkdir(parents=True, exist_ok=True)
        if native:
            command = [core, *SMALL, str(folder), *kept(folder.name)]
        else:
            command = [sys.executable, __file__, "--one", name, str(folder)]
        rows.append(run(folder.name, command, folder, arguments.seconds, arguments.limit, name))
        print(", ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
    table = arguments.corpus / "fuzz.csv"
    began = not table.exists()
    with table.open("a", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        if began:
            writer.writeheader()
        writer.writerows(rows)
    print(f"{sum(int(str(row['inputs'])) for row in rows)} inputs; {table}")
    return int(any(row["result"] != "nothing found" for row in rows))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        fuzz_one(sys.argv[2], Path(sys.argv[3]), sys.argv[4:])
    sys.exit(main())
