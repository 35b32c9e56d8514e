#!/usr/bin/env bash
# Everything that must hold before a change goes in: scripts/test.sh [options of pytest]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

ensure_environment dev
cd "$ROOT"
say "ruff: style"
"$VENV/bin/ruff" check .
say "mypy: types"
"$VENV/bin/mypy"
say "import-linter: direction of imports"
"$VENV/bin/lint-imports" --no-logo
say "pytest: behaviour"
"$VENV/bin/python" -m pytest "$@"
