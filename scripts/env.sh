# Sourced by its neighbours: goes to the project's folder and makes .venv from requirements.lock; does nothing when it is up to date.
# PYTHON=... chooses the interpreter; otherwise the first of these that is new enough.
set -eu
cd "$(dirname "${BASH_SOURCE:-$0}")/.." # from bash it can be sourced by hand, or by a script elsewhere

_usable() {
    "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

_choose_python() {
    for _python in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
        if _usable "$_python"; then
            echo "$_python"
            return
        fi
    done
    echo "tenantproxy needs Python 3.11 or newer with its venv module; found: $(python3 --version 2>&1 || true)." >&2
    echo "Install one (Debian, Ubuntu: apt install python3 python3-venv) or name it: PYTHON=/path/to/python3.12 $0" >&2
    exit 1
}

# The folder is part of the stamp: a moved .venv has the old path in its scripts.
_stamp="$PWD $(cat requirements.lock pyproject.toml | cksum)"
if [ "$(cat .venv/installed 2>/dev/null || true)" != "$_stamp" ] || ! _usable .venv/bin/python; then
    _python=$(_choose_python)
    echo "installing into .venv with $("$_python" --version) ..." >&2
    rm -f .venv/installed
    _usable .venv/bin/python && [ "$(.venv/bin/python -c 'import sys; print(sys.prefix)')" = "$PWD/.venv" ] ||
        "$_python" -m venv --clear .venv
    _pip() { .venv/bin/python -m pip --disable-pip-version-check install --quiet "$@"; }
    # The lock is complete; without --no-deps pip would ask what has been released since for the extras it does not name.
    _pip --no-deps --require-hashes --requirement requirements.lock
    _pip --no-deps --no-build-isolation --editable .
    echo "$_stamp" >.venv/installed
fi
PATH="$PWD/.venv/bin:$PATH"
export PATH
