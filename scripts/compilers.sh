#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# scripts/compilers.sh [clang|arm|windows|all] [cases] [first case]
#
# Builds the native core with compilers and for processors that the tests do not cover, and fuzzes the builds that run here:
# clang: Clang. arm: GCC for 64-bit ARM, run by an emulator. windows: GCC for Windows (MinGW), run by Wine.
set -euo pipefail
cd "$(dirname "$0")/.."

which="${1:-all}"
cases="${2:-100}"
first="${3:-1}"
export PATH="$PWD/.venv/bin:$PATH" # cmake and ninja where the machine has none

need() { # command, Debian package
  command -v "$1" >/dev/null || { echo "compilers: no $1; on Debian: apt-get install $2" >&2; exit 1; }
}

build() { # name, compiler, further options
  local name="$1" compiler="$2"
  shift 2
  cmake -G Ninja -S . -B "build/compiler-$name" -DCMAKE_BUILD_TYPE=Release -DCRFRNN_TOOLS=ON \
    -DCMAKE_CXX_COMPILER="$compiler" -DCMAKE_COMPILE_WARNING_AS_ERROR=ON "$@" >/dev/null
  cmake --build "build/compiler-$name"
}

try() { # name, emulator or nothing
  local name="$1"
  shift
  local folder="build/compiler-$name" suffix=""
  [ ! -e "$folder/crfrnn_fuzz.exe" ] || suffix=.exe
  "$@" "$folder/crfrnn_selftest$suffix"
  "$@" "$folder/crfrnn_fuzz$suffix" "$cases" "$first"
}

if [ "$which" = clang ] || [ "$which" = all ]; then
  need "${CLANG:-clang++}" clang
  build clang "${CLANG:-clang++}"
  try clang
fi
if [ "$which" = arm ] || [ "$which" = all ]; then
  need aarch64-linux-gnu-g++ g++-aarch64-linux-gnu
  need qemu-aarch64 qemu-user
  build arm aarch64-linux-gnu-g++ -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
    -DCMAKE_EXE_LINKER_FLAGS=-static -DCRFRNN_OPENMP=OFF
  try arm qemu-aarch64
fi
if [ "$which" = windows ] || [ "$which" = all ]; then
  need x86_64-w64-mingw32-g++-posix g++-mingw-w64-x86-64
  need wine wine64
  build windows x86_64-w64-mingw32-g++-posix -DCMAKE_SYSTEM_NAME=Windows -DCMAKE_SYSTEM_PROCESSOR=AMD64 \
    -DCMAKE_EXE_LINKER_FLAGS=-static -DCRFRNN_OPENMP=OFF
  WINEPREFIX="$PWD/build/wine" WINEDEBUG=-all try windows wine
fi
