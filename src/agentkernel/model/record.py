"""A sandbox as the store holds it and as users see it."""

from __future__ import annotations

from dataclasses import dataclass

from agentkernel.model.isolation import IsolationLevel
from agentkernel.model.network import PublishedPort
from agentkernel.model.request import Notice
from agentkernel.model.spec import NetworkMode, SandboxSpec
from agentkernel.model.status import Status

Labels = tuple[tuple[str, str], ...]  # sorted by key, keys unique


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxRecord:
    """A row of the store. Times are Unix seconds.

    `sandbox_id` is 16 hexadecimal digits, chosen before any effect; every external name (cgroup, directory, container, ...) is made of it,
    so whatever a crash leaves is found again by it.
    """

    sandbox_id: str
    name: str  # unique among the owner's sandboxes
    owner: str  # the principal
    status: Status
    backend: str
    isolation: IsolationLevel
    spec: SandboxSpec  # as granted; of an ephemeral one without what only building it needs
    created_at: float
    ephemeral: bool = False  # made for one command and removed after it
    exec_id: int = 0  # that command
    labels: Labels = ()
    started_at: float | None = None
    used_at: float = 0.0  # last exec, file operation or attach
    expires_at: float | None = None  # removed then
    idle_s: float | None = None  # stopped after so long without use
    reason: str = ""  # why it is not running, when that was nobody's wish
    request_key: str = ""  # of the request that made it: repeated, that request finds it
    published: tuple[PublishedPort, ...] = ()  # while it runs
    visited: bool = False  # it runs for visitors alone, and is stopped when the last of them has gone

    def info(self, status: Status | None = None, ports: tuple[PublishedPort, ...] = ()) -> SandboxInfo:
        """What users see of it; `ports` are those that are listened on."""
        return SandboxInfo(
            sandbox_id=self.sandbox_id,
            name=self.name,
            owner=self.owner,
            status=status or self.status,
            backend=self.backend,
            isolation=self.isolation,
            image=self.spec.root.label,
            profile=self.spec.profile,
            created_at=self.created_at,
            ephemeral=self.ephemeral,
            labels=self.labels,
            started_at=self.started_at,
            used_at=self.used_at,
            expires_at=self.expires_at,
            idle_s=self.idle_s,
            reason=self.reason,
            network=self.spec.network,
            ports=ports,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxInfo:
    """A sandbox as `list`, `info` and the SDK show it. Times are Unix seconds."""

    sandbox_id: str
    name: str
    owner: str
    status: Status
    backend: str
    isolation: IsolationLevel
    image: str
    profile: str
    created_at: float
    ephemeral: bool = False
    labels: Labels = ()
    started_at: float | None = None
    used_at: float = 0.0
    expires_at: float | None = None
    idle_s: float | None = None
    reason: str = ""
    network: NetworkMode = NetworkMode.NONE
    ports: tuple[PublishedPort, ...] = ()  # listened on now, by the port inside
    notices: tuple[Notice, ...] = ()  # what policy had to say; only in the answer to `create`


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateOptions:
    """What a lasting sandbox has beyond its request."""

    name: str | None = None  # None: a random one
    labels: Labels = ()
    ttl_s: float | None = None  # removed so long after its creation
    idle_s: float | None = None  # stopped after so long without use
    start: bool = False
    request_key: str = ""  # unique for this request: repeated after a cut, it makes nothing twice


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxFilter:
    """Which sandboxes to list; empty fields match all."""

    labels: Labels = ()
    statuses: tuple[Status, ...] = ()
    backend: str = ""
    after: str = ""  # sandbox ids greater than this one: the cursor of the page before
    limit: int = 100  # 1-1000
    ephemeral: bool = False  # also those of `run`


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One line of the audit trail and of the event stream. `event_id` grows; it is 0 before it is stored."""

    kind: str  # sandbox.created, sandbox.started, exec.started, exec.ended, ... (docs/audit.md)
    at: float  # Unix seconds
    principal: str
    event_id: int = 0
    sandbox_id: str = ""
    sandbox: str = ""  # its name then
    backend: str = ""
    isolation: str = ""
    outcome: str = "ok"  # or the error's code
    exec_id: int = 0
    details: tuple[tuple[str, str], ...] = ()  # argv, exit code, ... as text, secrets redacted


@dataclass(frozen=True, slots=True, kw_only=True)
class EventFilter:
    """Which events; empty fields match all."""

    after: int = 0  # event ids greater than this
    since: float = 0.0  # Unix seconds
    sandbox: str = ""  # id or name
    kinds: tuple[str, ...] = ()  # a kind, or a prefix that ends with a dot
    principal: str = ""
    limit: int = 100  # 1-1000


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolState:
    """One warm pool in `daemon status`."""

    backend: str
    image: str
    profile: str
    ready: int
    making: int
    minimum: int
    maximum: int
    hits: int
    misses: int
    reason: str = ""  # why the last sandbox for it could not be made


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelStatus:
    """The engine, or the daemon, at a glance."""

    version: str
    pid: int
    started_at: float
    sandboxes: int
    running: int
    clients: int = 0
    busy: int = 0  # operations under way
    queued: int = 0
    rss_bytes: int = 0
    pools: tuple[PoolState, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LogEntry:
    """A piece of a detached command's output as the engine recorded it."""

    at: float
    exec_id: int
    stream: int  # 1 stdout, 2 stderr
    data: bytes
    missing: int = 0  # bytes of the stream that were not recorded, here; then there is no data
