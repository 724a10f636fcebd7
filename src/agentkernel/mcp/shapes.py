"""What the tools answer with, beside text for reading: their output schemas are made of these classes. Times are Unix seconds."""

from __future__ import annotations

import stat
from typing import Literal

from pydantic import BaseModel, ConfigDict

from agentkernel.model.command import Cause, ExitStatus
from agentkernel.model.inspection import FileRecord, ProcessRecord
from agentkernel.model.network import EgressRules, PublishedPort
from agentkernel.model.record import SandboxInfo
from agentkernel.text.records import exec_text

_KINDS = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "symlink"}


class Shape(BaseModel):
    """An answer; keys are never left out."""

    model_config = ConfigDict(frozen=True)


class Done(Shape):
    """Something was done."""

    name: str
    done: str


class Port(Shape):
    """A port inside that the host's loopback leads to."""

    port: int
    host_address: str
    host_port: int


class Sandbox(Shape):
    """One sandbox."""

    id: str
    name: str
    status: str
    backend: str
    isolation: str
    image: str
    profile: str
    network: str
    labels: dict[str, str]
    created_at: float
    started_at: float | None
    expires_at: float | None
    idle_s: float | None
    reason: str
    ports: list[Port]
    notices: list[str]


class Sandboxes(Shape):
    """All of them, by id."""

    sandboxes: list[Sandbox]


class Finished(Shape):
    """A command that ended. Each output is whole, or its beginning and end with a line between them that says how much is left out."""

    stdout: str
    stderr: str
    exit_code: int
    signal: int | None
    timed_out: bool
    truncated: bool
    stdout_bytes: int
    stderr_bytes: int
    duration_ms: float
    limits_hit: list[str]
    backend: str
    isolation: str
    notices: list[str]


class Started(Shape):
    """A background command that was started."""

    name: str
    id: str
    pid: int


class BackgroundCommand(Shape):
    """A background command as it is now; `exit_code` is null while it runs, and when its end is no longer known."""

    id: str
    pid: int
    running: bool
    started_at: float
    command: list[str]
    exit_code: int | None
    cause: str | None


class BackgroundCommands(Shape):
    """Those of one sandbox."""

    name: str
    commands: list[BackgroundCommand]


class Logs(Shape):
    """What a background command has printed so far, within a bound."""

    id: str
    output: str
    bytes: int
    truncated: bool


class FileContent(Shape):
    """A file, or a piece of one. An image is in `content` of the answer itself, as an image, and here `content` is empty."""

    path: str
    size_bytes: int
    offset: int
    bytes: int
    encoding: Literal["utf8", "base64", "image"]
    mime_type: str
    content: str
    truncated: bool
    next_offset: int | None


class Written(Shape):
    """Files that were written."""

    name: str
    files: list[str]
    bytes: int


class File(Shape):
    """One directory entry."""

    name: str
    kind: str
    size_bytes: int
    mode: str
    modified_at: float
    target: str | None


class Directory(Shape):
    """What a directory holds; `more` says how many entries are left out."""

    path: str
    entries: list[File]
    more: int


class Network(Shape):
    """Who a sandbox may talk to: what no rule is about is as `default` says, and a denial wins."""

    name: str
    default: str
    allow: list[str]
    deny: list[str]


class Ports(Shape):
    """What is published of a sandbox."""

    name: str
    ports: list[Port]


def sandbox_of(info: SandboxInfo) -> Sandbox:
    """A sandbox as tools show it."""
    return Sandbox(
        id=info.sandbox_id,
        name=info.name,
        status=info.status.value,
        backend=info.backend,
        isolation=info.isolation.label,
        image=info.image,
        profile=info.profile,
        network=info.network.value,
        labels=dict(info.labels),
        created_at=info.created_at,
        started_at=info.started_at,
        expires_at=info.expires_at,
        idle_s=info.idle_s,
        reason=info.reason,
        ports=list(map(port_of, info.ports)),
        notices=[notice.message for notice in info.notices],
    )


def port_of(port: PublishedPort) -> Port:
    """A published port."""
    return Port(port=port.port, host_address=port.host_address, host_port=port.host_port)


def network_of(name: str, rules: EgressRules) -> Network:
    """Rules as they are typed."""
    allow = [*map(str, rules.allow), *map(str, rules.private)]
    return Network(name=name, default=rules.base.value, allow=allow, deny=list(map(str, rules.deny)))


def file_of(record: FileRecord) -> File:
    """A directory entry; a name that is no UTF-8 is shown with replacement characters."""
    return File(
        name=record.name.decode("utf-8", "replace"),
        kind=_KINDS.get(stat.S_IFMT(record.mode), "other"),
        size_bytes=record.size_bytes,
        mode=f"{stat.S_IMODE(record.mode):04o}",
        modified_at=record.modified_ns / 1e9,
        target=record.target.decode("utf-8", "replace") if record.target else None,
    )


def background_of(record: ProcessRecord, ended: tuple[int, str] | None) -> BackgroundCommand:
    """A background command; `ended`: its exit code and cause."""
    return BackgroundCommand(
        id=exec_text(record.exec_id),
        pid=record.pid,
        running=record.running,
        started_at=record.started_unix_ms / 1e3,
        command=[word.decode("utf-8", "replace") for word in record.argv],
        exit_code=ended[0] if ended else None,
        cause=ended[1] if ended else None,
    )


def timed_out(status: ExitStatus) -> bool:
    """Whether its time was up."""
    return status.cause is Cause.TIMEOUT
