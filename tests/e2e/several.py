"""Several real backends side by side, as one user has them: engines of the tests' own, a registry on loopback, one daemon."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from e2e.conftest import DEADLINE_S, AgentKernel
from e2e.host import Host, wait_until
from engines.docker import DockerHost
from engines.images import python_image
from engines.podman import PodmanHost, end_services, podman_host
from registry_world import make_image, running_registry

CONFIG = {
    "Env": ["PATH=/usr/local/bin:/usr/bin:/bin", "GREETING=hello"],
    "Entrypoint": ["/usr/bin/env", "ENTERED=1"],
    "Cmd": ["sh", "-c", "echo $GREETING $ENTERED"],
}
_GUEST_VOLUME = "agentkernel-guest-"
_PLACES = ("run/*/lasting/*", "run/*/sandboxes/*", "data/docker/*", "data/podman/*", "data/sandboxes/*", "data/gvisor/sandboxes/*")


@dataclass(kw_only=True)
class Several(AgentKernel):
    """The command line over all of them."""

    image: str  # with a shell, small tools and Python; see CONFIG
    docker: DockerHost | None = None
    podman: PodmanHost | None = None
    ready: dict[str, str] = field(default_factory=dict)  # backend: why it is not ready, empty where it is

    @property
    def home(self) -> Path:
        """Agentkernel's own directories."""
        return Path(self.environment["AGENTKERNEL_HOME"])

    def of(self, backend: str) -> tuple[str, ...]:
        """The options of a sandbox of that backend; skips where it is not ready here."""
        if why := self.ready.get(backend, "it is not installed"):
            pytest.skip(f"{backend}: {why}")
        return ("--backend", backend, "--image", self.image)

    def ok(self, *words: str) -> str:
        """What a command that must succeed prints."""
        done = self(*words)
        assert done.returncode == 0, f"{' '.join(words)}: {done.returncode} {done.stderr.decode()}"
        return done.stdout.decode()

    def rows(self) -> dict[str, dict[str, Any]]:
        """What `list` says, by name."""
        return {row["name"]: row for row in json.loads(self.ok("list", "--json"))}

    def left(self) -> list[str]:
        """What is there of sandboxes, on this host and in the engines."""
        found = [str(path) for place in _PLACES for path in self.home.glob(place)]
        for ask in [engine.run for engine in (self.docker, self.podman) if engine is not None]:
            found += ask("ps", "--all", "--quiet", "--filter", "label=agentkernel.sandbox").split()
            found += [each for each in ask("volume", "ls", "--quiet").split() if not each.startswith(_GUEST_VOLUME)]
        return found


@contextlib.contextmanager
def several_backends(request: pytest.FixtureRequest, environment: dict[str, str], directory: Path) -> Iterator[Several]:
    """What of Docker, Podman and gVisor is here, and namespaces."""
    if shutil.which("docker-registry") is None:
        pytest.skip("needs docker-registry (Debian: docker-registry)")
    layer = python_image(directory).read_bytes()
    home = Path(tempfile.mkdtemp(prefix="ak-several-", dir="/tmp"))  # short: sockets lie in it
    home.chmod(0o755)
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        registry = stack.enter_context(running_registry(directory))
        image = make_image(layer, config=CONFIG, compress=lambda data: gzip.compress(data, 1, mtime=0))
        registry.push("tests/python", "1", image)
        docker = _where_it_is(lambda: request.getfixturevalue("dockerd"))
        podman = _where_it_is(lambda: stack.enter_context(podman_host()))
        own = {**environment, **(podman.environment if podman else {}), **_of_docker(docker), **_of_user(home)}
        made = Several(directory=directory, environment=own, image=f"{registry.address}/tests/python:1", docker=docker, podman=podman)
        found = json.loads(made.ok("backends", "--json"))
        made.ready = {each["name"]: "" if each["ready"] else each["reason"] or "it is not ready" for each in found}
        stack.callback(end_services, made.home)
        stack.callback(made, "daemon", "stop")
        before = Host(made.home / "run").present()
        yield made
        wait_until(lambda: not made.left())
        assert Host(made.home / "run").leftovers(before) == []


def _where_it_is(find: Callable[[], Any]) -> Any:
    """The engine; None where it is not here, which its tests then say."""
    try:
        return find()
    except pytest.skip.Exception:
        return None


def _of_docker(docker: DockerHost | None) -> dict[str, str]:
    return {name: docker.environment[name] for name in ("DOCKER_HOST", "DOCKER_CONFIG")} if docker else {}


def _of_user(home: Path) -> dict[str, str]:
    """Without pools, so that whatever is left was left over."""
    configuration = home / "user" / ".config" / "agentkernel"
    configuration.mkdir(parents=True)
    (configuration / "config.toml").write_text("[pool]\nenabled = false\n")
    return {
        "HOME": str(home / "user"),
        "XDG_CONFIG_HOME": str(home / "user" / ".config"),
        "AGENTKERNEL_HOME": str(home / "own"),
        "AGENTKERNEL_DAEMON": "on",
        "AGENTKERNEL_RUNSC": os.environ.get("AGENTKERNEL_TEST_RUNSC") or shutil.which("runsc") or "",
    }


def fetch(url: str) -> str:
    """What a server of this host answers; empty while it does not."""
    done = subprocess.run(["curl", "-s", "--max-time", "5", url], capture_output=True, timeout=DEADLINE_S)
    return done.stdout.decode() if done.returncode == 0 else ""
