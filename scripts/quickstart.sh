#!/usr/bin/env bash
# From a fresh clone to a trained memory and a report: scripts/quickstart.sh [options of `rxrl quickstart`]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

ensure_environment core
say "Running rxrl quickstart $*"
started="$(mktemp)"
trap 'rm -f "$started"' EXIT
"$VENV/bin/rxrl" quickstart "$@"
report="$(find "$PWD" -maxdepth 4 -name .venv -prune -o -name report.html -newer "$started" -print 2>/dev/null | head -n 1)"
[[ -z "$report" ]] || say "The report is $report"
