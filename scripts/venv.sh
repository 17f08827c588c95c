# Sourced by the scripts beside it: makes .venv as uv.lock says, from nothing but Python, and sets PYTHON.
# EDGENODE_PYTHON chooses the interpreter (default python3).
export UV_PROJECT_ENVIRONMENT="$PWD/.venv"
# Modules are compiled once, as where they are installed: 0.3 s of CPU less for each of the processes that tests and bench start.
unset PYTHONDONTWRITEBYTECODE
PYTHON="$PWD/.venv/bin/python"
stamp="$PWD/.venv/.synced"
if [ ! -x "$PYTHON" ] || ! cmp -s uv.lock "$stamp"; then
    base=${EDGENODE_PYTHON:-python3}
    "$base" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
        echo "edgenode needs Python 3.11 or newer; '$base' is $("$base" -V 2>&1). Set EDGENODE_PYTHON to one that is." >&2
        exit 2
    }
    echo "making .venv (first run, or uv.lock changed) ..." >&2
    if command -v uv >/dev/null 2>&1; then
        uv sync --quiet --locked --all-extras --python "$base"
    else
        [ -x "$PYTHON" ] || "$base" -m venv .venv
        "$PYTHON" -m pip install --quiet --disable-pip-version-check "uv>=0.9,<1"
        "$PYTHON" -m uv sync --quiet --locked --inexact --all-extras
    fi
    cp uv.lock "$stamp"
fi
