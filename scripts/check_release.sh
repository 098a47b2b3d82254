#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Tests an installation as a user gets it: builds sdist and wheel from the checkout's tracked files, builds the wheel again from the
# sdist, installs it into an empty environment and runs the README's lines there, outside the checkout.
#
#   scripts/check_release.sh [FOLDER]     FOLDER (build/release) receives the sdist, the wheel and the environment
#
# Python is $PYTHON, python3 by default. torch is the CPU build that constraints.txt pins.
set -euo pipefail
cd "$(dirname "$0")/.."
checkout="$PWD"
folder="$(realpath -m "${1:-build/release}")"
python="${PYTHON:-python3}"
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
rm -rf "$folder"
mkdir -p "$folder/sources" "$folder/sdist" "$folder/wheel" "$folder/outside"

echo "release: an empty environment"
"$python" -m venv "$folder/venv"
py="$folder/venv/bin/python"
pip() { "$py" -m pip "$@"; }
version=$(sed -n 's/^torch==//p' constraints.txt)
case "$(uname -s)" in
  Linux) torch="torch==$version+cpu" ;;
  *) torch="torch==$version" ;;
esac
# Without +cpu an install on Linux would download the CUDA build. Try pip's configured index first, then PyTorch's.
pip install --quiet -c constraints.txt "$torch" 2>/dev/null ||
  pip install --quiet -c constraints.txt --extra-index-url https://download.pytorch.org/whl/cpu "$torch"
pip install --quiet -c constraints.txt scikit-build-core nanobind ninja build
cmake --version >/dev/null 2>&1 || pip install --quiet -c constraints.txt cmake

echo "release: sdist, and the wheel of the sdist"
git ls-files -z | while IFS= read -r -d '' file; do
  if [ -e "$file" ]; then printf '%s\0' "$file"; fi
done | tar --null -T - -cf - | tar -xf - -C "$folder/sources"
export PATH="$folder/venv/bin:$PATH"
(cd "$folder/sources" && "$py" -m build --no-isolation --sdist --outdir "$folder/sdist" . >"$folder/sdist.log" 2>&1) ||
  { cat "$folder/sdist.log"; exit 1; }
sdist=$(ls "$folder"/sdist/*.tar.gz)
pip wheel --quiet --no-build-isolation --no-deps --wheel-dir "$folder/wheel" "$sdist"
wheel=$(ls "$folder"/wheel/*.whl)
"$py" - "$folder/sources/src" "$wheel" "$sdist" <<'PYTHON'
import pathlib
import sys
import tarfile
import zipfile

sources, wheel, sdist = pathlib.Path(sys.argv[1]), *sys.argv[2:]
package = {p.relative_to(sources).as_posix() for p in (sources / "crfrnn").rglob("*") if p.is_file()}
in_wheel = set(zipfile.ZipFile(wheel).namelist())
in_sdist = {name.partition("/src/")[2] for name in tarfile.open(sdist).getnames()}
for name, inside in (("wheel", in_wheel), ("sdist", in_sdist)):
    missing = sorted(package - inside)
    assert not missing, f"not in the {name}: {missing}"
assert any(name.startswith("crfrnn/_native") for name in in_wheel), "no native module in the wheel"
print(f"release: {pathlib.Path(wheel).name} and {pathlib.Path(sdist).name} hold the whole package")
PYTHON

echo "release: installed without the sources"
pip install --quiet -c constraints.txt "crfrnn[demo] @ file://$wheel"
pip check
cd "$folder/outside"
unset PYTHONPATH
"$py" - "$checkout" <<'PYTHON'
import pathlib
import re
import sys

import crfrnn
from crfrnn import _native

checkout = pathlib.Path(sys.argv[1])
assert "site-packages" in crfrnn.__file__ and "site-packages" in _native.__file__, crfrnn.__file__
found = re.findall(r"^```python\n(.*?)^```$", (checkout / "README.md").read_text(encoding="utf-8"), re.M | re.S)
assert found, "no Python block in README.md"
for block in found:
    exec(compile(block, "README.md", "exec"), {})
print(f"release: {len(found)} Python block(s) of the README ran")

# The files that the README's command lines use.
import numpy as np
from PIL import Image
from skimage import data

photo = data.chelsea()[::2, ::2]
Image.fromarray(photo).save("photo.jpg")
np.save("logits.npy", np.random.default_rng(0).normal(size=(21, *photo.shape[:2])).astype(np.float32))
PYTHON
crfrnn="$folder/venv/bin/crfrnn"
grep -E '^crfrnn refine ' "$checkout/README.md" | while IFS= read -r line; do
  echo "release: $line"
  # shellcheck disable=SC2086 # words of a command line
  "$crfrnn" ${line#crfrnn } >/dev/null </dev/null
done
test -n "$(find out -name '*.png' -print -quit)"
"$crfrnn" segment photo.jpg -o segmented >/dev/null
"$crfrnn" demo -o demo >/dev/null
test -n "$(find segmented -name '*.png' -print -quit)" && test -n "$(find demo -name '*.png' -o -name '*.jpg' | head -n 1)"
"$crfrnn" doctor >/dev/null
echo "release: OK, $wheel"
