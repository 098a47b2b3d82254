#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Builds the image of Containerfile, runs it as its user without any right to write outside /tmp, sends the page one photograph,
# stops it, and prints size and times. The arguments go to `build`:
#
#   scripts/check_container.sh [--build-arg BASE=registry.example/python:3.11-slim …]
#
# ENGINE is the command, by default podman, else docker. It can have options: ENGINE="podman --runtime runc". RUN_OPTIONS go to `run`.
set -euo pipefail
cd "$(dirname "$0")/.."
read -ra engine <<<"${ENGINE:-$(command -v podman || command -v docker || true)}"
read -ra run_options <<<"${RUN_OPTIONS:-}"
if [ "${#engine[@]}" = 0 ] || ! "${engine[@]}" info >/dev/null 2>&1; then
  echo "container: SKIPPED, neither podman nor a running docker is here"
  exit 0
fi
engine() { "${engine[@]}" "$@"; }
image=localhost/crfrnn-check
format=()
case "${engine[0]}" in *podman) format=(--format docker) ;; esac # the OCI format has no HEALTHCHECK

engine build "${format[@]}" -f Containerfile -t "$image" "$@" .
bytes=$(engine image inspect --format '{{.Size}}' "$image")
echo "container: the image takes $((bytes / 1000000)) MB"

seconds() { echo "$((($(date +%s%N) - began) / 10000000))" | sed -E 's/^(.)$/0\1/; s/(..)$/.\1/; s/^\./0./'; }
began=$(date +%s%N)
SECONDS=0
container=$(engine run --detach --read-only --tmpfs /tmp --cap-drop all --security-opt no-new-privileges \
  -p 127.0.0.1::7860 "${run_options[@]}" -v "$PWD/tests/helpers:/helpers:ro" "$image")
trap 'engine rm --force "$container" >/dev/null' EXIT
address="http://$(engine port "$container" 7860/tcp | head -n 1)/"
until curl --fail --silent --output /dev/null "$address"; do
  if [ "$(engine inspect --format '{{.State.Running}}' "$container")" != true ] || [ "$SECONDS" -gt 600 ]; then
    engine logs "$container"
    echo "container: the page did not start" >&2
    exit 1
  fi
  sleep 0.2
done
echo "container: the page answered at $address after $(seconds) s"

test "$(engine exec "$container" id -u)" = 1000
if engine exec "$container" touch /opt/crfrnn/written 2>/dev/null; then
  echo "container: /opt/crfrnn can be written" >&2
  exit 1
fi
engine exec -i -e PYTHONPATH=/helpers "$container" python - <<'PYTHON'
from page_clients import Client, picture

answer = Client("http://127.0.0.1:7860/").open(picture(0))
assert "crfrnn segment" in str(answer), answer
print("container: a photograph was segmented")
PYTHON

began=$(date +%s%N)
engine stop --time 30 "$container" >/dev/null
code=$(engine inspect --format '{{.State.ExitCode}}' "$container")
echo "container: stopped after $(seconds) s with status $code"
test "$code" = 143
echo "container: OK"
