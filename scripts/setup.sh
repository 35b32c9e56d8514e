# Sourced by the scripts beside it: makes the environment .venv once and knows when it is up to date.
# Variables: PYTHON chooses the interpreter (3.11 or newer). An activated environment is left alone.

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
VENV="$ROOT/.venv"
# torch goes first and pinned: a looser requirement may pull gigabytes of GPU packages.
TORCH="torch==2.13.0"

say() { printf '==> %s\n' "$*"; }

fail() {
    printf 'Error: %s\n' "$*" >&2
    exit 1
}

is_recent() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

find_python() {
    if [[ -n "${PYTHON:-}" ]]; then
        command -v "$PYTHON" >/dev/null || fail "PYTHON=$PYTHON is not a program; set it to a Python 3.11 or newer."
        is_recent "$PYTHON" || fail "PYTHON=$PYTHON is $("$PYTHON" --version 2>&1); rxrl needs Python 3.11 or newer."
        return
    fi
    for PYTHON in python3 python3.13 python3.12 python3.11; do
        if command -v "$PYTHON" >/dev/null && is_recent "$PYTHON"; then return; fi
    done
    fail "rxrl needs Python 3.11 or newer and found $(python3 --version 2>&1 || true); install one, or name it: PYTHON=/path/to/python $0"
}

# Changes whenever the environment has to be installed again.
setup_key() {
    "$PYTHON" - "$ROOT" "$TORCH" <<'PYTHON_CODE'
import hashlib, os, pathlib, shutil, sys
root, torch = sys.argv[1:]
# With a compiler that was not there before, rxrl's kernels can be built.
compiler = shutil.which(os.environ.get("CC", "gcc").split()[0])
parts = [root, torch, f"{sys.version_info[0]}.{sys.version_info[1]}", str(compiler)]
files = [pathlib.Path(root, "pyproject.toml"), *sorted(pathlib.Path(root, "rxrl/models/kernels").glob("*.[ch]"))]
print(hashlib.sha256("\n".join(parts).encode() + b"".join(path.read_bytes() for path in files)).hexdigest())
PYTHON_CODE
}

same_python() {
    local version='import sys; print(sys.version_info[:2])'
    [[ -x "$VENV/bin/python" ]] && [[ "$("$VENV/bin/python" -c "$version" 2>/dev/null)" == "$("$PYTHON" -c "$version")" ]] \
        && "$VENV/bin/python" -m pip --version >/dev/null 2>&1
}

# ensure_environment core|dev: afterwards $VENV holds rxrl (editable), for dev with the tools of the tests.
ensure_environment() {
    local kind="$1" key target=.
    find_python
    key="$(setup_key)"
    if same_python && [[ "$(cat "$VENV/.rxrl-$kind" 2>/dev/null)" == "$key" ]]; then
        say "Environment $VENV is up to date"
        return
    fi
    if ! same_python; then
        say "Making the environment $VENV with $("$PYTHON" --version 2>&1)"
        "$PYTHON" -m venv --clear "$VENV" || fail "$PYTHON could not make an environment; its venv module may be missing (Debian, Ubuntu: python3-venv)."
    fi
    [[ "$kind" == dev ]] && target=".[dev]"
    say "Installing $TORCH (a large download, once)"
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check "$TORCH"
    say "Installing rxrl with its dependencies ($target)"
    (cd "$ROOT" && "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check -e "$target")
    say "Kernels for this CPU: $("$VENV/bin/python" -c 'from rxrl.models.kernels import instruction_set; print(instruction_set() or "none (they need gcc and x86-64; all works without)")')"
    printf '%s\n' "$key" >"$VENV/.rxrl-core"
    [[ "$kind" == core ]] || printf '%s\n' "$key" >"$VENV/.rxrl-$kind"
}
