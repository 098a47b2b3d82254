#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# scripts/gpu_check.sh [--dry-run] [--seconds N] [build] [smoke] [tests] [bench] [train]
#
# Builds, checks, times and trains on a GPU in one command of at most N seconds (480), phase by phase. Every phase has
# its own time limit and writes results as it proceeds, so that a crash or the limit loses nothing: to $OUT, or build/gpu.
#
#   summary.txt             a line per phase: exit status, seconds
#   build.log               the native core (or the wheel crfrnn-*.whl in build/gpu-data)
#   smoke.log               every Triton kernel once, each in a separate process, with the complete message of a failure
#   tests.log               the rows triton-cuda of the conformance suite, the tests of the Triton kernels
#   gpu.csv gpu.log         benchmarks/gpu.py
#   table1.csv train.log    experiments/gpu_table1.py on build/gpu-data (experiments/gpu_pack.py), with the remaining time
#
# Needs torch with CUDA, Triton, and what builds the package (scikit-build-core, nanobind, cmake, ninja); no network.
# --dry-run runs the same phases on a CPU, in Triton's interpreter, with tiny inputs; it builds nothing.
set -uo pipefail
cd "$(dirname "$0")/.."

dry=
seconds=480
phases=()
while [ $# -gt 0 ]; do
  case "$1" in
    --dry-run) dry=yes ;;
    --seconds) seconds="$2"; shift ;;
    build | smoke | tests | bench | train) phases+=("$1") ;;
    *) echo "usage: scripts/gpu_check.sh [--dry-run] [--seconds N] [build] [smoke] [tests] [bench] [train]" >&2; exit 2 ;;
  esac
  shift
done
[ ${#phases[@]} -gt 0 ] || phases=(build smoke tests bench train)

out="${OUT:-build/gpu}"
mkdir -p "$out"
data=build/gpu-data
python="${PYTHON:-python3}"
cores="$(nproc)"
device=cuda
export PYTHONUNBUFFERED=1 PYTORCH_NVML_BASED_CUDA_CHECK=1
if [ "$dry" ]; then
  device=cpu
  export TRITON_INTERPRET=1 OMP_NUM_THREADS=1
else
  export PYTHONPATH="$PWD/build/gpu-site${PYTHONPATH:+:$PYTHONPATH}"
fi
end=$((SECONDS + seconds))
failed=0
: >"$out/summary.txt"

say() { echo "$*" | tee -a "$out/summary.txt"; }

# phase NAME LIMIT LOG COMMAND ...: at most LIMIT seconds, and no more than remain; its output goes to LOG
phase() {
  local name="$1" limit="$2" log="$out/$3" begun=$SECONDS left=$((end - SECONDS - 5)) status
  shift 3
  [[ " ${phases[*]} " == *" $name "* ]] || return 0
  if [ "$left" -lt 15 ]; then
    say "$name: not begun, $left s left"
    return 0
  fi
  [ "$limit" -le "$left" ] || limit="$left"
  export LIMIT="$limit"
  timeout --kill-after=5 "$limit" "$@" >"$log" 2>&1
  status=$?
  if [ "$(stat -c %s "$log")" -gt 15000000 ]; then # keep what fits: the beginning, and the end
    { head -c 7000000 "$log"; printf '\n...\n'; tail -c 7000000 "$log"; } >"$log.short" && mv "$log.short" "$log"
  fi
  [ "$status" -eq 0 ] || failed=1
  case "$status" in 124 | 137) why=", ended at its limit" ;; *) why= ;; esac
  say "$name: exit status $status, $((SECONDS - begun)) s of at most $limit$why"
  tail -n 12 "$log"
}

install_package() {
  if [ "$dry" ]; then
    "$python" -c 'import crfrnn._native as native; print(native.__file__)'
    return
  fi
  local target=(--no-deps --no-cache-dir --quiet --upgrade --target build/gpu-site) wheel
  for wheel in "$data"/crfrnn-*.whl; do
    [ -e "$wheel" ] && "$python" -m pip install "${target[@]}" "$wheel" && "$python" -c 'import crfrnn._native' && return
  done
  CMAKE_BUILD_PARALLEL_LEVEL="$cores" "$python" -m pip install --no-build-isolation "${target[@]}" --verbose . &&
    "$python" -c 'import crfrnn._native as native; print(native.__file__)'
}

smoke() {
  local few=(--limit 60)
  [ -z "$dry" ] || few=(--quick --together 2 --limit 300)
  "$python" tests/gpu/gpu_smoke.py --device "$device" --out "$out/smoke.log" "${few[@]}"
}

run_tests() {
  # Two of them compile every launch for an H100: they need no GPU, and have run without one.
  local which='triton and not every_known_launch and not compiles_for_a_gpu' side_by_side=()
  [ -z "$dry" ] || which='triton and constants_are_preserved'
  # One worker per core, minus two: each uses the GPU's driver and runs a compiler.
  "$python" -c 'import xdist' 2>/dev/null && side_by_side=(-n "$((cores > 2 ? cores - 2 : 1))")
  "$python" -m pytest -q "${side_by_side[@]}" -p no:cacheprovider --timeout 60 -k "$which" \
    tests/lattice/test_conformance.py tests/lattice/test_triton*.py tests/crf/test_triton*.py
}

bench() {
  local tiny=()
  [ -z "$dry" ] || tiny=(--size 6 --parts copy,points,sweep)
  "$python" benchmarks/gpu.py --device "$device" --out "$out/gpu.csv" --seconds "$((LIMIT - 15))" "${tiny[@]}"
}

train() {
  local tiny=()
  [ -z "$dry" ] || tiny=(--tiny)
  "$python" experiments/gpu_table1.py --device "$device" --data "$data" --out "$out/table1.csv" --seconds "$((LIMIT - 5))" "${tiny[@]}"
}

export -f install_package smoke run_tests bench train
export dry out data python cores device
if [ -z "$dry" ]; then
  nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader | tee -a "$out/summary.txt"
fi
"$python" -c 'import sys, torch, triton; print("python", sys.version.split()[0], "torch", torch.__version__, "triton", triton.__version__)' |
  tee -a "$out/summary.txt"
phase build 150 build.log bash -c install_package
phase smoke 90 smoke.out bash -c smoke
phase tests 110 tests.log bash -c run_tests
phase bench 190 gpu.log bash -c bench
phase train 200 train.log bash -c train
rm -f "$out/smoke.out" # smoke.log has it, and more
say "$SECONDS s in all"
exit "$failed"
