#!/bin/sh
# Part of env.sh: puts the packages of $_lock, and this project, into .venv with the pip of $_python.
# A pip of its own takes some seconds to make: that of the interpreter will do, where it has one that can.
_pip="$_python -m pip --python .venv/bin/python"
$_pip --version >/dev/null 2>&1 || { .venv/bin/python -m ensurepip >/dev/null && _pip=".venv/bin/python -m pip"; }
_pip="$_pip --disable-pip-version-check install --no-deps --no-compile $([ -t 2 ] && echo --progress-bar off || echo --quiet)"

# With --no-deps no later release changes what a complete lock installs, and the packages need not wait for each other:
# two pips with half of them each take little more than half of the time.
awk -v lock="$_lock" 'BEGIN { half = 1 } /==/ { half = 3 - half } { print >(".venv/" half "-" lock) }' "$_lock"
printf '.venv/%s-'"$_lock"'\n' 1 2 | xargs -P 2 -I % $_pip --require-hashes --requirement % >&2

if [ "$_lock" = requirements.lock ]; then # nothing is built, so what builds need not be there
    .venv/bin/python -c 'import os, sysconfig
with open(os.path.join(sysconfig.get_path("purelib"), "tenantproxy.pth"), "w") as file: file.write(os.getcwd())'
else
    $_pip --no-build-isolation --editable . >&2
fi
