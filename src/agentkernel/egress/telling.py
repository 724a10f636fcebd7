"""Decisions on their way to the engine: bounded, and the endless repetitions of name look-ups told once."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from agentkernel.egress import messages
from agentkernel.model.network import Decision

BURST: Final = 500  # decisions of one sandbox at once
PER_S: Final = 50.0  # and in the long run
_FOLD_S: Final = 60.0  # a look-up with the same outcome is told again after the time that its answer holds
_MAX_FOLDED: Final = 1024
_REPORT_S: Final = 1.0


class Teller:
    """Tells the decisions of one sandbox.

    Args:
        send: takes one message; False: the engine does not keep up.
    """

    def __init__(self, sandbox_id: str, send: Callable[[bytes], bool], loop: asyncio.AbstractEventLoop) -> None:
        self._sandbox_id = sandbox_id
        self._send = send
        self._loop = loop
        self._allowance = float(BURST)
        self._at = loop.time()
        self._recent: OrderedDict[tuple[str, str, str], float] = OrderedDict()
        self._dropped = 0

    def tell(self, decision: Decision) -> None:
        """Tells one now, or counts it among those that are not."""
        now = self._loop.time()
        if decision.protocol == "dns" and self._is_repeated((decision.verdict, decision.host, decision.rule), now):
            return
        self._allowance, self._at = min(BURST, self._allowance + (now - self._at) * PER_S), now
        if self._allowance >= 1 and self._send(messages.decision_of(self._sandbox_id, decision)):
            self._allowance -= 1
            return
        if not self._dropped:
            self._loop.call_later(_REPORT_S, self._report)
        self._dropped += 1

    def _is_repeated(self, key: tuple[str, str, str], now: float) -> bool:
        if self._recent.get(key, now - _FOLD_S) > now - _FOLD_S:
            return True
        self._recent[key] = now
        self._recent.move_to_end(key)
        if len(self._recent) > _MAX_FOLDED:
            self._recent.popitem(last=False)
        return False

    def _report(self) -> None:
        if self._send(messages.dropped_of(self._sandbox_id, self._dropped)):
            self._dropped = 0
        else:
            self._loop.call_later(_REPORT_S, self._report)
