#!/usr/bin/env bash
# Every CUDA path, in at most eight minutes, with figures; the parts stand in benchmarks/device_*.py.
#
#     benchmarks/device.sh             on a machine with an NVIDIA GPU
#     benchmarks/device.sh --dry-run   anywhere: lists the parts and sees that each one starts
#
# PYTHON names another interpreter than the project's own environment.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
[ -x "$(command -v "$python")" ] || { echo "no $python here: run make first, or set PYTHON" >&2; exit 1; }
exec "$python" -m benchmarks.device "$@"
