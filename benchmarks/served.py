"""A daemon of the benchmark's own: with a home, settings and sandboxes that no other has, looked at from outside, ended with its block."""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from agentkernel.abc import Kernel
from agentkernel.assembly import build_client
from agentkernel.benchmark.timing import Contender
from agentkernel.channel.dialect import OfDoor
from agentkernel.channel.door import encode_once
from agentkernel.channel.messages import Start
from agentkernel.channel.outcome import DoorOutcome
from agentkernel.channel.process import GuestProcess
from agentkernel.channel.streams import InputWindow, OutputQueue
from agentkernel.client.connection import Connection, Daemon
from agentkernel.model.codec import to_json
from agentkernel.model.command import Command
from agentkernel.model.record import KernelStatus, PoolState
from benchmarks.contenders import CALLER, UnmeasurableError, as_bytes, request_for
from benchmarks.host import Leaks, Standing

PATIENCE_S = 30.0
PAUSE_S = 0.05  # between commands as people and agents give them
_POLL_S = 0.01
_NOTHING = Start(argv=())
POOL_IDLE_S = 2.0  # so that what is left after a load is soon counted without the pools
NO_POOLS = "[pool]\nenabled = false\n"
PASSING_POOLS = f'[pool]\nidle = "{POOL_IDLE_S:g}s"\n'


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A running daemon and the door to it."""

    door: Kernel
    pid: int
    home: Path
    environment: Mapping[str, str]  # for programs that are to find it

    def standing(self) -> Standing:
        """What the daemon holds."""
        return Standing.now(self.pid, self.home / "ak")

    async def leaks(self, before: Standing) -> Leaks:
        """What it holds when its pools have ended, and did not before; what is still going away is waited for."""
        await self.without_pools()
        deadline = time.monotonic() + PATIENCE_S
        while (leaks := Leaks.since(before, self.pid, self.home / "ak")).total and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        return leaks

    async def without_pools(self) -> None:
        """Waits until the daemon keeps nothing ready."""
        await self._until(lambda pools: not pools, "its pools do not end")

    async def with_full_pool(self) -> None:
        """Waits until something is kept ready and nothing is being made."""
        await self._until(lambda pools: any(pool.ready >= pool.minimum and not pool.making for pool in pools), "no pool is filled")

    async def _until(self, holds: Callable[[tuple[PoolState, ...]], bool], otherwise: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not holds((await self.status()).pools):
            if time.monotonic() > deadline:
                raise UnmeasurableError(otherwise)
            await asyncio.sleep(_POLL_S)

    @asynccontextmanager
    async def runs(self, argv: tuple[str, ...], cwd: Path) -> AsyncIterator[Contender]:
        """Runs a command in a sandbox made for it, as `agentkernel run` asks for that: one question, over one connection."""
        request = to_json(request_for(argv, cwd))
        payload = encode_once(json.dumps(request).encode(), json.dumps(to_json(Command(argv=as_bytes(argv)))).encode())
        connection = Connection(Daemon(self.environment))
        await connection.open()

        async def run() -> None:
            dialect = OfDoor()
            output = OutputQueue(_NOTHING.ring_bytes, lossy=False)
            execution = connection.start(payload, output=output, stdin=InputWindow(wanted=False), dialect=dialect)
            status = await GuestProcess(connection, execution, _NOTHING, DoorOutcome(execution, dialect)).wait()
            if status.exit_code != 0:
                raise UnmeasurableError(f"{' '.join(argv)} ended with {status.exit_code}")

        try:
            yield run
        finally:
            await connection.close()

    async def status(self) -> KernelStatus:
        """What it says of itself."""
        return await self.door.status(CALLER)


@asynccontextmanager
async def served(settings: str = "") -> AsyncIterator[Served]:
    """Starts a daemon as a client does, in a home of its own with these settings; ends it. Sandboxes that last must be gone by then."""
    with own_home(settings) as (home, environment):
        door = build_client(environment)
        pid = (await door.status(CALLER)).pid
        try:
            yield Served(door=door, pid=pid, home=home, environment=environment)
        finally:
            await door.close()
            _end(pid)


def _end(pid: int) -> None:
    """Ends a daemon as a service manager does, and waits for it."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGTERM)
        if not select.select([pidfd], [], [], PATIENCE_S)[0]:
            raise UnmeasurableError(f"the daemon, process {pid}, does not end")
    finally:
        os.close(pidfd)


@contextmanager
def own_home(settings: str = "") -> Iterator[tuple[Path, dict[str, str]]]:
    """A home with these settings, and the environment for programs that are to use it; no daemon of it may be left at the end."""
    with tempfile.TemporaryDirectory(prefix="ak-bench-", dir="/tmp") as name:
        home = Path(name)
        home.chmod(0o711)  # root's sandboxes walk to their mount point as ids of their own
        file = home / "config" / "agentkernel" / "config.toml"
        file.parent.mkdir(parents=True)
        file.write_text(settings)
        environment = {key: value for key, value in os.environ.items() if key != "AGENTKERNEL_SOCKET"}
        own = {"AGENTKERNEL_HOME": str(home / "ak"), "XDG_CONFIG_HOME": str(home / "config"), "AGENTKERNEL_BACKEND": "namespaces"}
        try:
            yield home, environment | own
        finally:
            _end_services(home)


def _end_services(home: Path) -> None:
    """Ends Podman's services that sandboxes there were made by; by themselves they would end some time after their last use."""
    for record in (home / "ak" / "run" / "podman").glob("*/pid"):
        with suppress(OSError, ValueError):
            os.kill(int(record.read_text()), signal.SIGTERM)
