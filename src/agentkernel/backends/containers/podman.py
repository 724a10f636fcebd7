"""Podman: rootful as root, rootless as anybody else, by its own interface. Implements `dialect.Dialect`."""

from __future__ import annotations

import hashlib
import ipaddress
import json
import os
import platform
import resource
import shlex
import socket
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from agentkernel.backends._presence import find_program
from agentkernel.backends._records import read_file
from agentkernel.backends.containers.api import Api
from agentkernel.backends.containers.backend import ContainersBackend
from agentkernel.backends.containers.contexts import podman_endpoint
from agentkernel.backends.containers.dialect import LIMITS, EngineBind, EngineFacts, Momentary
from agentkernel.backends.containers.endpoint import Endpoint
from agentkernel.backends.containers.image_calls import SILENCE_S, ImageCalls, Lines
from agentkernel.backends.containers.keeper import EngineImages
from agentkernel.backends.containers.ledger import Ledger
from agentkernel.backends.containers.plan import AGENT_FILES, ContainerPlan
from agentkernel.backends.containers.podman_makers import Makers
from agentkernel.backends.containers.podman_plan import IdMap, Way, caller_as, specification
from agentkernel.backends.containers.podman_service import PodmanService
from agentkernel.backends.containers.profile import profile
from agentkernel.backends.containers.runtimes import level_of, runtimes_of
from agentkernel.config.directories import data_directory, runtime_directory
from agentkernel.errors import BackendUnavailable
from agentkernel.model.isolation import IsolationLevel
from agentkernel.model.spec import SandboxSpec

# The names under which Podman knows runtimes (containers.conf(5), engine.runtimes), and their programs.
_PROGRAMS = {"crun": "crun", "runc": "runc", "runsc": "runsc", "kata": "kata-runtime", "krun": "krun", "youki": "youki"}
_CDI_DIRECTORIES = ("/etc/cdi", "/var/run/cdi")
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
_KVM = "/dev/kvm"  # runtimes with a kernel of their own need it
_PROCESSES = 65_536
_PROBE_S = 30.0
_PYTHON = sys.executable
_USER = 1000
_NO_IDS = "this user has no subordinate ids, so a container would have one id for agent and workload"
_NO_IDS_HINT = "as root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 NAME; then: podman system migrate"
_HERE = ("-u", "CONTAINER_HOST", "-u", "CONTAINER_CONNECTION")  # with one of them Podman's command line is a client, which unshares nothing


class PodmanDialect:
    """See `dialect.Dialect`. `data` overrides where this user's files are (tests)."""

    name = "podman"
    title = "Podman"

    def __init__(self, environment: Mapping[str, str] | None = None, *, data: Path | None = None) -> None:
        self._environment = os.environ if environment is None else environment
        self._files = (data or Path(data_directory(self._environment, os.geteuid()))) / "podman-files"
        self.api = Api(self._endpoint, self.title)
        self._makers = Makers(self.api, self._own_service, self.title)
        self._default_runtime = ""
        self._shares = False  # a service of ours has the same containers, so this host's runtimes are that Podman's

    def _endpoint(self) -> Endpoint:
        """Where it is served, else a service of our own."""
        served = podman_endpoint(self._environment, os.geteuid())
        if served is not None:
            return served
        return self._own_service()

    def _own_service(self, runtime: str = "") -> PodmanService:
        """Raises BackendUnavailable where there is no Podman that could serve."""
        program = find_program("podman")
        if not program:
            raise BackendUnavailable("Podman is not installed", hint="see https://podman.io/docs/installation")
        if sys.platform != "linux":
            raise BackendUnavailable("no Podman machine is running", hint="run `podman machine start`")
        own = Path(runtime_directory(self._environment, os.geteuid())) / "podman"
        return PodmanService(program, own, self._environment, runtime)

    async def facts(self) -> EngineFacts:
        """See `Dialect.facts`: what `podman info` says."""
        found = await self.api.call("GET", "/libpod/info", deadline_s=_PROBE_S)
        host, security = _section(found, "host"), _section(_section(found, "host"), "security")
        rootless = security.get("rootless") is True
        if rootless and sum(count for _, count in _ranges(_section(host, "idMappings").get("uidmap"))) < 2:
            raise BackendUnavailable(_NO_IDS, hint=_NO_IDS_HINT)
        runtime = str(_section(host, "ociRuntime").get("name") or "")
        self._default_runtime = runtime
        here = host.get("kernel") == platform.release() and host.get("hostname") == socket.gethostname()
        local = here and self.api.endpoint.is_socket
        limits = _limits(host, rootless=rootless)
        usual, others = _usual_runtime(runtime), _runtimes_here(limits) - {runtime}
        wanted = others or level_of(runtime) is IsolationLevel.USER_KERNEL  # whose options are ours to give
        self._shares = here and bool(wanted) and await self._makers.share(found, usual if usual != runtime else "")
        machine = str(host.get("arch") or "")
        return EngineFacts(
            version=str(_section(found, "version").get("Version") or ""),
            architecture=_MACHINES.get(machine, machine),
            local=local,
            rootless=rootless,
            agent_uid=_agent_uid(host) if rootless else 0,
            open_socket=rootless,
            caller_is_user=rootless,
            sessions=True,
            enforced=limits,
            runtimes=runtimes_of(({usual, *others} if self._shares else {runtime}) - {""}),
            level=level_of(runtime),
            seccomp=security.get("seccompEnabled") is True,
            gpus=_has_cdi_devices(),
            open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[1] if local else None,
            details={
                "rootless": str(rootless).lower(),
                "runtime": usual if self._shares else runtime,
                "cgroups": str(host.get("cgroupVersion")),
            },
        )

    async def create(self, plan: ContainerPlan, spec: SandboxSpec, facts: EngineFacts, binds: Sequence[EngineBind]) -> None:
        """See `Dialect.create`."""
        uid_map, gid_map = await self._id_maps(spec, facts)
        way = Way(
            seccomp_file=self._kept("seccomp", json.dumps(profile(spec.seccomp, facts.architecture)).encode()) if facts.seccomp else "",
            resolver_file=self._kept("resolv", f"nameserver {plan.resolver}\n".encode()) if plan.resolver else "",
            runtime=facts.details["runtime"],
            uid_map=uid_map,
            gid_map=gid_map,
            limits=facts.enforced,
            open_files=min(AGENT_FILES, facts.open_files or AGENT_FILES),
            processes=_most_processes(),
        )
        program = self._program_of(plan.runtime or way.runtime, plan) if self._shares else ""
        await self._makers.create("" if program == self._default_runtime else program, specification(plan, binds, way))

    def mounter(self, facts: EngineFacts) -> tuple[str, ...] | None:
        """See `Dialect.mounter`: rootless containers get their mounts from the namespaces of `podman unshare`."""
        if not facts.local:
            return None
        if facts.rootless:
            program = find_program("podman")
            return ("env", *_HERE, program, "unshare", _PYTHON) if program else None
        return (_PYTHON,) if os.geteuid() == 0 else None

    def exchanges_owners(self, facts: EngineFacts) -> bool:
        """See `Dialect.exchanges_owners`: a rootless container's id map makes the caller the sandbox's user."""
        return facts.local and not facts.rootless and os.geteuid() == 0

    def keeper(self, data_directory: str, momentary: Momentary) -> EngineImages:
        """See `Dialect.keeper`."""
        return EngineImages(PodmanImageCalls(self.api), self.name, Ledger(f"{data_directory}/images-of-{self.name}.json"), momentary)

    def close(self) -> None:
        """Ends the threads of its calls. A service of ours ends by idleness, since other engines of this user may use it."""
        self.api.close()
        self._makers.close()

    async def _id_maps(self, spec: SandboxSpec, facts: EngineFacts) -> tuple[tuple[IdMap, ...], tuple[IdMap, ...]]:
        """Of a rootless engine; none elsewhere."""
        if not facts.rootless:
            return (), ()
        maps = _section(_section(await self.api.call("GET", "/libpod/info"), "host"), "idMappings")
        uids, gids = (_ranges(maps.get(name)) for name in ("uidmap", "gidmap"))
        # A workload that is root is not the caller: it shall not get to the directory that the agent listens in, which is the caller's.
        return caller_as(spec.user.uid or _USER, uids), caller_as(spec.user.gid or _USER, gids)

    def _program_of(self, runtime: str, plan: ContainerPlan) -> str:
        """gVisor by a script of ours, for Podman passes no options on: it must not make a network stack of its own in what is none."""
        if level_of(runtime) is not IsolationLevel.USER_KERNEL:
            return runtime
        network = "host" if plan.host_network else "none"
        content = f'#!/bin/sh\nexec {shlex.quote(find_program(runtime))} --network={network} "$@"\n'
        return self._kept(f"gvisor-{network}", content.encode(), mode=0o755)

    def _kept(self, kind: str, content: bytes, *, mode: int = 0o644) -> str:
        """A small file for Podman to read, named by its content: containers that are stopped need it again."""
        path = self._files / f"{kind}-{hashlib.sha256(content).hexdigest()[:16]}"
        if not path.exists():
            self._files.mkdir(mode=0o755, parents=True, exist_ok=True)
            temporary = path.with_name(f"{path.name}.{os.getpid()}")
            temporary.write_bytes(content)
            temporary.chmod(mode)
            temporary.replace(path)
        return str(path)


class PodmanBackend(ContainersBackend):
    """Podman: rootful as root, rootless as anybody else."""

    def __init__(self, state_directory: Path | None = None, environment: Mapping[str, str] | None = None) -> None:
        """`environment` says which engine, as `podman --remote` reads it; the default is this process's."""
        super().__init__(PodmanDialect(environment, data=state_directory / "data" if state_directory else None), state_directory)


class PodmanImageCalls(ImageCalls):
    """Podman's own way to pull: a registry on loopback may speak plain HTTP."""

    def pull(self, reference: str, platform: str, headers: Mapping[str, str]) -> Lines:
        """See `ImageCalls.pull`."""
        query: dict[str, object] = {"reference": reference, "policy": "always", "quiet": False}
        if _is_loopback(reference.partition("/")[0]):
            query["tlsVerify"] = False
        for name, value in zip(("OS", "Arch", "Variant"), platform.split("/") if platform else (), strict=False):
            query[name] = value
        return self._api.lines("POST", "/libpod/images/pull", query=query, headers=headers, silence_s=SILENCE_S)


def _is_loopback(registry: str) -> bool:
    """By its very address: any other name is resolved by somebody, who may say anything."""
    host = registry.rpartition(":")[0] if registry.rpartition(":")[2].isdecimal() else registry
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host[1:-1] if host.startswith("[") and host.endswith("]") else host).is_loopback
    except ValueError:
        return False


def _section(found: object, name: str) -> dict[str, Any]:
    section = found.get(name) if isinstance(found, dict) else None
    return section if isinstance(section, dict) else {}


def _ranges(found: object) -> tuple[tuple[int, int], ...]:
    lines = found if isinstance(found, list) else []
    return tuple((int(each["container_id"]), int(each["size"])) for each in lines) or ((0, 1),)


def _agent_uid(host: Mapping[str, Any]) -> int:
    """The host's uid of a rootless container's root: id 1 of the engine's user namespace (`caller_as`)."""
    for line in _section(host, "idMappings").get("uidmap") or ():
        first, count = int(line["container_id"]), int(line["size"])
        if first <= 1 < first + count:
            return int(line["host_id"]) + 1 - first
    return os.geteuid()


def _limits(host: Mapping[str, Any], *, rootless: bool) -> frozenset[str]:
    """Which limits Podman enforces: a plain user has them with cgroups of version 2 alone, and of these what is delegated."""
    if not rootless:
        return frozenset(LIMITS)
    if host.get("cgroupVersion") != "v2":
        return frozenset()
    return frozenset(LIMITS) & frozenset(map(str, host.get("cgroupControllers") or ()))


def _runtimes_here(limits: Collection[str]) -> set[str]:
    """That are installed, but for those that surely do not run here; `limits`: those that containers have by cgroup."""
    found = {name for name, program in _PROGRAMS.items() if find_program(program)}
    if _has_hybrid_cgroups():
        found.discard("crun")
    if not os.access(_KVM, os.R_OK | os.W_OK):
        found = {name for name in found if level_of(name) is not IsolationLevel.VM}
    if not limits:  # gVisor makes itself a cgroup, which it may not
        found = {name for name in found if level_of(name) is not IsolationLevel.USER_KERNEL}
    return found


def _usual_runtime(default: str) -> str:
    """What containers get that ask for none: Podman's default, but for crun where cgroups are of both versions, which it refuses."""
    return "runc" if default == "crun" and _has_hybrid_cgroups() and find_program("runc") else default


def _has_hybrid_cgroups() -> bool:
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return False
    kinds = {line.partition(" - ")[2].split(" ", 1)[0] for line in lines if " /sys/fs/cgroup" in line}
    return {"cgroup", "cgroup2"} <= kinds


def _has_cdi_devices() -> bool:
    return any(list(Path(directory).glob("*nvidia*")) for directory in _CDI_DIRECTORIES)


def _most_processes() -> int:
    """The most that RLIMIT_NPROC may be: Podman has lowered its own to the number of process ids that there are."""
    hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]
    ids = int(read_file("/proc/sys/kernel/pid_max") or _PROCESSES)
    return min(ids, _PROCESSES) if hard == resource.RLIM_INFINITY else min(hard, ids, _PROCESSES)
