"""The backend whose sandboxes an episode is about: where its traces are, and how long it takes."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from engines.docker import docker_host
from engines.images import REFERENCE, python_image
from engines.podman import podman_host, with_image_of_tests

from agentkernel.backends.containers.plan import NAME_PREFIX

BACKENDS = ("namespaces", "gvisor", "docker", "podman")
_ENGINES_S = 5.0  # within which an engine ends containers, for each second that a process of the host's takes


@dataclass(frozen=True, kw_only=True)
class Ground:
    """A backend, ready to be used."""

    backend: str
    steps: str  # what the names of its failpoints begin with
    place: str = ""  # of its records beneath run/
    files: str = "data/sandboxes"  # where what sandboxes write is, while they are there
    stays: frozenset[str] = frozenset()  # directories that stay when there are no sandboxes
    slowness: float = 1.0  # by how much longer everything takes than on namespaces
    environment: Mapping[str, str] = field(default_factory=dict)  # what names the engine
    image: str = ""
    program: tuple[str, ...] = ()  # of the engine's own command line

    def lasting(self, home: Path) -> Path:
        """Where the records of sandboxes are that run."""
        return home / "run" / self.place / "lasting"

    def passing(self, home: Path) -> Path:
        """Where those are that end with the process that made them."""
        return home / "run" / self.place / "sandboxes"

    def contained(self) -> set[str]:
        """Ids of the sandboxes that the engine has containers of."""
        if not self.program:
            return set()
        names = self._engine("ps", "--all", "--filter", "label=agentkernel.sandbox", "--format", "{{.Names}}")
        return {name.removeprefix(NAME_PREFIX) for name in names}

    def clear(self) -> None:
        """Removes all containers of sandboxes."""
        if self.program and (left := self._engine("ps", "--all", "--quiet", "--filter", "label=agentkernel.sandbox")):
            self._engine("rm", "--force", "--volumes", *left)

    def _engine(self, *words: str) -> list[str]:
        local = {**os.environ, **self.environment}
        done = subprocess.run([*self.program, *words], env=local, capture_output=True, text=True, timeout=60, check=True)
        return done.stdout.split()


@contextlib.contextmanager
def ground_of(backend: str, directory: Path) -> Iterator[Ground]:
    """That backend for the block, with an engine of its own; pytest's skip where there is none."""
    own = (f"run/{backend}", f"run/{backend}/lasting", f"run/{backend}/sandboxes")
    if backend == "namespaces":
        yield Ground(backend=backend, steps=backend)
    elif backend == "gvisor":
        program = os.environ.get("AGENTKERNEL_TEST_RUNSC") or shutil.which("runsc") or ""
        files = f"data/{backend}/sandboxes"
        stays = frozenset((*own, f"data/{backend}", files, f"data/{backend}/scratch"))
        environment = {"AGENTKERNEL_RUNSC": program}
        yield Ground(backend=backend, steps=backend, place=backend, files=files, stays=stays, slowness=4.0, environment=environment)
    elif backend == "docker":
        with docker_host() as docker:
            docker.load_image(python_image(directory))
            named = {name: docker.environment[name] for name in ("DOCKER_HOST", "DOCKER_CONFIG")}
            yield _of_engine(backend, own, named, "docker")
    else:
        with podman_host(runtime_of_containers="runc" if shutil.which("runc") else "") as podman:
            with_image_of_tests(podman, python_image(directory))
            named = {name: value for name, value in podman.environment.items() if name != "AGENTKERNEL_HOME"}
            named["AGENTKERNEL_PODMAN"] = shutil.which("podman") or ""
            yield _of_engine(backend, own, named, "podman", "--remote", "--url", named["CONTAINER_HOST"])


def _of_engine(backend: str, own: tuple[str, ...], environment: Mapping[str, str], *program: str) -> Ground:
    service = f"run/podman/default-{os.stat('/proc/self/ns/mnt').st_ino}"
    stays = frozenset((*own, f"data/{backend}", "data/containers", "data/podman-files", "run/podman", service))
    return Ground(
        backend=backend,
        steps="containers",
        place=backend,
        files=f"data/{backend}",
        stays=stays,
        slowness=_ENGINES_S,
        environment=environment,
        image=REFERENCE,
        program=program,
    )
