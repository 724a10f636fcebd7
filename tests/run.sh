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
supply() { # installs what is missing where that is possible, else says so; tests that need it are then skipped with that reason
    [ -n "$missing" ] || return 0
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        say "installing$missing"
        # shellcheck disable=SC2086
        if { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing; } >/dev/null; then
            missing=""
            return 0
        fi
    fi
    echo "tests want these Debian packages, which are not here:$missing (tests that need one will be skipped, and say so)"
    missing=""
}
need cc gcc
need clang clang
need bwrap bubblewrap
need busybox busybox-static
need setpriv util-linux
need strace strace
need runsc runsc
need docker-registry docker-registry
need zstd zstd
need dockerd docker.io
need podman podman
need runc runc
need newuidmap uidmap
need openssl openssl
need zsh zsh
need fish fish
need aarch64-linux-gnu-gcc gcc-aarch64-linux-gnu
need qemu-aarch64-static qemu-user-static
need tmux tmux
need less less
need vi vim-tiny
[ -e /usr/lib/x86_64-linux-gnu/libc.a ] || [ -e /usr/lib/aarch64-linux-gnu/libc.a ] || [ -e /usr/lib/libc.a ] || missing="$missing libc6-dev"
"$PYTHON" -c 'import venv, ensurepip' 2>/dev/null || missing="$missing python3-venv"
supply
if command -v clang >/dev/null 2>&1 && ! [ -e "$(clang -print-file-name="libclang_rt.fuzzer-$(uname -m).a")" ]; then
    missing=" libclang-rt-$(clang -dumpversion | cut -d. -f1)-dev" # its sanitizers and its fuzzer
    supply
fi

say "virtual environment"
[ -x "$VENV/bin/python" ] || "$PYTHON" -m venv "$VENV"
"$VENV/bin/python" -m pip install --quiet --disable-pip-version-check '.[test]'

# The gVisor backend needs a release of 2023 or later. Debian 12 has one among its backports: it is unpacked beside the tests, not installed.
newer_gvisor() {
    case "$(runsc --version 2>/dev/null | head -n 1)" in *[~-]20[12][0-9][01][0-9][0-3][0-9]*) ;; *) return 0 ;; esac
    case "$(runsc --version 2>/dev/null | head -n 1)" in *[~-]202[3-9]*) return 0 ;; esac
    grep -q '^VERSION_CODENAME=bookworm' /etc/os-release 2>/dev/null && command -v dpkg-deb >/dev/null 2>&1 || return 0
    own=$("$VENV/bin/python" -c 'import os, sys; print(os.path.abspath(sys.argv[1]))' "$VENV/gvisor")
    if ! [ -x "$own/usr/bin/runsc" ]; then
        mkdir -p "$own/lists/partial" "$own/cache/archives/partial"
        echo 'deb http://deb.debian.org/debian bookworm-backports main' >"$own/sources.list"
        set -- -qq -o Dir::Etc::SourceList="$own/sources.list" -o Dir::Etc::SourceParts=/dev/null -o Dir::State::Lists="$own/lists" -o Dir::Cache="$own/cache" \
            -o APT::Sandbox::User=root
        (cd "$own" && apt-get "$@" update && apt-get "$@" download runsc && dpkg-deb -x runsc_*.deb .) >/dev/null || {
            echo "tests want a gVisor of 2023 or later, which could not be had (tests that need it will be skipped, and say so)"
            return 0
        }
    fi
    AGENTKERNEL_TEST_RUNSC="$own/usr/bin/runsc"
    export AGENTKERNEL_TEST_RUNSC
}
newer_gvisor

say "linters and types"
"$VENV/bin/ruff" check .
"$VENV/bin/ruff" format --check .
"$VENV/bin/mypy"
"$VENV/bin/lint-imports"

say "guest: no warnings"
for compiler in cc gcc clang aarch64-linux-gnu-gcc; do
    if command -v "$compiler" >/dev/null 2>&1; then
        "$VENV/bin/python" guest/build.py --strict --compiler "$compiler" --output "guest/build/strict/$compiler"
    fi
done

say "guest: unit tests with sanitizers, bounded fuzzing"
"$VENV/bin/python" guest/tests/run.py --fuzz-seconds "${FUZZ_SECONDS:-15}"

say "tests"
# The hostile programs have a process of their own: what they leave to it (limits, orphans) is not for other tests.
status=0
"$VENV/bin/python" -m pytest --ignore=tests/security "$@" || status=$?
"$VENV/bin/python" -m pytest tests/security "$@" || status=$?
exit $status
