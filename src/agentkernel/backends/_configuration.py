"""What a sandbox's agent is configured with, once and for all: the workload's filter and its resource limits.

Both depend on the engine that builds the sandbox: on its own limits, and on the tables of its version. So they are recorded: an engine that
takes up the sandbox says the same to the agent, which accepts nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass

Rlimits = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """As CONFIGURE says it, and the isolation level that was built, by its label."""

    seccomp: bytes = b""
    rlimits: Rlimits = ()
    level: str = ""

    def encode(self) -> bytes:
        """For a file."""
        limits = ",".join(" ".join(map(str, limit)) for limit in self.rlimits)
        return f"{self.level}\n{limits}\n".encode() + self.seccomp

    @classmethod
    def decode(cls, record: bytes) -> Configuration:
        """From that file; empty, where a crash came before it was written."""
        level, _, rest = record.partition(b"\n")
        limits, _, seccomp = rest.partition(b"\n")
        rlimits = []
        for limit in filter(None, limits.decode().split(",")):
            number, soft, hard = map(int, limit.split())
            rlimits.append((number, soft, hard))
        return cls(level=level.decode(), seccomp=seccomp, rlimits=tuple(rlimits))
