"""What is answered about sandboxes, their network and their files; see `shapes_answers`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from agentkernel.api.shapes import Level
from agentkernel.api.shapes_answers import Answer, Notice


class PublishedPort(Answer):
    """A port that is listened on."""

    port: int = Field(description="Inside.")
    host_address: str
    host_port: int


class Sandbox(Answer):
    """A sandbox. Times are Unix seconds."""

    id: str
    name: str
    owner: str
    status: Literal["creating", "stopped", "starting", "running", "stopping", "removing", "unavailable"]
    backend: str
    isolation: Level
    image: str
    profile: str
    ephemeral: bool
    labels: dict[str, str]
    created_at: float
    started_at: float | None
    used_at: float | None
    expires_at: float | None
    idle_s: float | None
    reason: str = Field(description="Why it does not run, when that was nobody's wish.")
    network: Literal["none", "filtered", "host"]
    ports: list[PublishedPort]


class Rules(Answer):
    """Who a sandbox may talk to; each rule as it is typed."""

    default: Literal["none", "public"] = Field(description="What is allowed where no rule says anything.")
    allow: list[str]
    deny: list[str]
    private: list[str]


class DescribedSandbox(Sandbox):
    """A sandbox with its limits and rules."""

    vcpus: float | None = Field(description="null: no limit.")
    memory_mb: int | None
    disk_mb: int
    pids: int | None
    rules: Rules | None = Field(description="Where its network is filtered.")


class CreatedSandbox(DescribedSandbox):
    """A sandbox that was made just now."""

    notices: list[Notice]


class File(Answer):
    """A file's content."""

    content: str
    encoding: Literal["utf8", "base64"]
    size: int


class Written(Answer):
    """How many files."""

    written: int


class Uploaded(Answer):
    """A file that was written."""

    path: str
    bytes: int


class Unpacked(Answer):
    """What an archive came to."""

    path: str
    files: int
    directories: int
    symlinks: int
    bytes: int
    skipped: list[str] = Field(description="Devices and FIFOs; the first 100.")
    outward: list[str] = Field(description="Symlinks that lead out of the directory; the first 100.")


class Entry(Answer):
    """A file, directory, symlink, ..."""

    name: str
    type: str
    mode: int
    size_bytes: int
    modified_at: float
    uid: int
    gid: int
    links: int
    target: str


class Decision(Answer):
    """An attempt to reach something."""

    at: float
    verdict: Literal["allowed", "denied", "failed"]
    protocol: str
    host: str
    port: int | None
    address: str
    rule: str
    reason: str


class Attempts(Answer):
    """A page."""

    attempts: list[Decision]
    next_after: int | None = Field(description="Ask for `after` this, while more may be there.")
