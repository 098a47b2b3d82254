#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# scripts/sanitize.sh [address|thread|all] [cases] [first case]
#
# Builds the native core under a sanitizer, checks that the sanitizer stops deliberate faults, then fuzzes.
# address: AddressSanitizer, LeakSanitizer and UndefinedBehaviorSanitizer, threads by OpenMP as in a wheel.
# thread: ThreadSanitizer, threads by std::thread (it cannot analyse libgomp), and small blocks, so that small
# cases, too, have several tasks.
set -euo pipefail
cd "$(dirname "$0")/.."

which="${1:-all}"
cases="${2:-300}"
first="${3:-1}"
export PATH="$PWD/.venv/bin:$PATH" # cmake and ninja where the machine has none
export ASAN_OPTIONS="detect_leaks=1:exitcode=70" UBSAN_OPTIONS="print_stacktrace=1:exitcode=70" TSAN_OPTIONS="exitcode=70"

# must_stop TOOL FAULT REPORT: the fault must end the program, with that report.
must_stop() {
  local output
  if output="$("$1" "$2" 2>&1)"; then
    echo "sanitize: '$2' was not stopped: the sanitizer is not in this build" >&2
    exit 1
  fi
  if ! grep -q -- "$3" <<<"$output"; then
    printf 'sanitize: %s was stopped, but not by the sanitizer:\n%s\n' "$2" "$output" >&2
    exit 1
  fi
  echo "sanitize: '$2' is reported"
}

build() { # name, sanitizers, further options
  local name="$1" sanitizers="$2"
  shift 2
  cmake -G Ninja -S . -B "build/sanitize-$name" -DCMAKE_BUILD_TYPE=Debug -DCRFRNN_TOOLS=ON \
    -DCRFRNN_SANITIZE="$sanitizers" "$@" >/dev/null
  cmake --build "build/sanitize-$name"
  "build/sanitize-$name/crfrnn_selftest"
}

if [ "$which" = address ] || [ "$which" = all ]; then
  build address address,undefined,float-cast-overflow
  must_stop build/sanitize-address/crfrnn_selftest overflow "AddressSanitizer: heap-buffer-overflow"
  must_stop build/sanitize-address/crfrnn_selftest signed "runtime error: signed integer overflow"
  must_stop build/sanitize-address/crfrnn_selftest cast "runtime error: nan is outside the range"
  build/sanitize-address/crfrnn_fuzz "$cases" "$first"
fi
if [ "$which" = thread ] || [ "$which" = all ]; then
  build thread thread -DCRFRNN_OPENMP=OFF -DCRFRNN_SMALL_BLOCKS=ON
  must_stop build/sanitize-thread/crfrnn_selftest race "ThreadSanitizer: data race"
  build/sanitize-thread/crfrnn_fuzz "$cases" "$first"
  for part in build filter-gradient in-play narrow; do # loops in which threads share rows
    build/sanitize-thread/crfrnn_fuzz "$cases" "$first" "$part"
  done
fi
