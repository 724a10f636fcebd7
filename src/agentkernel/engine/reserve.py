"""One warm pool's contents, and when something is to be done for it. Tells what to do and does nothing; `engine.pool` acts."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from agentkernel.abc import Sandbox
from agentkernel.engine.standing import Standing
from agentkernel.model.record import PoolState
from agentkernel.model.spec import SandboxSpec

BACKOFF_FIRST_S: Final = 1.0
BACKOFF_MAX_S: Final = 60.0
GIVEN_UP_AFTER: Final = 3  # failures in a row, of a pool that could never make any
Key = tuple[str, SandboxSpec]  # the backend, and what a sandbox is made of before it is known whose it will be


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSettings:
    """Below `minimum` ready ones a pool is filled up to `maximum`. Times are seconds."""

    enabled: bool = True
    minimum: int = 3
    maximum: int = 5
    age_s: float = 600.0  # older ones are replaced
    idle_s: float = 300.0  # a pool that nobody asked for so long ends
    settle_s: float = 1.0  # backends remember for so long where a path leads, and might still bind what has just been replaced
    at_once: int = max(1, (os.cpu_count() or 1) // 2)  # sandboxes being made, of all pools together


@dataclass(slots=True, kw_only=True, eq=False)
class Member:
    """A sandbox that nobody has."""

    sandbox: Sandbox
    assign: Callable[[SandboxSpec], None]
    sandbox_id: str
    made_at: float
    standing: Standing


@dataclass(slots=True, kw_only=True, eq=False)
class Reserve:
    """The sandboxes of one key. Every time is of the clock of `Pools`."""

    key: Key
    settings: PoolSettings
    asked_at: float
    standing: Standing
    not_before: float  # nothing is made before: what is shown has changed, or the last one failed
    ready: deque[Member] = field(default_factory=deque)
    making: int = 0
    filling: bool = True
    failures: int = 0  # in a row
    has_made: bool = False  # ever
    is_given_up: bool = False  # nothing is tried any more: it is shown with its reason until it ends, as if nobody asked
    reason: str = ""
    hits: int = 0
    misses: int = 0

    @property
    def count(self) -> int:
        """Those that are ready and those on their way."""
        return len(self.ready) + self.making

    def leave(self, standing: Standing, now: float) -> list[Member]:
        """Takes out what was made of something else than the host has now."""
        if self.standing == standing:
            return []
        self.standing = standing
        self.not_before = max(self.not_before, now + self.settings.settle_s)
        return self.empty()

    def expire(self, now: float) -> list[Member]:
        """Takes out what has become too old."""
        old = [member for member in self.ready if now - member.made_at >= self.settings.age_s]
        for member in old:
            self.ready.remove(member)
        return old

    def empty(self) -> list[Member]:
        """Takes out everything."""
        out = list(self.ready)
        self.ready.clear()
        return out

    def wants(self, now: float) -> bool:
        """Whether one more is to be made now: from below the minimum up to the maximum."""
        if self.count < self.settings.minimum:
            self.filling = True
        elif self.count >= self.settings.maximum:
            self.filling = False
        return self.filling and self.not_before <= now and not self.is_given_up

    def failed(self, reason: str, now: float) -> None:
        """The next attempt waits, longer each time."""
        if self.is_given_up:
            return
        self.reason = reason
        if self.not_before > now:
            return  # one that was made beside it has failed, too
        self.not_before = now + min(BACKOFF_FIRST_S * 2.0 ** min(self.failures, 16), BACKOFF_MAX_S)
        self.failures += 1
        self.is_given_up = not self.has_made and self.failures >= GIVEN_UP_AFTER
        if self.is_given_up:
            self.reason = f"given up: {reason}"

    def due_s(self, now: float) -> float:
        """After how many seconds something is to be done, if nothing else happens before."""
        moments = [self.asked_at + self.settings.idle_s, *(member.made_at + self.settings.age_s for member in self.ready)]
        if self.filling and self.not_before > now and not self.is_given_up:
            moments.append(self.not_before)
        return max(0.0, min(moments) - now)

    def state(self) -> PoolState:
        """As `daemon status` shows it."""
        backend, spec = self.key
        return PoolState(
            backend=backend,
            image=spec.root.label,
            profile=spec.profile,
            ready=len(self.ready),
            making=self.making,
            minimum=self.settings.minimum,
            maximum=self.settings.maximum,
            hits=self.hits,
            misses=self.misses,
            reason=self.reason,
        )
