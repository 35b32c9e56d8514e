#!/usr/bin/env bash
# Measures speed and memory, apart from the tests: scripts/bench.sh [options of `python -m tests.benchmarks`]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

ensure_environment dev
cd "$ROOT"
"$VENV/bin/python" -m tests.benchmarks "$@"
