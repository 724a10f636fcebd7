"""A launched sandbox: how to reach its agent, how it dies, what limited it, how it is stopped and removed."""

from __future__ import annotations

import contextlib
import os
import socket

from agentkernel.backends._agent import connect
from agentkernel.backends._configuration import Configuration
from agentkernel.backends._held import Held
from agentkernel.backends._linux.holdings import Holdings, recorded_holdings
from agentkernel.backends._linux.host import Host
from agentkernel.backends._linux.launch import readable
from agentkernel.errors import SandboxLost
from agentkernel.model.command import LimitHit
from agentkernel.model.spec import SandboxSpec


class LinuxBoundary(Held[Holdings]):
    """Implements `channel.boundary.Boundary`."""

    def __init__(self, spec: SandboxSpec, holdings: Holdings, host: Host, *, configuration: Configuration) -> None:
        super().__init__(holdings, keeps_files=holdings.kept is not None)
        self.backend = host.backend
        self.spec = spec
        self.seccomp = configuration.seccomp
        self.rlimits = configuration.rlimits
        self.network = configuration.network
        self._host = host

    @property
    def pid(self) -> int:
        """The first process, as the host sees it; 0 once destroyed."""
        return self._holdings.launched.pid if self._holdings and self._holdings.launched else 0

    async def connect(self) -> socket.socket:
        """Opens one attach: a connection to the socket that an engine of ours made in a directory that is ours."""
        if self._end or self._holdings is None or self._holdings.state is None:
            raise SandboxLost(f"the sandbox was {self._end}")
        return connect(self._holdings.state.socket_path)

    async def wait_dead(self) -> str:
        """Waits until the first process ends, and says how; of one that an earlier engine started, only that."""
        holdings = self._holdings
        launched = holdings.launched if holdings else None
        if launched is None:
            return f"it was {self._end}"
        watched = os.dup(launched.pidfd)  # the original is closed by destroy
        try:
            await readable(watched)
            if self._end:
                return f"it was {self._end}"
            if holdings is not None and holdings.watch is not None and holdings.watch.reason:
                return holdings.watch.reason
            with contextlib.suppress(ChildProcessError, AttributeError):
                result = os.waitid(os.P_PIDFD, watched, os.WEXITED | os.WNOWAIT | os.WNOHANG)
                if result is not None:
                    how = "ended with" if result.si_code == os.CLD_EXITED else "was killed by signal"
                    return f"its first process {how} {result.si_status}"
            return "its first process ended"
        finally:
            os.close(watched)

    async def limits_hit(self) -> tuple[LimitHit, ...]:
        """Which limits hit since the last call."""
        holdings = self._holdings
        if holdings is None:
            return ()
        by_group = holdings.cgroups.limits_hit() if holdings.cgroups else ()
        return (*by_group, *(holdings.watch.hits() if holdings.watch else ()))

    async def _recorded(self) -> Holdings | None:
        return await recorded_holdings(self._host, self.sandbox_id, self._owner)
