#!/usr/bin/env bash
# Speed, MFU, memory and parity of training on a GPU, in at most eight minutes: scripts/gpu_check.sh [--preset nano] [--out gpu.json]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

ensure_environment dev
cd "$ROOT"
"$VENV/bin/python" -m tests.benchmarks.gpu "$@"
