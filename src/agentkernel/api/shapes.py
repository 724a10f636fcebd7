"""The bodies of requests. What a field may be is said here, for the reader of /openapi.json too; what is possible the kernel decides.

Sizes are mebibytes where the name says so, times are seconds. A field that does not exist is an error with the nearest name as hint.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from agentkernel.api.guards import SHOWN as SHOWN
from agentkernel.errors import InvalidInput, UnknownKey
from agentkernel.model.command import DEFAULT_OUTPUT_LIMIT_BYTES
from agentkernel.model.names import suggest
from agentkernel.units import MAX_DURATION_S

MAX_WORDS = 4096
MAX_RULES = 1024
MAX_PORTS = 256
OUTPUT_BYTES = 2 << 20  # of each stream, that an answer tells where its request does not say

Seconds = Annotated[float, Field(ge=0, le=MAX_DURATION_S, allow_inf_nan=False)]
Port = Annotated[int, Field(ge=1, le=65535)]
Side = Annotated[int, Field(ge=1, le=65535)]
Mode = Annotated[str, Field(pattern="^[0-7]{1,4}$", description="Permission bits, in octal.")]
Variables = Annotated[list[str], Field(max_length=MAX_WORDS, description="NAME=VALUE")]
Environment = Annotated[dict[str, str], Field(max_length=MAX_WORDS)] | Variables
Words = Annotated[list[str], Field(min_length=1, max_length=MAX_WORDS, description="Program and arguments; no shell.")]
Labels = Annotated[dict[str, str], Field(max_length=64)]
Profile = Literal["permissive", "moderate", "restrictive"]
Level = Literal["none", "process", "container", "user-kernel", "vm-emulated", "vm"]


class Body(BaseModel):
    """A JSON object whose fields are all known, and what they are declared to be: "1" is no number."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _known(cls, data: Any) -> Any:
        if isinstance(data, dict):
            for name in data:
                if name not in cls.model_fields:
                    shown = str(name)[:SHOWN]  # a body may be all one name
                    raise UnknownKey(f"the body has no field {shown!r}", hint=suggest(shown, cls.model_fields))
        return data


class SecretBody(Body):
    """A credential that the sandbox uses without seeing it: requests to these hosts get the value, the variable inside a placeholder."""

    name: str = Field(description="Variable inside that holds the placeholder.")
    value: str = Field(description="8 to 8192 printable characters; kept in memory alone.")
    hosts: list[str] = Field(min_length=1, max_length=16, description="host or host:port")
    path: str = Field("", description="Only this path and what is below it.")
    method: str = Field("", description="Only with this method.")
    header: str = Field("", description="Only in this header.")


class SandboxBody(Body):
    """A sandbox as asked for; what is left out is as the server's configuration and the profile say."""

    image: str | None = Field(None, description="Name of an image, such as python:3.13-slim; without it the host's own system, read-only.")
    pull: Literal["missing", "always", "never"] | None = Field(None, description="When the registry is asked for the image.")
    profile: Profile | None = Field(None, description="What the sandbox may do, as one word.")
    backend: str | None = Field(None, description="By name; without it the strongest that is ready.")
    min_isolation: Level | None = Field(None, description="Refuse backends that isolate less.")
    runtime: str | None = Field(None, description="Runtime of a container engine: runsc, kata, ...")
    gpus: str | None = Field(None, description="all, how many, or ids joined by commas.")
    vcpus: Annotated[float, Field(ge=0.01, le=4096, allow_inf_nan=False)] | None = Field(None, description="Processors, fractions too.")
    memory_mb: Annotated[int, Field(ge=1, le=2**30)] | None = Field(None, description="MiB")
    disk_mb: Annotated[int, Field(ge=1, le=2**30)] | None = Field(None, description="MiB; all of the sandbox's own writes together.")
    pids: Annotated[int, Field(ge=1, le=4_194_304)] | None = Field(None, description="Processes and threads at once.")
    storage: Literal["memory", "disk"] | None = Field(None, description="Where the sandbox's own writes go.")
    user: str | None = Field(None, description="root, user, or UID[:GID]")
    read_only: bool | None = Field(None, description="A root file system that cannot be written to.")
    network: bool | None = Field(None, description="False: none at all.")
    allow_hosts: list[str] | None = Field(None, max_length=MAX_RULES, description="example.com, *.example.com:8443, 10.0.0.0/8:22")
    deny_hosts: list[str] | None = Field(None, max_length=MAX_RULES, description="Likewise; a denial wins.")
    only_hosts: bool | None = Field(None, description="Nothing but `allow_hosts`.")
    transparent_network: bool | None = Field(None, description="Also for programs that know no proxy.")
    ports: list[Port | str] | None = Field(
        None, max_length=MAX_PORTS, description="Inside, published on the loopback of the server's own host alone: 80, or 8080:80."
    )
    env: Environment | None = Field(None, description="Of every command.")
    secrets: list[SecretBody] | None = Field(None, max_length=16)
    directory: str | None = Field(None, description="Of the server's host, at /workspace. For local callers and tokens with scope host.")
    mounts: list[str] | None = Field(None, max_length=MAX_PORTS, description="SOURCE:DESTINATION[:ro] of the server's host. Likewise.")


class CommandBody(Body):
    """A command and its surroundings."""

    command: Words
    env: Environment | None = Field(None, description="On top of the sandbox's.")
    workdir: str | None = Field(None, description="Absolute, inside; without it the workspace, or HOME.")
    timeout_s: Seconds | None = Field(None, description="From its start; then its whole process tree is killed. 0: never.")


class InputBody(CommandBody):
    """A command that is waited for."""

    stdin: str | None = Field(None, description="Its input, as text.")
    stdin_base64: str | None = Field(None, description="Its input, as bytes.")
    output_limit_bytes: Annotated[int, Field(ge=0, le=DEFAULT_OUTPUT_LIMIT_BYTES)] = Field(
        OUTPUT_BYTES, description="Of each stream; what is beyond it is dropped, and the answer says so."
    )

    @model_validator(mode="after")
    def _one_input(self) -> InputBody:
        if self.stdin is not None and self.stdin_base64 is not None:
            raise InvalidInput("stdin and stdin_base64 are two ways to say the same", hint="leave one of them out")
        return self


class UserBody(Body):
    """Who a command in a sandbox that is there already runs as."""

    user: str | None = Field(None, description="root, user, or UID[:GID]; without it the sandbox's user.")
    sudo: bool = Field(False, description="As root, inside.")


class ExecBody(InputBody, UserBody):
    """A command in a sandbox."""


class DetachBody(CommandBody, UserBody):
    """A command that goes on by itself."""


class SocketBody(CommandBody, UserBody):
    """The first message of a WebSocket: a command whose input comes in the messages after it."""

    rows: Side | None = Field(None, description="With `columns`: of a terminal.")
    columns: Side | None = None
    detached: bool = Field(False, description="It goes on when the WebSocket is gone.")

    @model_validator(mode="after")
    def _both(self) -> SocketBody:
        if (self.rows is None) != (self.columns is None):
            raise InvalidInput("a terminal has rows and columns", hint='for example: {"rows": 24, "columns": 80}')
        return self


class RunBody(InputBody, SandboxBody):
    """A command in a sandbox of its own."""

    fast: bool = Field(
        True, description="Accepted and without meaning: sandboxes are always fresh, and ready ones are used where there are."
    )


class BatchCommand(Body):
    """One of many."""

    command: Words


class BatchBody(SandboxBody):
    """Commands, each in a sandbox of its own."""

    commands: list[BatchCommand] = Field(min_length=1, max_length=256)
    timeout_s: Seconds | None = Field(None, description="Of each.")
    fast: bool = Field(True, description="As in POST /run.")


class CreateBody(SandboxBody):
    """A sandbox that lasts."""

    name: str | None = Field(None, description="1 to 63 letters, digits, hyphens and underscores; without it a random one.")
    labels: Labels | None = None
    ttl_s: Seconds | None = Field(None, description="Removed so long after its creation. 0: never.")
    idle_s: Seconds | None = Field(None, description="Stopped after so long without use. 0: never.")
    start: bool = Field(True, description="False: it is made, and nothing runs.")


class StartBody(Body):
    """What a start may need."""

    secrets: dict[str, str] = Field(
        default_factory=dict, max_length=16, description="Values of its secrets, by name, where the server has forgotten them."
    )


class PatchBody(Body):
    """What may be changed of a sandbox."""

    name: str | None = Field(None, description="Another name.")
    labels: Labels | None = Field(None, description="In place of all that it has.")


class ExtendBody(Body):
    """How much longer."""

    by: Seconds | str | None = Field(description="From now: seconds, or text such as 1h. null: for ever.")


class SignalBody(Body):
    """A signal."""

    signal: Annotated[int, Field(ge=1, le=64)] = Field(description="Its number: 2 interrupt, 9 kill, 15 terminate.")
    tree: bool = Field(True, description="Also to all that the command has started.")


class FileBody(Body):
    """A file's content."""

    content: str
    encoding: Literal["utf8", "base64"] = "utf8"
    mode: Mode = "644"


class FilesBody(Body):
    """Files by their absolute paths inside."""

    files: dict[str, str | FileBody] = Field(min_length=1, max_length=1024, description="A string is UTF-8.")


class MoveBody(Body):
    """Absolute paths inside."""

    source: str
    target: str


class MakeDirectoryBody(Body):
    """An absolute path inside."""

    path: str
    parents: bool = Field(False, description="Also those above it; one that is there is fine.")
    mode: Mode = "755"


class NetworkBody(Body):
    """Rules as they are typed: example.com, *.example.com:8443, 10.0.0.0/8:22."""

    allow: list[str] = Field(default_factory=list, max_length=256)
    deny: list[str] = Field(default_factory=list, max_length=256)
    remove: list[str] = Field(default_factory=list, max_length=256, description="Wherever they stand.")


class PortBody(Body):
    """A port to publish."""

    port: Port | str = Field(description="Inside; or all of it as text, such as 8080:80.")
    host_port: Annotated[int, Field(ge=0, le=65535)] = Field(0, description="On the loopback of the server's own host; 0: a free one.")


class PullBody(Body):
    """An image to fetch."""

    image: str = Field(description="python:3.13-slim, ghcr.io/owner/name:tag, ...")
    backend: str = Field("", description="The engine that is to keep it; without it agentkernel's own store.")
    platform: str = Field("", description="Such as linux/arm64; without it the host's.")
    wait: bool = Field(True, description="False: the answer is the id of the work.")


class PruneBody(Body):
    """Which images nobody needs."""

    unused_for_s: Seconds = Field(default=7 * 86400.0, description="No sandbox uses them, and nobody has for so long.")
    backend: str = ""


class CollectBody(Body):
    """What has expired and what belongs to no sandbox."""

    dry_run: bool = False
