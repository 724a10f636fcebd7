"""Commands in sandboxes of Docker and Podman, from the shell: an image of a registry on loopback, and sandboxes of several backends."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e.conftest import AgentKernel
from engines.docker import docker_host
from engines.podman import podman_host
from registry_world import RunningRegistry, make_image, running_registry, tar_of

CONFIG = {"Env": ["GREETING=hello"], "WorkingDir": "/srv", "Entrypoint": ["/bin/busybox", "echo"], "Cmd": ["from", "the", "image"]}


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRegistry]:
    if shutil.which("docker-registry") is None or shutil.which("busybox") is None:
        pytest.skip("needs docker-registry and a static busybox")
    if "statically linked" not in subprocess.run(["file", "-L", shutil.which("busybox") or ""], capture_output=True, text=True).stdout:
        pytest.skip("busybox is not static")
    with running_registry(tmp_path_factory.mktemp("registry")) as running:
        busybox = Path(shutil.which("busybox") or "").read_bytes()
        running.push("tests/busybox", "1", make_image(tar_of(("bin/", b""), ("bin/busybox", busybox), ("srv/", b"")), config=CONFIG))
        yield running


@pytest.fixture(params=["docker", "podman"])
def engine(request: pytest.FixtureRequest) -> Iterator[tuple[str, dict[str, str]]]:
    if request.param == "docker":
        with docker_host() as docker:
            yield "docker", {name: docker.environment[name] for name in ("DOCKER_HOST", "DOCKER_CONFIG")}
    else:
        with podman_host() as podman:
            yield "podman", podman.environment


@pytest.fixture
def agentkernel(engine: tuple[str, dict[str, str]], shared_environment: dict[str, str], tmp_path: Path) -> Iterator[AgentKernel]:
    environment = {**shared_environment, **engine[1], "AGENTKERNEL_DAEMON": "on", "AGENTKERNEL_HOME": str(tmp_path / "own")}
    made = AgentKernel(tmp_path, environment)
    yield made
    made("daemon", "stop")


def test_a_pulled_image_runs_as_it_says_and_each_sandbox_remembers_its_backend(
    agentkernel: AgentKernel, engine: tuple[str, dict[str, str]], registry: RunningRegistry
) -> None:
    backend, image = engine[0], f"{registry.address}/tests/busybox:1"
    first = agentkernel("run", "--backend", backend, "--image", image)
    assert (first.returncode, first.stdout) == (0, b"from the image\n"), first.stderr
    words = agentkernel(
        "run", "--backend", backend, "--image", image, "--entrypoint", "", "--", "/bin/busybox", "sh", "-c", "echo $GREETING; exit 3"
    )
    assert (words.returncode, words.stdout) == (3, b"hello\n"), words.stderr
    for name, options in (("inside", ("--backend", backend, "--image", image)), ("beside", ("--backend", "namespaces"))):
        made = agentkernel("create", name, *options, "--start")
        assert made.returncode == 0, made.stderr
    listed = json.loads(agentkernel("list", "--json").stdout)
    assert {row["name"]: row["backend"] for row in listed} == {"inside": backend, "beside": "namespaces"}
    kept = agentkernel("exec", "inside", "--", "/bin/busybox", "sh", "-c", "echo kept > ~/file; id -u")
    assert kept.returncode == 0, kept.stderr
    for act in ("stop", "start"):
        assert agentkernel(act, "inside").returncode == 0
    assert agentkernel("exec", "inside", "--", "/bin/busybox", "sh", "-c", "cat ~/file").stdout == b"kept\n"
    for name in ("inside", "beside"):
        assert agentkernel("remove", "--force", name).returncode == 0
