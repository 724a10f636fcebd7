"""What a sandbox's agent is configured with, once and for all: the workload's filter, its resource limits, and the ports of its network.

They depend on the engine that builds the sandbox: on its own limits, and on the tables of its version. So they are recorded: an engine that
takes up the sandbox says the same to the agent, which accepts nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass

from agentkernel.channel.messages import NetworkPorts

Rlimits = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """As CONFIGURE says it, and the isolation level that was built, by its label."""

    seccomp: bytes = b""
    rlimits: Rlimits = ()
    level: str = ""
    network: NetworkPorts | None = None

    def encode(self) -> bytes:
        """For a file."""
        limits = ",".join(" ".join(map(str, limit)) for limit in self.rlimits)
        network = " ".join(map(str, self.network or ()))
        return f"{self.level} {network}".rstrip().encode() + f"\n{limits}\n".encode() + self.seccomp

    @classmethod
    def decode(cls, record: bytes) -> Configuration:
        """From that file; empty, where a crash came before it was written."""
        first, _, rest = record.partition(b"\n")
        level, _, ports = first.decode().partition(" ")
        limits, _, seccomp = rest.partition(b"\n")
        rlimits = []
        for limit in filter(None, limits.decode().split(",")):
            number, soft, hard = map(int, limit.split())
            rlimits.append((number, soft, hard))
        network = NetworkPorts(*map(int, ports.split())) if ports else None
        return cls(level=level, seccomp=seccomp, rlimits=tuple(rlimits), network=network)
