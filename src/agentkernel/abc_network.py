"""The contracts of a sandbox's connections: tunnels through the stream, and the egress proxy that decides about them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from agentkernel.model.network import Credentials, Decision, EgressLimits, EgressRules


class TunnelPeer(Protocol):
    """One side of a sandbox's tunnels (docs/guest-protocol.md, section 5): it takes the frames that the other side sends."""

    def take(self, kind: int, flags: int, ident: int, payload: bytes | memoryview) -> None:
        """One frame; `payload` is valid during the call. Must not raise."""
        ...

    def reset(self) -> None:
        """The attach is gone, and every tunnel with it; there may be another one later."""
        ...


@runtime_checkable
class Tunnelled(Protocol):
    """Optional power of a sandbox: its connections go through the stream. Without it there is no filtered network and no published port."""

    def route(self, peer: TunnelPeer | None) -> TunnelPeer:
        """Gives the tunnels that the agent begins to `peer` (None: they are closed). What is returned takes frames for the agent."""
        ...

    async def open_tunnel(self, port: int) -> Tunnel:
        """Connects to a TCP port on the sandbox's loopback; raises ConnectionRefusedError and the like as connect(2) inside does."""
        ...


class Tunnel(Protocol):
    """One connection to a port inside."""

    async def read(self) -> bytes:
        """The next bytes, at most 65,536; empty at the end. Reading is what lets the other end send more. Raises ConnectionResetError."""
        ...

    async def write(self, data: bytes) -> None:
        """Sends, waiting while the other end does not read; raises ConnectionResetError."""
        ...

    async def end(self) -> None:
        """Sends nothing more; reading goes on."""
        ...

    def close(self) -> None:
        """Ends both directions; repeating it is fine."""
        ...


class EgressSession(TunnelPeer, Protocol):
    """A sandbox's place at the egress proxy. Nothing is started for it before the first frame."""

    def set_rules(self, rules: EgressRules) -> None:
        """New connections go by these; open ones that they deny are closed."""
        ...

    def set_secrets(self, credentials: Credentials) -> None:
        """From now on its requests get these; nothing of them is stored or told. To be called before the first frame."""
        ...

    def close(self) -> None:
        """Ends every connection of the sandbox."""
        ...


class Egress(Protocol):
    """The egress proxy, as an engine sees it; a process of its own that is started when it is needed and may die."""

    def join(
        self, sandbox_id: str, rules: EgressRules, limits: EgressLimits, agent: TunnelPeer, decided: Callable[[Decision], None]
    ) -> EgressSession:
        """Makes a session; `agent` takes its frames (its `reset` is not called), `decided` each decision."""
        ...

    async def close(self) -> None:
        """Ends the process and every connection."""
        ...
