# Sourced by its neighbours: goes to the project's folder and makes .venv; does nothing when it is up to date.
# _lock=requirements.lock: what the demo needs. Without it requirements-dev.lock: the same and every tool.
# PYTHON=... chooses the interpreter; otherwise the first of these that is new enough.
set -eu
cd "$(dirname "${BASH_SOURCE:-$0}")/.." # from bash it can be sourced by hand, or by a script elsewhere
_lock=${_lock:-requirements-dev.lock}

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
_stamp() { echo "$PWD $1 $(cat "$1" pyproject.toml | cksum)"; }
# Who has the tools has what the demo needs too.
_is_installed() {
    case $(cat .venv/installed 2>/dev/null || true) in
        "$(_stamp "$_lock")" | "$(_stamp requirements-dev.lock)") _usable .venv/bin/python ;;
        *) false ;;
    esac
}

if ! _is_installed; then
    _python=$(_choose_python)
    echo "installing $(grep -c == "$_lock") packages of $_lock into .venv with $("$_python" --version) ..." >&2
    rm -f .venv/installed
    _usable .venv/bin/python && [ "$(.venv/bin/python -c 'import sys; print(sys.prefix)')" = "$PWD/.venv" ] ||
        "$_python" -m venv --clear --without-pip .venv
    . scripts/install.sh
    _stamp "$_lock" >.venv/installed
fi
# The compiled data path, for whoever has the tools; where it cannot be built, that is said once and Python does it all.
[ "$_lock" = requirements.lock ] || .venv/bin/python hatch_build.py
PATH="$PWD/.venv/bin:$PATH"
# What is imported is compiled once, and not in each process that runs it, beside the packages and not in the sources.
PYTHONPYCACHEPREFIX="$PWD/.venv/pycache"
unset PYTHONDONTWRITEBYTECODE
export PATH PYTHONPYCACHEPREFIX
