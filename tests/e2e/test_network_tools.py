"""Package managers and their like in a moderate sandbox, against the real registries that this machine reaches; nothing is set up for them."""

from __future__ import annotations

import os
import socket
import subprocess
from shutil import which
from urllib.parse import urlsplit

import pytest
from e2e.conftest import AgentKernel

PYPI, NPM, CRATES, GO, GITHUB, DEBIAN = (
    "https://pypi.org/simple/six/",
    "https://registry.npmjs.org/left-pad",
    "https://index.crates.io/config.json",
    "https://proxy.golang.org/github.com/pkg/errors/@v/list",
    "https://github.com/pypa/sampleproject",
    "http://deb.debian.org/debian/dists/stable/InRelease",
)
PROXIES = [f"{name}_{end}" for end in ("PROXY", "proxy") for name in ("HTTP", "HTTPS", "ALL", "http", "https", "all")]
WITHOUT_PROXY = [word for name in PROXIES for word in ("-e", f"{name}=")]
DEBIAN_ROOT = "AGENTKERNEL_TEST_DEBIAN"  # making one takes half a minute
PIP = "/usr/bin/python3 -m pip -q --no-cache-dir --disable-pip-version-check"
WAYS = pytest.mark.parametrize("way", ["by the proxy", "by redirection"])


def needs(program: str, registry: str) -> None:
    """Skips with the name of what is missing here."""
    if which(program) is None:
        pytest.skip(f"no {program} on this host")
    parts = urlsplit(registry)
    try:
        socket.create_connection((str(parts.hostname), 443 if parts.scheme == "https" else 80), timeout=5).close()
    except OSError as error:
        pytest.skip(f"{parts.hostname} cannot be reached from this host: {error}")


def needs_pip() -> None:
    """The system's, for the others' places and wrappers differ."""
    if subprocess.run(["/usr/bin/python3", "-m", "pip", "--version"], capture_output=True, check=False).returncode != 0:
        pytest.skip("no pip of /usr/bin/python3 on this host")


def run(agentkernel: AgentKernel, way: str, script: str, *options: str) -> subprocess.CompletedProcess[bytes]:
    """Runs a line of the shell with the network in one of two ways: through the proxy alone, or by programs that know of none."""
    flags = ["--no-transparent-network"] if way == "by the proxy" else WITHOUT_PROXY
    return agentkernel("run", "-q", *flags, *options, "--", "sh", "-ec", script)


@WAYS
def test_curl(agentkernel: AgentKernel, way: str) -> None:
    needs("curl", PYPI)
    done = run(agentkernel, way, f"curl -sS -o page -w '%{{http_code}}' {PYPI}; grep -c six page >&2")
    assert (done.returncode, done.stdout) == (0, b"200"), done.stderr


@WAYS
def test_pip_install(agentkernel: AgentKernel, way: str) -> None:
    needs("python3", PYPI)
    needs_pip()
    done = run(agentkernel, way, f"{PIP} install --target lib six; PYTHONPATH=lib /usr/bin/python3 -c 'import six; print(six.__file__)'")
    assert (done.returncode, done.stdout) == (0, b"/home/user/lib/six.py\n"), done.stderr


def test_pip_of_a_version_manager_succeeds_though_it_cannot_write_to_its_own_directory(agentkernel: AgentKernel) -> None:
    needs("pip", PYPI)
    if "/shims/" not in str(which("pip")):
        pytest.skip("pip on this host's PATH is no version manager's")
    script = "pip install -q --no-cache-dir --disable-pip-version-check --force-reinstall --no-deps six; echo installed"
    done = run(agentkernel, "by the proxy", script)
    assert (done.returncode, done.stdout) == (0, b"installed\n"), done.stderr


def test_npm_install(agentkernel: AgentKernel) -> None:
    needs("npm", NPM)
    script = "npm install --silent --no-audit --no-fund left-pad; node -e 'console.log(require(\"left-pad\")(5, 3))'"
    done = run(agentkernel, "by the proxy", script)
    assert (done.returncode, done.stdout) == (0, b"  5\n"), done.stderr


def test_nodes_own_fetch(agentkernel: AgentKernel) -> None:
    needs("node", NPM)
    done = run(agentkernel, "by redirection", f"node -e 'fetch(\"{NPM}\").then(answer => console.log(answer.status))'")
    assert (done.returncode, done.stdout) == (0, b"200\n"), done.stderr


def test_git_clone(agentkernel: AgentKernel) -> None:
    needs("git", GITHUB)
    done = run(agentkernel, "by the proxy", f"git clone -q --depth 1 {GITHUB} cloned; ls cloned")
    assert done.returncode == 0 and b"README" in done.stdout, done.stderr


def test_cargo_fetch(agentkernel: AgentKernel) -> None:
    needs("cargo", CRATES)
    manifest = '[package]\\nname = "a"\\nversion = "0.1.0"\\nedition = "2021"\\n[dependencies]\\ncfg-if = "1"\\n'
    script = f"cargo --version || exit 127; mkdir src; touch src/lib.rs; printf '{manifest}' > Cargo.toml; cargo fetch -q; grep -c cfg-if Cargo.lock"
    done = run(agentkernel, "by the proxy", script)
    if done.returncode == 127:
        pytest.skip("the sandbox has no toolchain of cargo")
    assert done.returncode == 0, done.stderr


def test_go_get(agentkernel: AgentKernel) -> None:
    needs("go", GO)
    script = "go mod init a; GOSUMDB=off go get github.com/pkg/errors@v0.9.1; grep pkg/errors go.mod"
    done = run(agentkernel, "by the proxy", script)
    assert done.returncode == 0 and b"v0.9.1" in done.stdout, done.stderr


def test_a_list_of_hosts_is_enough_for_pip_and_says_what_is_missing(agentkernel: AgentKernel) -> None:
    needs("python3", PYPI)
    needs_pip()
    download = f"{PIP} download --retries 0 six"
    allowed = ("--only-hosts", "--allow-host", "pypi.org")
    refused = run(agentkernel, "by the proxy", download, *allowed)
    assert refused.returncode != 0 and b"files.pythonhosted.org" in refused.stderr
    done = run(agentkernel, "by the proxy", download, *allowed, "--allow-host", "files.pythonhosted.org")
    assert done.returncode == 0, done.stderr


def test_apt_get_as_root_of_a_debian_image(agentkernel: AgentKernel) -> None:
    needs("apt-get", DEBIAN)
    root = os.environ.get(DEBIAN_ROOT, "")
    if not root:
        pytest.skip(f"{DEBIAN_ROOT} names no directory made by `mmdebstrap --variant=apt stable DIRECTORY`")
    script = "apt-get update && apt-get install -y hello && hello"
    done = agentkernel("run", "-q", "--image", root, "--user", "root", "--", "sh", "-c", script)
    assert done.returncode == 0 and b"Hello, world!" in done.stdout, done.stdout + done.stderr
