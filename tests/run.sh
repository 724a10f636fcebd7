#!/bin/sh
# Every check of the project, from nothing: system packages (as root on Debian and its kin; otherwise it says what is missing), a virtual
# environment with the package and the test tools, linters, types, the guest's own tests, then pytest. Needs only Python 3.11+.
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
VENV=${VENV:-.venv}

say() { printf '\n== %s\n' "$*"; }

missing=""
need() { # need COMMAND PACKAGE
    command -v "$1" >/dev/null 2>&1 || missing="$missing $2"
}
need cc gcc
need clang clang
need bwrap bubblewrap
need busybox busybox-static
need setpriv util-linux
need strace strace
need aarch64-linux-gnu-gcc gcc-aarch64-linux-gnu
need qemu-aarch64-static qemu-user-static
[ -e /usr/lib/x86_64-linux-gnu/libc.a ] || [ -e /usr/lib/aarch64-linux-gnu/libc.a ] || [ -e /usr/lib/libc.a ] || missing="$missing libc6-dev"
ls /usr/lib/llvm-*/lib/clang/*/lib/linux/libclang_rt.fuzzer-*.a >/dev/null 2>&1 || missing="$missing libclang-rt-14-dev"
"$PYTHON" -c 'import venv, ensurepip' 2>/dev/null || missing="$missing python3-venv"
if [ -n "$missing" ]; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        say "installing$missing"
        apt-get update -qq >/dev/null
        # shellcheck disable=SC2086
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
    else
        echo "tests want these Debian packages, which are not here:$missing (tests that need one will be skipped, and say so)"
    fi
fi

say "virtual environment"
[ -x "$VENV/bin/python" ] || "$PYTHON" -m venv "$VENV"
"$VENV/bin/python" -m pip install --quiet --disable-pip-version-check '.[test]'

say "linters and types"
"$VENV/bin/ruff" check .
"$VENV/bin/ruff" format --check .
"$VENV/bin/mypy"
"$VENV/bin/lint-imports"

say "guest: unit tests with sanitizers, bounded fuzzing"
"$VENV/bin/python" guest/tests/run.py --fuzz-seconds "${FUZZ_SECONDS:-15}"

say "tests"
exec "$VENV/bin/python" -m pytest "$@"
