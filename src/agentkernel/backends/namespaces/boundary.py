"""A launched sandbox of this backend: how to reach its agent, how it dies, what limited it, how it is removed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
from dataclasses import dataclass

from agentkernel.backends.namespaces.cgroups import Cgroups
from agentkernel.backends.namespaces.disk import remove_data
from agentkernel.backends.namespaces.launch import Launched, kill_and_reap, readable
from agentkernel.backends.namespaces.process_level import kill_descendants
from agentkernel.backends.namespaces.ranges import release_range
from agentkernel.backends.namespaces.state import SandboxState, StateRoot
from agentkernel.backends.namespaces.watch import LimitWatch
from agentkernel.errors import SandboxLost, Unsupported
from agentkernel.model.command import LimitHit
from agentkernel.model.spec import SandboxSpec

BACKEND = "namespaces"


@dataclass(slots=True, kw_only=True)
class Holdings:
    """Everything on the host that belongs to one sandbox; each part may still be missing while it is being built."""

    root: StateRoot
    state: SandboxState
    cgroups: Cgroups | None = None
    id_base: int | None = None
    listener: socket.socket | None = None
    launched: Launched | None = None
    watch: LimitWatch | None = None
    process_level: bool = False

    async def release(self) -> None:
        """Removes whatever there is, in an order that a crash may cut anywhere: processes, groups, files, ids, the directory itself."""
        if self.watch is not None:
            await self.watch.stop()
        if self.listener is not None:
            self.listener.close()
            self.listener = None
        if self.launched is not None:
            launched, self.launched = self.launched, None
            if self.process_level:
                kill_descendants(launched.pid)
            await kill_and_reap(launched.pidfd)
        if self.cgroups is not None:
            await self.cgroups.remove()
            self.cgroups = None
        if self.state.data is not None:
            await remove_data(self.state.data, self.id_base)
        if self.id_base is not None:
            release_range(self.root.ranges, self.id_base)
            self.id_base = None
        self.state.release()


class NamespacesBoundary:
    """Implements `channel.boundary.Boundary`."""

    backend = BACKEND

    def __init__(self, spec: SandboxSpec, holdings: Holdings, seccomp: bytes) -> None:
        self.spec = spec
        self.seccomp = seccomp
        self.rlimits = workload_limits(spec, pids_by_group=bool(holdings.cgroups and holdings.cgroups.limits("pids")))
        self._holdings = holdings
        self._destroyed = False

    @property
    def sandbox_id(self) -> str:
        """By which everything of it is found on the host."""
        return self._holdings.state.sandbox_id

    @property
    def pid(self) -> int:
        """The first process, as the host sees it; 0 once destroyed."""
        return self._holdings.launched.pid if self._holdings.launched else 0

    async def connect(self) -> socket.socket:
        """Opens one attach: a connection to the socket that we made in a directory that is ours."""
        if self._destroyed:
            raise SandboxLost("the sandbox was destroyed")
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            connection.connect(str(self._holdings.state.socket_path))
        except BaseException:
            connection.close()
            raise
        return connection

    async def wait_dead(self) -> str:
        """Waits until the first process ends, and says how."""
        launched = self._holdings.launched
        if launched is None:
            return "the sandbox was destroyed"
        watched = os.dup(launched.pidfd)  # the original is closed by destroy
        try:
            await readable(watched)
        finally:
            os.close(watched)
        if self._destroyed:
            return "the sandbox was destroyed"
        with contextlib.suppress(ChildProcessError, AttributeError):
            result = os.waitid(os.P_PIDFD, launched.pidfd, os.WEXITED | os.WNOWAIT | os.WNOHANG)
            if result is not None:
                how = "ended with" if result.si_code == os.CLD_EXITED else "was killed by signal"
                return f"its first process {how} {result.si_status}"
        return "its first process ended"

    async def limits_hit(self) -> tuple[LimitHit, ...]:
        """Which limits hit since the last call."""
        by_group = self._holdings.cgroups.limits_hit() if self._holdings.cgroups else ()
        return (*by_group, *(self._holdings.watch.hits() if self._holdings.watch else ()))

    async def stop(self) -> None:
        """Raises Unsupported: nothing could go on with the files of a sandbox that was not booted."""
        raise Unsupported("a sandbox that was not booted cannot be stopped", hint="destroy it")

    async def destroy(self) -> None:
        """Kills everything inside and removes every trace on the host."""
        if self._destroyed:
            return
        self._destroyed = True
        await asyncio.shield(self._holdings.release())


# The kernel counts these for the sandbox's user and again for the host's user who made its namespace (user_namespaces(7)): a sandbox
# that used them up would leave that user, so as a rule root, without timers, queued signals and message queues.
_SHARED = (resource.RLIMIT_SIGPENDING, resource.RLIMIT_MSGQUEUE)


def _share(number: int) -> int:
    soft = resource.getrlimit(number)[0]
    return 4096 if soft == resource.RLIM_INFINITY else soft // 4


def workload_limits(spec: SandboxSpec, *, pids_by_group: bool) -> tuple[tuple[int, int, int], ...]:
    """The resource limits of every process of the workload: (resource, soft, hard), never above what this process may set."""
    wanted = [
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, spec.resources.open_files),
        (resource.RLIMIT_MEMLOCK, 8 * 1024 * 1024),
        (resource.RLIMIT_RTPRIO, 0),  # some hosts let their users have these (limits.conf of audio packages)
        (resource.RLIMIT_NICE, 0),
        *((number, _share(number)) for number in _SHARED),
    ]
    if spec.resources.pids is not None and not pids_by_group:  # it would strike first, and nobody would know
        wanted.append((resource.RLIMIT_NPROC, spec.resources.pids))
    limits = []
    for number, value in wanted:
        hard = resource.getrlimit(number)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        limits.append((number, value, value))
    return tuple(limits)
