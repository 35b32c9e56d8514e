#!/usr/bin/env bash
# Kills, full disks, changed files and clashes by the hundred (about an hour on two CPUs): scripts/torture.sh [options, see --help]
#   scripts/torture.sh --kills 20 --full 0 --small 0 --inputs 0 --no-pairs --only train
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

ensure_environment dev
cd "$ROOT"
export OMP_NUM_THREADS=1
"$VENV/bin/python" -m tests.torture "$@"
