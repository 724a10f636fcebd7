"""What is answered about the engine, images and the server itself; see `shapes_answers`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from agentkernel.api.shapes import Level
from agentkernel.api.shapes_answers import Answer


class Event(Answer):
    """A line of the audit trail."""

    event_id: int
    at: float
    kind: str
    principal: str
    sandbox_id: str
    sandbox: str
    backend: str
    isolation: str
    outcome: str
    exec_id: str
    details: dict[str, str]


class Trail(Answer):
    """A page."""

    events: list[Event]
    next_after: int | None = Field(description="Ask for `after` this, while more may be there.")


class Image(Answer):
    """An image."""

    reference: str
    digest: str
    backend: str = Field(description="The engine that keeps it; empty: agentkernel's own store.")
    platform: str
    size_bytes: int
    obtained_at: float | None
    used_at: float | None


class ImageJob(Answer):
    """Work on an image, and where it stands."""

    id: str
    stage: Literal["resolving", "downloading", "unpacking", "building", "done", "failed"]
    item: str
    done_bytes: int
    total_bytes: int
    image: Image | None
    error: str
    code: str
    hint: str


class Backend(Answer):
    """A way to isolate."""

    name: str
    ready: bool
    isolation: Level
    reason: str = Field(description="Why it is not ready; like `remedy` and `details` empty for who may not know what is on the host.")
    remedy: str
    runtimes: list[dict[str, str]]
    features: dict[str, dict[str, str]] = Field(description="For each `support`: native, emulated or refused.")
    details: dict[str, str] = Field(description="What it found on the host.")


class Backends(Answer):
    """In the order of the choice."""

    default_backend: str | None = Field(description="The first that is ready.")
    backends: list[Backend]


class Agent(Answer):
    """A coding agent, and whether the server's host has it."""

    id: str
    name: str
    aliases: list[str]
    command: str
    installed: bool
    api_key: str
    api_key_set: bool | None = Field(None, description="For callers on the server's machine, and tokens with the scope host.")
    status: Literal["ready", "api key missing", "installed", "not installed"] = Field(description="`installed`: the rest is not told.")
    install: str


class Status(Answer):
    """The engine at a glance."""

    running: Literal[True]
    version: str
    pid: int
    started_at: float
    sandboxes: int
    sandboxes_running: int
    clients: int
    busy: int
    queued: int
    rss_bytes: int
    pools: list[dict[str, Any]]


class Version(Answer):
    """Which server it is."""

    version: str
