#!/usr/bin/env bash
# Everything that must hold before a change goes in: scripts/test.sh [options of pytest]
#   scripts/test.sh -n 0                # one process
#   scripts/test.sh -m "not slow"       # without the tests that take several seconds
#   scripts/test.sh --cov               # branch coverage as a table by folder; takes half as long again
#   scripts/test.sh --cov --cov-report=term-missing tests/envs    # and the lines that no test reaches
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
say "mkdocs: the site"
NO_MKDOCS_2_WARNING=1 "$VENV/bin/python" -m mkdocs build --strict
say "pytest: behaviour"
# Tests compute with one thread each, so every CPU takes files of its own.
"$VENV/bin/python" -m pytest -n auto --maxprocesses 8 --dist loadfile --cov-report= "$@"
