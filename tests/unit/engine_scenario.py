"""A program that uses an engine over a durable store and real agents, and says on its output what it was told: killed anywhere, that
counts. With the argument `again` it only recovers, and says what it finds."""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import replace

from agentkernel import assembly
from agentkernel.abc import Caller
from agentkernel.backends.memory.backend import MemoryBackend
from agentkernel.errors import AgentKernelError, NotFound
from agentkernel.model.command import Command
from agentkernel.model.isolation import Feature, Fingerprint, Provision, Support
from agentkernel.model.network import EgressChange, PortRule, Rule
from agentkernel.model.record import CreateOptions, SandboxFilter
from agentkernel.model.request import SandboxRequest
from agentkernel.model.spec import SandboxSpec


class OpenBackend(MemoryBackend):
    """The memory backend as if it could do everything, so that policy lets its sandboxes be made."""

    async def probe(self) -> Fingerprint:
        return replace(await super().probe(), features=dict.fromkeys(Feature, Provision(support=Support.NATIVE)))

    async def _refuse(self, spec: SandboxSpec) -> None:
        """Nothing is refused."""


assembly.TEST_BACKENDS["memory"] = f"{__name__}:OpenBackend"
ME = Caller(principal="me")
EXEC = 1 << 63


def request() -> SandboxRequest:
    return SandboxRequest(backend="memory", profile="restrictive", cwd="/", network=True, ports=(PortRule(port=81),))


def say(*words: str) -> None:
    print(*words, flush=True)


async def live() -> None:
    host = assembly.build_host(dict(os.environ), backends=("memory",))
    await host.recover()
    await host.settled()  # type: ignore[attr-defined]
    for name in ("kept", "passing"):
        await host.create(ME, request(), CreateOptions(name=name, start=True))
        say("running", name)
        sandbox = await host.open(ME, name)
        await sandbox.exec(Command(argv=(b"sh", b"-c", b'echo from before > "$HOME/file"')))
        say("written", name)
    await host.stop(ME, "kept")
    say("stopped", "kept")
    async with host.visit(ME, "kept"):
        pass
    say("stopped", "kept")
    await host.start(ME, "kept")
    say("running", "kept")
    await host.change_network(ME, "kept", EgressChange(allow=(Rule(host="example.com"),)))
    say("allowed", "kept", "example.com")
    for _ in range(2):
        port = await host.publish(ME, "kept", PortRule(port=80))
        say("published", "kept", str(port.host_port))
        await host.unpublish(ME, "kept", 80)
        say("unpublished", "kept", str(port.host_port))
    port = await host.publish(ME, "kept", PortRule(port=80))
    say("published", "kept", str(port.host_port))
    ephemeral, _ = await host.ephemeral(ME, request(), EXEC)
    await ephemeral.exec(Command(argv=(b"true",)))
    await host.dispose(EXEC)
    await host.create(ME, request(), CreateOptions(name="short", ttl_s=0.05))
    say("stopped", "short")
    await asyncio.sleep(1.5)  # the timer's tick
    say("gone", "short")
    await host.collect_garbage(ME)
    await host.remove(ME, "passing", force=True)
    say("gone", "passing")
    await host.close()


async def again() -> None:
    host = assembly.build_host(dict(os.environ), backends=("memory",))
    await host.recover()
    await host.settled()  # type: ignore[attr-defined]
    for info in await host.sandboxes(ME, SandboxFilter(ephemeral=True)):
        say("allowed", info.name, *map(str, (await host.network(ME, info.sandbox_id)).allow))
        say("published", info.name, *(str(port.host_port) for port in await host.ports(ME, info.sandbox_id)))
        await host.start(ME, info.name)
        content = (await (await host.open(ME, info.name)).exec(Command(argv=(b"sh", b"-c", b'cat "$HOME/file"')))).stdout
        say(info.status.value, info.name, "ephemeral" if info.ephemeral else "lasting", content.decode().strip() or "empty")
    if len(sys.argv) > 2:
        for info in await host.sandboxes(ME, SandboxFilter()):
            await host.remove(ME, info.name, force=True)
        try:
            await host.ephemeral_of(ME, EXEC)
        except NotFound:
            pass
        await host.dispose(EXEC)
    await host.close()


if __name__ == "__main__":
    try:
        asyncio.run(again() if len(sys.argv) > 1 else live())
    except AgentKernelError as error:
        say("error", error.code)
