"""What differs between engines: where they are, what they say of themselves, and how a container is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from agentkernel.model.isolation import IsolationLevel, Runtime

if TYPE_CHECKING:
    from agentkernel.abc_images import ImageKeeper
    from agentkernel.backends.containers.api import Api
    from agentkernel.backends.containers.plan import ContainerPlan
    from agentkernel.model.spec import SandboxSpec

LIMITS = ("memory", "pids", "cpu")
Momentary = Callable[[Mapping[str, Any]], AbstractAsyncContextManager[str]]  # see `host.Host.momentary`


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFacts:
    """One engine, as far as a sandbox depends on it."""

    version: str
    architecture: str  # as `uname -m` says it
    local: bool  # it runs containers on this kernel, whose processes and directories are those that we see
    rootless: bool = False  # its root is this user
    id_base: int = 0  # what the host adds to a container's ids
    agent_uid: int = 0  # the host's uid of a container's root, whose socket the agent's is
    open_socket: bool = False  # that is neither us nor the host's root, so the agent's socket has to be open to others
    caller_is_user: bool = False  # its containers' sandbox user is the caller outside, and their root somebody else
    sessions: bool = False  # where its containers share no socket, sessions carry streams: it ends standard input with the first client
    enforced: frozenset[str] = frozenset(LIMITS)  # which limits containers have by cgroup
    runtimes: tuple[Runtime, ...] = ()
    level: IsolationLevel = IsolationLevel.CONTAINER  # of its own default runtime
    seccomp: bool = True
    gpus: bool = False
    open_files: int | None = None  # the most that a container's hard limit may be; None: not known
    lacks: Mapping[str, str] = field(default_factory=dict)  # feature -> why, for what the dialect knows to be missing
    details: Mapping[str, str] = field(default_factory=dict)


class Dialect(Protocol):
    """One kind of engine."""

    name: str  # of the backend
    title: str  # for messages

    @property
    def api(self) -> Api:
        """The engine, always the same object; its first call finds out whether there is one."""
        ...

    async def facts(self) -> EngineFacts:
        """Asks it; raises BackendUnavailable for one that cannot run sandboxes at all."""
        ...

    async def create(self, plan: ContainerPlan, spec: SandboxSpec, facts: EngineFacts, binds: Sequence[EngineBind]) -> None:
        """Creates the container under the plan's name, not started; raises EngineRefused."""
        ...

    def mounter(self, facts: EngineFacts) -> tuple[str, ...] | None:
        """The argv before the program `_hostmounts`, which runs where the engine's containers get their mounts from; None: this process
        may mount nothing there."""
        ...

    def exchanges_owners(self, facts: EngineFacts) -> bool:
        """Whether mounts can be made whose files belong to the sandbox's user inside and to their owner outside, by an id map; where not,
        the engine maps the sandbox's user to the caller itself, or the workload runs as the caller (`sandbox_user`)."""
        ...

    def keeper(self, data_directory: str, momentary: Momentary) -> ImageKeeper:
        """The engine's images; `data_directory` is agentkernel's own, `momentary` makes containers to look into. It costs nothing."""
        ...

    def close(self) -> None:
        """Lets go of what the dialect has started or opened."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineBind:
    """A directory or file of the host that the engine binds, with everything mounted in it."""

    source: str
    target: str
    writable: bool
    executable: bool = True
    has_flags: bool = False  # it is mounted so already: an engine that leaves flags alone sets none
    protected: tuple[str, ...] = ()  # relative; bound again read-only by the engine, for it is not mounted so
