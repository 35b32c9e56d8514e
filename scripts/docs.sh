#!/usr/bin/env bash
# Builds the site into site/, where warnings (dead links among them) are errors: scripts/docs.sh [options of `mkdocs build`]
#   scripts/docs.sh --serve   shows it at http://127.0.0.1:8000 and builds again when a page changes
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

ensure_environment dev
cd "$ROOT"
export NO_MKDOCS_2_WARNING=1  # an advertisement of the theme
if [[ "${1:-}" == --serve ]]; then
    shift
    exec "$VENV/bin/python" -m mkdocs serve "$@"
fi
"$VENV/bin/python" -m mkdocs build --strict "$@"
say "The site is site/index.html"
