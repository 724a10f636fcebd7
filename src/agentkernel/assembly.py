"""The wiring: the only module that names concrete classes. Everything is imported when it is first used."""

from __future__ import annotations

import os
import sys
from collections.abc import Awaitable, Callable, Mapping
from functools import cache, partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from agentkernel import __version__
from agentkernel.errors import BackendUnavailable, InvalidInput, UnknownKey

if TYPE_CHECKING:
    from asyncio import StreamReader, StreamWriter

    from agentkernel.abc import Backend, Caller, Host, Kernel
    from agentkernel.client.calls import Calls
    from agentkernel.model.isolation import Presence


class Row(NamedTuple):
    """A backend: its class, and the function that tells whether the host has what it needs, so that what is not here is never loaded."""

    target: str
    presence: str


# What takes part in the choice, strongest first. Backends of other packages (entry points of the group below) are used when they are asked
# for by name.
BACKENDS: dict[str, Row] = {
    "apple": Row("agentkernel.backends.containers.apple.backend:AppleBackend", "agentkernel.backends._presence:apple"),
    "gvisor": Row("agentkernel.backends.gvisor.backend:GvisorBackend", "agentkernel.backends._presence:gvisor"),
    "namespaces": Row("agentkernel.backends.namespaces.backend:NamespacesBackend", "agentkernel.backends._presence:linux"),
    "docker": Row("agentkernel.backends.containers.backend:DockerBackend", "agentkernel.backends._presence:docker"),
    "podman": Row("agentkernel.backends.containers.podman:PodmanBackend", "agentkernel.backends._presence:podman"),
}
# Isolates nothing: never chosen, never listed, loaded only for a caller of `build_engine` that names it.
TEST_BACKENDS: dict[str, str] = {
    "memory": "agentkernel.backends.memory.backend:MemoryBackend",
}
ENTRY_POINTS = "agentkernel.backends"
DOOR_PATIENCE_S = 10.0


def build_engine(environment: Mapping[str, str], *, backends: tuple[str, ...] | None = None) -> Kernel:
    """The engine in this process, for the user whose environment this is; `backends` names the ones to use in place of all.

    Its sandboxes end with it.
    """
    stored = import_module("pathlib").Path(_directories().store_directory(environment, os.geteuid()))
    parts = _parts(
        environment,
        backends,
        open_store=_late("agentkernel.store.memory:MemoryStore"),
        images_stored=lambda: _load("agentkernel.store.needed:images_needed")(stored),
    )
    return cast("Kernel", _load("agentkernel.engine.engine:Engine")(parts))


def build_host(environment: Mapping[str, str], *, backends: tuple[str, ...] | None = None, **more: Any) -> Host:
    """The engine over the user's durable store, which it holds until it is closed. `more`: further fields of `engine.parts.Parts`.

    Raises:
        Conflict: another process has the store.
        StoreFailed: it cannot be opened.
    """
    path = import_module("pathlib").Path(_directories().store_directory(environment, os.geteuid()))
    store = _load("agentkernel.store.sqlite:SqliteStore")(path)
    parts = _parts(environment, backends, open_store=lambda: store, **more)
    return cast("Host", _load("agentkernel.engine.host:HostEngine")(parts))


def pool_settings(environment: Mapping[str, str]) -> Any:
    """What the user's and the operator's files say about warm pools, as `engine.parts.Parts` takes it; None: there are to be none.

    Raises:
        InvalidInput, UnknownKey: a file is wrong, or its numbers make no pool.
    """
    settings = _load("agentkernel.config.load:users_settings")(cwd="/", environment=_only_places(environment), flags={})
    if not settings.get("pool.enabled"):
        return None
    found = {name: settings.get(f"pool.{name}") for name in ("minimum", "maximum", "age", "idle")}
    if found["maximum"] < found["minimum"] or not (found["age"] and found["idle"]):
        raise InvalidInput("no pool can be kept as [pool] says", hint="maximum is at least minimum, age and idle are above zero")
    return _load("agentkernel.engine.reserve:PoolSettings")(
        minimum=found["minimum"], maximum=found["maximum"], age_s=found["age"], idle_s=found["idle"]
    )


def idle_exit_s(environment: Mapping[str, str]) -> float:
    """After how many seconds without client and sandbox the user's daemon ends; 0: never. Raises what `pool_settings` raises."""
    settings = _load("agentkernel.config.load:users_settings")(cwd="/", environment=_only_places(environment), flags={})
    return float(settings.get("idle_exit"))


def image_limits(environment: Mapping[str, str]) -> Any:
    """What the user's and the operator's files say about slow work on images. Raises what `pool_settings` raises."""
    settings = _load("agentkernel.config.load:users_settings")(cwd="/", environment=_only_places(environment), flags={})
    return _load("agentkernel.model.image:ImageLimits")(
        work_s=settings.get("images.timeout"), least_bytes_per_s=settings.get("images.least_rate")
    )


def _only_places(environment: Mapping[str, str]) -> dict[str, str]:
    """What says where the files are: a daemon serves callers with other environments than that of the one who started it."""
    return {name: value for name, value in environment.items() if not name.startswith("AGENTKERNEL_")}


def _parts(environment: Mapping[str, str], backends: tuple[str, ...] | None, **more: Any) -> Any:
    parts = import_module("agentkernel.engine.parts")
    home = cast(Callable[[Mapping[str, str]], str], _load("agentkernel.config.places:home_of"))(environment)
    return parts.Parts(
        backends=Backends(backends),
        images=_image_parts(parts, environment, home),
        environment=environment,
        home=home,
        uid=os.getuid(),
        cache_directory=_cache_directory(environment, home),
        standing=standing,
        data_directory=_directories().data_directory(environment, os.geteuid()),
        runtime_directory=_directories().runtime_directory(environment, os.geteuid()),
        egress=lambda: _egress(environment),
        own_addresses=lambda: _load("agentkernel.egress.own:OwnAddresses")()(),
        make_authority=_late("agentkernel.egress.authority:make_authority"),
        **more,
    )


def _egress(environment: Mapping[str, str]) -> Any:
    """The gate to the egress proxy, which goes through the company's own if the user's or the operator's files name one."""
    settings = _load("agentkernel.config.load:users_settings")(cwd="/", environment=_only_places(environment), flags={})
    return _load("agentkernel.egress.gate:EgressGate")(settings.get("network.upstream_proxy"))


def _directories() -> Any:
    return import_module("agentkernel.config.directories")


def build_client(environment: Mapping[str, str], caller: Caller | None = None) -> Kernel:
    """The kernel behind the daemon of the user whose environment this is; a daemon is started when the first call finds none.

    With a `caller` everything that goes through it may do what that one may, and no more; pass the same one to its methods. Raises
    InvalidInput for one whose scopes or token cannot be.
    """
    return cast("Kernel", _load("agentkernel.client.remote:RemoteKernel")(environment, caller))


async def open_door(environment: Mapping[str, str], caller: Caller) -> tuple[StreamReader, StreamWriter]:
    """The byte stream of a client of that daemon, for whom it is passed on to: HELLO comes next, and what follows may do what `caller` may.

    Whoever is at its other end makes the requests, so nobody vouches for them; and may be cut off and come back: commands wait for that for
    `DOOR_PATIENCE_S`.

    Raises:
        DaemonUnavailable: none answers and none can be started.
    """
    caller = import_module("dataclasses").replace(caller, vouched=False)
    sock = await _load("agentkernel.client.connection:Daemon")(environment, caller, patience_s=DOOR_PATIENCE_S).connect()
    try:
        opened = await import_module("asyncio").open_unix_connection(sock=sock)
    except BaseException:
        sock.close()
        raise
    return cast("tuple[StreamReader, StreamWriter]", opened)


def build_calls(environment: Mapping[str, str], *, starts: bool = True) -> Calls:
    """Plain calls to that daemon, without an event loop; `starts`: one is started where none answers."""
    return cast("Calls", _load("agentkernel.client.calls:Calls")(environment, starts=starts))


class Backends:
    """Implements `engine.parts.BackendSource` over the tables and the installed entry points."""

    def __init__(self, only: tuple[str, ...] | None = None) -> None:
        self._only = only

    def names(self) -> tuple[str, ...]:
        """Those that take part in the choice."""
        return tuple(BACKENDS) if self._only is None else self._only

    def all_names(self) -> tuple[str, ...]:
        """Those and the ones that other packages add; reading their metadata takes 30 ms."""
        if self._only is not None:
            return self._only
        return (*BACKENDS, *sorted(self._third_party().keys() - BACKENDS.keys() - TEST_BACKENDS.keys()))

    def load(self, name: str) -> Backend:
        """Imports and makes a backend; see `engine.parts.BackendSource.load`."""
        row = BACKENDS.get(name)
        target = row.target if row is not None else "" if self._only is None else TEST_BACKENDS.get(name, "")
        target = target or self._third_party().get(name, "")
        if not target:
            raise UnknownKey(f"there is no backend {name!r}", hint=f"backends of this installation: {', '.join(self.all_names())}")
        try:
            return cast("Backend", _load(target)())
        except ImportError as error:
            hint = f"it needs more than this {sys.platform} has"
            raise BackendUnavailable(f"backend {name!r} cannot be loaded: {error}", hint=hint) from error

    def presence(self, name: str) -> Presence:
        """What the host shows of it; of a backend that is not in the table, that it may be here."""
        row = BACKENDS.get(name)
        found: Presence = _load(row.presence)() if row is not None else _load("agentkernel.model.isolation:Presence")(identity="installed")
        return found

    def _third_party(self) -> dict[str, str]:
        metadata = import_module("importlib.metadata")
        return {point.name: point.value for point in metadata.entry_points(group=ENTRY_POINTS)}


def guest_path() -> str:
    """Where the guest binary is; raises BackendUnavailable when there is none."""
    return str(_load("agentkernel.backends._guest:guest_binary")())


def standing() -> str:
    """What the result of a probe depends on, as text: boot, kernel, user and rights, version, guest binary, cgroup and namespaces."""
    groups = sorted(os.getgroups())  # which decide who may talk to an engine
    facts = [os.uname().release, str(os.getresuid()), str(os.getresgid()), str(groups), __version__, _guest_identity()]
    for path in ("/proc/sys/kernel/random/boot_id", "/proc/self/cgroup", "/proc/self/uid_map"):
        try:
            with open(path) as file:
                facts.append(file.read().strip())
        except OSError:
            facts.append("")
    for namespace in ("user", "mnt", "pid", "net"):
        try:
            facts.append(os.readlink(f"/proc/self/ns/{namespace}"))
        except OSError:
            facts.append("")
    return "|".join(facts)


def _guest_identity() -> str:
    """Which guest binary this is: as good as its digest for a cache, without reading 300 KiB at every start."""
    try:
        path = _load("agentkernel.backends._guest:guest_binary")()
    except BackendUnavailable:
        return "no guest"
    status = path.stat()
    return f"{path}:{status.st_dev}:{status.st_ino}:{status.st_size}:{status.st_mtime_ns}"


def _image_parts(parts: Any, environment: Mapping[str, str], home: str) -> Any:
    return parts.ImageParts(
        host_root=_late("agentkernel.images.hostroot:discover"),
        is_project=_late("agentkernel.images.detect:is_project_directory"),
        image_for=_late("agentkernel.images.detect:detect_image"),
        certificates=_late("agentkernel.images.hostetc:certificates"),
        unpack_argv=_late("agentkernel.images.unpack:program_arguments"),
        canonical=_late("agentkernel.images.reference:canonical"),
        image_of_language=_late("agentkernel.images.detect:image_of_language"),
        default_image=_late("agentkernel.images.detect:default_image"),
        library=lambda directory, **more: _library(directory, lambda: image_limits(environment), **more),
        logins=_logins(environment, home),
        build=_late("agentkernel.images.build:build"),
        limits=lambda: image_limits(environment),
    )


def _library(directory: str, limits: Callable[[], Any], **more: Any) -> Any:
    """Agentkernel's own store of images; its registry client is imported with the first request to one."""

    def registry(*found: Any) -> Any:
        return _load("agentkernel.images.registry:Registry")(*found, limits().least_bytes_per_s)

    return _load("agentkernel.images.library:Library")(directory, registry=registry, **more)


def _logins(environment: Mapping[str, str], home: str) -> Callable[[str], Awaitable[tuple[str, str, str] | None]]:
    async def login(reference: str) -> tuple[str, str, str] | None:
        parsed = _load("agentkernel.images.reference:parse")(reference)
        found = await _load("agentkernel.images.credentials:Credentials")(environment, home).login_for(parsed)
        return None if found is None else (found.username, found.password, found.identity_token)

    return login


def _cache_directory(environment: Mapping[str, str], home: str) -> str:
    base = environment.get("XDG_CACHE_HOME", "")
    return f"{base if base.startswith('/') else home + '/.cache'}/agentkernel"


def _late(target: str) -> Callable[..., Any]:
    """A function that imports `target` when it is first called."""
    found = cache(partial(_load, target))

    def call(*arguments: Any, **named: Any) -> Any:
        return found()(*arguments, **named)

    return call


def _load(target: str) -> Any:
    """Imports `module:name`."""
    module, _, name = target.partition(":")
    return getattr(import_module(module), name)
