"""What the backends can do here, found out for as few of them as a decision takes.

A probe builds whole sandboxes, and some of them take seconds. So a backend that the host shows nothing of is neither loaded nor probed,
what was found is remembered (`fingerprints`), whoever asks while a probe runs waits for its answer, and the backends that would come
later in the choice are not asked at all once one of the earlier can do it.

That a backend is *not* ready is remembered only to pass over it: nobody is told an old reason.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from agentkernel.abc import Backend
from agentkernel.engine.fingerprints import FingerprintCache
from agentkernel.engine.parts import BackendSource
from agentkernel.errors import AgentKernelError, BackendUnavailable, NotFound, Unsupported
from agentkernel.model.isolation import Fingerprint, IsolationLevel, Presence
from agentkernel.model.request import Grant
from agentkernel.policy.choose import in_order
from agentkernel.policy.settled import is_settled

Decide = Callable[[Sequence[Fingerprint]], Grant]


class Probes:
    """One engine's view of the backends; `load` gives the backend of a name, or raises UnknownKey, BackendUnavailable."""

    def __init__(self, source: BackendSource, cache: FingerprintCache, load: Callable[[str], Backend]) -> None:
        self._source = source
        self._cache = cache
        self._load = load
        self._levels: dict[str, IsolationLevel] = {}
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._latest: dict[str, Fingerprint] = {}  # of the last probe of each

    async def every(self) -> list[Fingerprint]:
        """Probes all backends of the installation anew, side by side, also those that never take part in the choice."""
        return list(await asyncio.gather(*(self._anew(name) for name in in_order(self._source.all_names()))))

    async def ready(self, name: str) -> Fingerprint | None:
        """What it can do, if it is ready; remembered as for a choice."""
        found = self._recalled(name) or await self._anew(name)
        return found if found.ready else None

    async def decided(self, asked: str | None, decide: Decide, first: Iterable[str] = ()) -> Grant:
        """What `decide` says by the fingerprints that it takes: of the backend that was `asked` for, or of one after the other.

        `first` come before all others in the choice, in that order. Raises what `decide` raises once it has seen them all.
        """
        if asked is not None:
            return await self._asked(asked, decide)
        known: list[Fingerprint] = []
        recalled = set()
        for name in dict.fromkeys((*first, *in_order(self._source.names()))):
            found = self._recalled(name)
            if found is not None:
                recalled.add(name)
            known.append(found or await self._anew(name))
            if known[-1].ready:
                try:
                    grant = decide(known)
                except Unsupported:
                    continue  # perhaps the next can
                if is_settled(grant):
                    return grant
        try:
            return decide(known)
        except Unsupported:
            return decide([found if found.ready or found.backend not in recalled else await self._anew(found.backend) for found in known])

    def level_of(self, name: str) -> IsolationLevel:
        """What the last probe found; raises NotFound."""
        if name not in self._levels:
            found = self._cache.get(name, self._source.presence(name).identity)
            if found is None:
                raise NotFound(f"backend {name!r} has not been probed", hint="run `agentkernel doctor`")
            self._levels[name] = found.level
        return self._levels[name]

    def forget(self, name: str) -> None:
        """The host is not what the probe found."""
        self._cache.forget(name)

    async def _asked(self, asked: str, decide: Decide) -> Grant:
        """Only the one that was asked for counts; the others serve to say who could do what it cannot."""
        names = self._source.names()
        if asked not in names:
            names = self._source.all_names()
        if asked not in names:
            return decide([Fingerprint(backend=name, ready=False, level=IsolationLevel.NONE) for name in names])
        found = self._recalled(asked)
        if found is None or not found.ready:
            found = await self._anew(asked)
        try:
            return decide([found])
        except BackendUnavailable:
            raise  # others would not help it
        except Unsupported:
            others = [self._recalled(name) or await self._anew(name) for name in names if name != asked]
            return decide([found, *others])

    def _recalled(self, name: str) -> Fingerprint | None:
        """What is known without a probe, if anything is: that it is not here, or what was found lately."""
        presence = self._source.presence(name)
        if not presence.identity:
            return _absent(name, presence)
        found = self._cache.get(name, presence.identity)
        if found is not None:
            self._levels[name] = found.level
        return found or self._cache.unready(name, presence.identity)

    async def _anew(self, name: str) -> Fingerprint:
        """Probes it, or waits for the probe that is under way."""
        presence = self._source.presence(name)
        if not presence.identity:
            return _absent(name, presence)
        before = self._latest.get(name)
        async with self._locks[name]:
            found = self._latest.get(name)
            if found is None or found is before:
                found = self._latest[name] = await self._probe(name)
                self._cache.put(found, presence.identity)
                self._levels[name] = found.level
            return found

    async def _probe(self, name: str) -> Fingerprint:
        try:
            return await self._load(name).probe()
        except AgentKernelError as error:
            return Fingerprint(backend=name, ready=False, level=IsolationLevel.NONE, reason=error.message, remedy=error.hint)


def _absent(name: str, presence: Presence) -> Fingerprint:
    return Fingerprint(backend=name, ready=False, level=IsolationLevel.NONE, reason=presence.reason, remedy=presence.remedy)
