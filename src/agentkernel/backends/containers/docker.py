"""Docker: the Engine API's words for a container, and what an engine says of itself."""

from __future__ import annotations

import json
import os
import posixpath
import re
import resource
import socket
import struct
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from agentkernel.backends.containers.api import Api
from agentkernel.backends.containers.configuration import agent_files
from agentkernel.backends.containers.contexts import docker_endpoint
from agentkernel.backends.containers.dialect import EngineBind, EngineFacts, Momentary
from agentkernel.backends.containers.endpoint import Endpoint
from agentkernel.backends.containers.image_calls import ImageCalls
from agentkernel.backends.containers.keeper import EngineImages
from agentkernel.backends.containers.ledger import Ledger
from agentkernel.backends.containers.plan import OWN, RUN_DIRECTORY, ContainerPlan, Stream, Tmpfs
from agentkernel.backends.containers.profile import profile
from agentkernel.backends.containers.runtimes import default_of_docker, of_docker
from agentkernel.backends.containers.shown import parents_of
from agentkernel.errors import BackendUnavailable
from agentkernel.model.spec import SandboxSpec

if TYPE_CHECKING:
    from agentkernel.abc_images import ImageKeeper

NAME: Final = "docker"
_ARCHITECTURES: Final = {"amd64": "x86_64", "arm64": "aarch64"}
_REMAPPED: Final = re.compile(r"/(\d+)\.\d+/?$")
_CREDENTIALS: Final = struct.Struct("3i")
_NANO: Final = 1_000_000_000
_NO_ENGINE_HINT: Final = "install Docker (Debian: docker.io) and start it, or set DOCKER_HOST"


class DockerDialect:
    """Implements `dialect.Dialect` for the Docker Engine, from 20.10 on."""

    name = NAME
    title = "the Docker Engine"

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        """`environment` is the caller's, for DOCKER_HOST and its kin; the default is this process's."""
        self._environment = os.environ if environment is None else environment
        self.api = Api(self._endpoint, self.title)

    def _endpoint(self) -> Endpoint:
        endpoint = docker_endpoint(self._environment)
        if endpoint is None:
            raise BackendUnavailable("there is no Docker Engine here", hint=_NO_ENGINE_HINT)
        return endpoint

    async def facts(self) -> EngineFacts:
        """See `dialect.Dialect`."""
        information = await self.api.call("GET", "/info", deadline_s=10.0)
        if information.get("OSType") != "linux":
            raise BackendUnavailable(f"{self.title} runs {information.get('OSType')} containers", hint="switch it to Linux containers")
        return facts_of(information, is_local=_is_local(self.api.endpoint, information))

    async def create(self, plan: ContainerPlan, spec: SandboxSpec, facts: EngineFacts, binds: Sequence[EngineBind]) -> None:
        """See `dialect.Dialect`."""
        image = await ImageCalls(self.api).inspect(plan.image) or {}  # one that is not there is the engine's to refuse
        body = body_of(plan, spec, facts, binds, image.get("Config") or {})
        await self.api.call("POST", "/containers/create", query={"name": plan.name}, body=body)

    def mounter(self, facts: EngineFacts) -> tuple[str, ...] | None:
        """Root beside an engine of this host mounts for it."""
        return (sys.executable,) if facts.local and os.geteuid() == 0 and not facts.rootless else None

    def exchanges_owners(self, facts: EngineFacts) -> bool:
        """With host mounts."""
        return self.mounter(facts) is not None

    def keeper(self, data_directory: str, momentary: Momentary) -> ImageKeeper:
        """See `dialect.Dialect`."""
        return EngineImages(ImageCalls(self.api), self.name, Ledger(f"{data_directory}/images-of-{self.name}.json"), momentary)

    def close(self) -> None:
        """Ends the threads of its calls."""
        self.api.close()


def facts_of(information: Mapping[str, Any], *, is_local: bool) -> EngineFacts:
    """Reads `GET /info`."""
    options = [str(option) for option in information.get("SecurityOptions") or ()]
    remapped = _REMAPPED.search(str(information.get("DockerRootDir", ""))) if any("name=userns" in each for each in options) else None
    base = int(remapped.group(1)) if remapped else 0
    rootless = any("name=rootless" in each for each in options)
    limits = {"memory": "MemoryLimit", "pids": "PidsLimit", "cpu": "CpuCfsQuota"}
    runtimes = of_docker(information)
    architecture = str(information.get("Architecture", ""))
    return EngineFacts(
        version=str(information.get("ServerVersion", "")),
        architecture=_ARCHITECTURES.get(architecture, architecture),
        local=is_local,
        rootless=rootless,
        id_base=base,
        agent_uid=os.geteuid() if rootless else base,
        enforced=frozenset(limit for limit, flag in limits.items() if information.get(flag)),
        runtimes=runtimes,
        level=default_of_docker(information),
        seccomp=any("name=seccomp" in each for each in options),
        gpus=any(runtime.name.startswith("nvidia") for runtime in runtimes),
        open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[1] if is_local else None,
        details={
            "engine": f"Docker {information.get('ServerVersion', '?')}",
            "kernel": str(information.get("KernelVersion", "")),
            "cgroups": f"version {information.get('CgroupVersion', '1')}, {information.get('CgroupDriver', '?')}",
            "storage": str(information.get("Driver", "")),
            "runtime": str(information.get("DefaultRuntime", "")),
        },
    )


def _is_local(endpoint: Endpoint, information: Mapping[str, Any]) -> bool:
    """Whether its containers are processes that we see, and its directories ours: the same kernel, and who listens is no stranger to our
    process ids and mounts. A virtual machine's engine (Docker Desktop) has another kernel; a container that was given the host's socket
    sees its listener as nobody; what passes a far engine on by a socket here, such as `ssh -L`, tells that host's name."""
    if not endpoint.is_socket or not hasattr(os, "pidfd_open") or "Desktop" in str(information.get("OperatingSystem", "")):
        return False
    here = os.uname()
    if (information.get("KernelVersion"), information.get("Name")) != (here.release, here.nodename):
        return False
    try:
        with endpoint.open(1.0) as connection:
            pid = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))[0]
    except OSError:
        return False
    return bool(pid) and _shares_mounts(pid)


def _shares_mounts(pid: int) -> bool:
    try:
        return os.readlink(f"/proc/{pid}/ns/mnt") == os.readlink("/proc/self/ns/mnt")
    except PermissionError:
        return True  # somebody else's process, as a rule root's: then we mount nothing, and what we name is found or refused
    except OSError:
        return False


def body_of(
    plan: ContainerPlan, spec: SandboxSpec, facts: EngineFacts, binds: Sequence[EngineBind], image: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The body of `POST /containers/create`; `image`: the image's own configuration, of which nothing is to count."""
    return {
        "Image": plan.image,
        "Entrypoint": list(plan.argv),
        "Cmd": [],
        "Env": [*plan.environment, *_unset(image or {})],
        "User": "0:0",
        "WorkingDir": "/",
        "Hostname": plan.hostname,
        "Labels": plan.labels,
        "Healthcheck": {"Test": ["NONE"]},  # the image's own would be an exec session every few seconds
        "StopSignal": "SIGKILL",
        "Tty": False,
        "OpenStdin": plan.stream is Stream.STDIO,
        "StdinOnce": False,
        "HostConfig": {
            **_limits(plan, facts),
            **_walls(plan, spec, facts),
            "ReadonlyPaths": [*plan.read_only, *_sealed_volumes(plan, image or {})],
            "Mounts": [*_own_mounts(plan), *(mount for bind in binds for mount in _bind(bind))],
            "Tmpfs": {each.target: _tmpfs_options(each) for each in plan.tmpfs},
            "LogConfig": {"Type": "none", "Config": {}},
            "RestartPolicy": {"Name": "no"},
            "Init": False,
            "Runtime": plan.runtime,
            "DeviceRequests": _gpus(plan.gpus),
        },
    }


def _limits(plan: ContainerPlan, facts: EngineFacts) -> dict[str, Any]:
    memory = plan.memory_bytes if "memory" in facts.enforced else None
    files = agent_files(facts)
    return {
        "Memory": memory or 0,
        "MemorySwap": memory or 0,  # together with it: no swap
        "NanoCpus": int(plan.cpus * _NANO) if plan.cpus and "cpu" in facts.enforced else 0,
        "PidsLimit": plan.pids if "pids" in facts.enforced else None,
        "ShmSize": plan.shm_bytes,
        "Ulimits": [{"Name": "nofile", "Soft": files, "Hard": files}, {"Name": "core", "Soft": 0, "Hard": 0}],
    }


def _walls(plan: ContainerPlan, spec: SandboxSpec, facts: EngineFacts) -> dict[str, Any]:
    options = ["no-new-privileges"]
    if facts.seccomp:
        options.append("seccomp=" + json.dumps(profile(spec.seccomp, facts.architecture), separators=(",", ":")))
    return {
        "Privileged": False,
        "CapDrop": ["ALL"],
        "CapAdd": list(plan.capabilities),
        "SecurityOpt": options,
        "MaskedPaths": list(plan.masked),
        "ReadonlyRootfs": plan.read_only_root,
        "IpcMode": "private",
        "NetworkMode": "host" if plan.host_network else "none",
        "Dns": [plan.resolver] if plan.resolver else [],
    }


def _own_mounts(plan: ContainerPlan) -> list[dict[str, Any]]:
    guest = {"NoCopy": True, "Labels": {}}
    found: list[dict[str, Any]] = [
        {"Type": "volume", "Source": plan.guest_volume, "Target": directory, "ReadOnly": True, "VolumeOptions": guest}
        for directory in plan.guest_directories
    ]
    if plan.stream is Stream.SOCKET:
        found.append({"Type": "bind", "Source": plan.run_directory, "Target": RUN_DIRECTORY, "ReadOnly": False})
    return found


def _unset(image: Mapping[str, Any]) -> list[str]:
    """The names of an image's variables, which the engine then gives to nobody: its runtime and what that calls on the host, such as
    NVIDIA's, would go by them."""
    found = image.get("Env")
    names = (str(each).partition("=")[0] for each in found) if isinstance(found, list) else ()
    return [name for name in dict.fromkeys(names) if name]


def _sealed_volumes(plan: ContainerPlan, image: Mapping[str, Any]) -> list[str]:
    """In a read-only root the volumes that an image declares, which would be writable."""
    found = image.get("Volumes")
    if not plan.read_only_root or not isinstance(found, dict):
        return []
    used = {OWN, *(each.target for each in plan.tmpfs), *(each.target for each in plan.mounts)}
    targets = dict.fromkeys(posixpath.normpath(f"/{str(target).lstrip('/')}") for target in found)
    return [target for target in targets if target not in used]


def _bind(bind: EngineBind) -> list[dict[str, Any]]:
    """With what of it is protected: a mount point cannot be renamed, so each directory above one is a mount point, too."""
    # Docker can say no other flag than read-only, and says it to a runtime that would mount anew, and forget noexec.
    made = [_mount(bind.source, bind.target, read_only=not (bind.writable or bind.has_flags))]
    made += [_mount(f"{bind.source}/{path}", f"{bind.target}/{path}", read_only=False) for path in parents_of(bind.protected)]
    made += [_mount(f"{bind.source}/{path}", f"{bind.target}/{path}", read_only=True) for path in bind.protected]
    return made


def _mount(source: str, target: str, *, read_only: bool) -> dict[str, Any]:
    return {"Type": "bind", "Source": source, "Target": target, "ReadOnly": read_only, "BindOptions": {"Propagation": "rprivate"}}


def _tmpfs_options(each: Tmpfs) -> str:
    inodes = max(1024, each.size_bytes // 4096)
    how = "rw" if each.writable else "ro"
    return f"{how},nosuid,nodev,exec,size={each.size_bytes},nr_inodes={inodes},mode={each.mode:o},uid={each.uid},gid={each.gid}"


def _gpus(asked: str) -> list[dict[str, Any]]:
    """`--gpus` as `docker run` has it: all, a number, or ids."""
    if not asked:
        return []
    request: dict[str, Any] = {"Driver": "", "Capabilities": [["gpu"]]}
    if asked == "all":
        return [{**request, "Count": -1}]
    return [{**request, "Count": int(asked)}] if asked.isdecimal() else [{**request, "DeviceIDs": asked.split(",")}]
