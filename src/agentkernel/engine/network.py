"""Filtered networks: each running sandbox's place at the egress proxy, and what was decided there, as events.

Nothing is started or imported for a sandbox that connects to nothing: its place asks for the proxy with its first frame.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from agentkernel.abc_network import Tunnelled
from agentkernel.engine.audit import Audit
from agentkernel.engine.registry import Live
from agentkernel.errors import AgentKernelError, SandboxFailed, Unsupported
from agentkernel.model.decisions import MORE, details_of, kind_of
from agentkernel.model.network import EgressRules, Verdict
from agentkernel.model.spec import NetworkMode, SandboxSpec

if TYPE_CHECKING:
    from agentkernel.abc_network import Egress, EgressSession
    from agentkernel.model.network import Credentials, Decision
    from agentkernel.model.record import SandboxRecord

ROWS_PER_S: Final = 50  # decisions of one sandbox that are told one by one; of more only the numbers are
ALLOWED_ROWS_PER_S: Final = 35  # so that what is denied is told beside a burst of what is not
_OUTCOMES: Final = {Verdict.ALLOWED: "ok", Verdict.DENIED: "denied", Verdict.FAILED: "failed"}


class Networks:
    """The places of the sandboxes that run. `make_egress` makes the proxy's gate; None: every connection is refused."""

    def __init__(self, audit: Audit, make_egress: Callable[[], Egress] | None, credentials: Callable[[SandboxSpec], Credentials]) -> None:
        self._audit = audit
        self._credentials = credentials
        self._make_egress = make_egress
        self._egress: Egress | None = None
        self._places: dict[str, Place] = {}

    def begin(self, live: Live) -> None:
        """It runs: from now on its connections come here."""
        make, sandbox = self._make_egress, live.sandbox
        if make is not None and live.record.spec.network is NetworkMode.FILTERED and isinstance(sandbox, Tunnelled):
            self.end(live)
            self._places[live.sandbox_id] = Place(live, sandbox, lambda: self._gate(make), Trail(self._audit, live), self._credentials)

    def end(self, live: Live) -> None:
        """It ends, or this engine lets go of it: its connections are closed. One that has no place is fine."""
        if (place := self._places.pop(live.sandbox_id, None)) is not None:
            place.close()

    def change(self, record: SandboxRecord) -> None:
        """Its rules are others now."""
        if (place := self._places.get(record.sandbox_id)) is not None:
            place.change(record.spec.egress)

    async def close(self) -> None:
        """Ends every connection, and the proxy."""
        while self._places:
            self._places.popitem()[1].close()
        if self._egress is not None:
            await self._egress.close()

    def _gate(self, make: Callable[[], Egress]) -> Egress:
        if self._egress is None:
            self._egress = make()
        return self._egress


class Place:
    """Implements `abc.TunnelPeer` for one sandbox: joins the proxy with the first frame, under the rules of that moment."""

    def __init__(
        self, live: Live, sandbox: Tunnelled, gate: Callable[[], Egress], trail: Trail, credentials: Callable[[SandboxSpec], Credentials]
    ) -> None:
        self._live = live
        self._credentials = credentials
        self._sandbox = sandbox
        self._gate = gate
        self._trail = trail
        self._session: EgressSession | None = None
        self._agent = sandbox.route(self)

    def take(self, kind: int, flags: int, ident: int, payload: bytes | memoryview) -> None:
        """See `abc.TunnelPeer`."""
        session = self._session or self._joined()
        if session is not None:
            session.take(kind, flags, ident, payload)

    def reset(self) -> None:
        """See `abc.TunnelPeer`."""
        if self._session is not None:
            self._session.reset()

    def change(self, rules: EgressRules) -> None:
        """New connections go by these."""
        if self._session is not None:
            self._session.set_rules(rules)

    def _joined(self) -> EgressSession | None:
        """None: it cannot be, and connections are refused."""
        spec = self._live.record.spec
        try:
            session = self._gate().join(self._live.sandbox_id, spec.egress, spec.egress_limits, self._agent, self._trail.note)
            if spec.secrets:
                session.set_secrets(self._credentials(spec))
            self._session = session
        except (AgentKernelError, OSError) as error:
            self._trail.failed(error)
            self._sandbox.route(None)
        return self._session

    def close(self) -> None:
        """Closes every connection; those to come are refused."""
        session, self._session = self._session, None
        if session is not None:
            session.close()
        self._sandbox.route(None)
        self._trail.close()


class Trail:
    """Decisions of one sandbox as events: at most `ROWS_PER_S` in a second, then one that counts the others."""

    def __init__(self, audit: Audit, live: Live) -> None:
        self._audit = audit
        self._live = live
        self._rows = 0  # in this second
        self._folded: Counter[Verdict] = Counter()
        self._second: asyncio.TimerHandle | None = None

    def note(self, decision: Decision) -> None:
        """One decision."""
        if self._second is None:
            self._second = asyncio.get_running_loop().call_later(1.0, self._over)
        if self._rows >= (ALLOWED_ROWS_PER_S if decision.verdict is Verdict.ALLOWED else ROWS_PER_S):
            self._folded[decision.verdict] += 1
            return
        self._rows += 1
        record = self._live.record
        outcome = _OUTCOMES[decision.verdict]
        event = self._audit.event(kind_of(decision), record.owner, record, outcome=outcome, details=details_of(decision))
        self._audit.append(replace(event, at=decision.at))

    def failed(self, error: Exception) -> None:
        """The sandbox has no network, though it should."""
        record = self._live.record
        code = error.code if isinstance(error, AgentKernelError) else SandboxFailed.code
        details = (("reason", f"the egress proxy cannot be used: {error}"),)
        self._audit.append(self._audit.event("network.failed", record.owner, record, outcome=code, details=details))

    def close(self) -> None:
        """Tells what was not told yet."""
        if self._second is not None:
            self._second.cancel()
            self._over()

    def _over(self) -> None:
        self._second = None
        self._rows = 0
        if self._folded:
            record = self._live.record
            details = tuple((verdict.value, str(count)) for verdict, count in sorted(self._folded.items()))
            self._folded.clear()
            self._audit.append(self._audit.event(MORE, record.owner, record, details=details))


def check_filtered(record: SandboxRecord) -> None:
    """Raises Unsupported for a sandbox whose network has no rules."""
    mode = record.spec.network
    if mode is not NetworkMode.FILTERED:
        what = "no network" if mode is NetworkMode.NONE else "the host's own network"
        raise Unsupported(f"sandbox {record.name!r} has {what}, and no rules for it", hint="create it with --network")
