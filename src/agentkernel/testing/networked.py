"""Sandboxes with filtered network, whose egress process is in the suite's own internet."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from agentkernel.abc import Backend, Sandbox
from agentkernel.abc_network import Egress, EgressSession, Tunnelled
from agentkernel.errors import Unsupported
from agentkernel.model.isolation import Feature, Fingerprint
from agentkernel.model.network import Base, Decision, EgressLimits, EgressRules, Verdict
from agentkernel.model.spec import NetworkMode
from agentkernel.policy.egress import parse_rule
from agentkernel.policy.inside import variables
from agentkernel.testing.base import ConformanceBase, eventually, need
from agentkernel.testing.internet import Internet
from agentkernel.testing.talk import Inside

PUBLIC_ONLY = EgressRules(base=Base.PUBLIC)


def rules(*allow: str, deny: tuple[str, ...] = (), base: Base = Base.NONE) -> EgressRules:
    """Rules as people write them."""
    return EgressRules(base=base, allow=tuple(map(parse_rule, allow)), deny=tuple(map(parse_rule, deny)))


@dataclass(slots=True, kw_only=True)
class Place:
    """A sandbox's place at the proxy, as an engine makes it: with the first frame. Implements `abc.TunnelPeer`."""

    sandbox: Sandbox
    egress: Egress
    rules: EgressRules
    limits: EgressLimits
    decisions: list[Decision] = field(default_factory=list)
    session: EgressSession | None = None

    def __post_init__(self) -> None:
        assert isinstance(self.sandbox, Tunnelled), "a backend with filtered network has tunnels"
        self._agent = self.sandbox.route(self)

    _agent: Any = field(init=False)

    def take(self, kind: int, flags: int, ident: int, payload: bytes | memoryview) -> None:
        """See `abc.TunnelPeer`."""
        if self.session is None:
            self.session = self.egress.join(self.sandbox.sandbox_id, self.rules, self.limits, self._agent, self.decisions.append)
        self.session.take(kind, flags, ident, payload)

    def reset(self) -> None:
        """See `abc.TunnelPeer`."""
        if self.session is not None:
            self.session.reset()

    def change(self, rules: EgressRules) -> None:
        """New connections go by these."""
        self.rules = rules
        if self.session is not None:
            self.session.set_rules(rules)

    def close(self) -> None:
        """Ends every connection."""
        if self.session is not None:
            self.session.close()
        assert isinstance(self.sandbox, Tunnelled)
        self.sandbox.route(None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Networked:
    """A running sandbox with its place at the proxy."""

    sandbox: Sandbox
    place: Place
    inside: Inside

    async def decided(self, verdict: Verdict, host: str, *, count: int = 1) -> list[Decision]:
        """The decisions about a host; waits until there are so many."""

        def those() -> list[Decision]:
            return [each for each in self.place.decisions if each.verdict is verdict and each.host == host]

        async def told() -> bool:
            return len(those()) >= count

        assert await eventually(told), f"{host!r} was not {verdict} {count} times: {self.place.decisions}"
        return those()


class NetworkedConformance(ConformanceBase):
    """What the tests of the network share."""

    @pytest.fixture(scope="class")
    @classmethod
    def world(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Internet]:
        """The internet of all the tests of a class."""
        try:
            made = Internet(tmp_path_factory.mktemp("internet"))
        except Unsupported as error:
            pytest.skip(str(error))
        yield made
        made.close()

    @pytest.fixture
    def internet(self, world: Internet) -> Internet:
        """The internet, in which nothing was seen yet."""
        world.forget()
        return world

    @pytest.fixture
    async def gate(
        self, fingerprint: Fingerprint, internet: Internet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> AsyncIterator[Egress]:
        """An egress proxy there; skips where the backend has no filtered network."""
        need(fingerprint, Feature.NETWORK_FILTERED)
        monkeypatch.setattr(sys, "executable", str(internet.interpreter(tmp_path)))
        made = self.egress()
        if made is None:
            pytest.fail(f"{fingerprint.backend} declares filtered network, and its suite gives no `egress` to try it with")
        yield made
        await made.close()

    @asynccontextmanager
    async def networked(
        self, backend: Backend, gate: Egress, allowed: EgressRules, *files: Path, limits: EgressLimits | None = None, **changes: Any
    ) -> AsyncIterator[Networked]:
        """A sandbox that may reach what `allowed` says; `files` are in its HOME."""
        settings = {"network": NetworkMode.FILTERED, "egress": allowed, **changes}
        own = variables(self.spec(**settings), certificates="")
        environment = tuple({**dict(self.base_spec().environment), **own}.items())
        async with self.running(backend, environment=environment, **settings) as sandbox:
            place = Place(sandbox=sandbox, egress=gate, rules=allowed, limits=limits or EgressLimits())
            try:
                yield Networked(sandbox=sandbox, place=place, inside=await Inside(sandbox=sandbox).install(*files))
            finally:
                place.close()
