"""Which backends a choice probes: none that is not here, no more than it takes, and nobody is told an old reason."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from agentkernel.engine.fingerprints import FingerprintCache
from agentkernel.engine.probing import Probes
from agentkernel.errors import BackendUnavailable, UnknownKey, Unsupported
from agentkernel.model.isolation import BackendKind, Feature, Fingerprint, IsolationLevel, Presence, Provision, Support
from agentkernel.model.request import Grant, SandboxRequest
from agentkernel.model.spec import RootFilesystem, RootKind, SandboxSpec
from agentkernel.policy.choose import choose
from agentkernel.policy.network import UNAVAILABLE

ROOT = RootFilesystem(kind=RootKind.HOST)


@dataclass(kw_only=True)
class Script:
    """A backend whose probe says what the test wants."""

    name: str
    ready: bool = True
    level: IsolationLevel = IsolationLevel.CONTAINER
    refused: tuple[Feature, ...] = ()
    reason: str = ""
    probes: int = 0
    gate: asyncio.Event | None = None

    async def probe(self) -> Fingerprint:
        self.probes += 1
        if self.gate is not None:
            await self.gate.wait()
        features = {each: Provision(support=Support.REFUSED if each in self.refused else Support.NATIVE) for each in Feature}
        return Fingerprint(backend=self.name, ready=self.ready, level=self.level, reason=self.reason, features=features)


@dataclass(kw_only=True)
class Installation:
    """Implements `BackendSource`."""

    backends: dict[str, Script]
    absent: dict[str, Presence] = field(default_factory=dict)
    identities: dict[str, str] = field(default_factory=dict)
    hidden: tuple[str, ...] = ()
    loaded: list[str] = field(default_factory=list)

    def names(self) -> tuple[str, ...]:
        return tuple(name for name in self.backends if name not in self.hidden)

    def all_names(self) -> tuple[str, ...]:
        return tuple(self.backends)

    def presence(self, name: str) -> Presence:
        return self.absent.get(name) or Presence(identity=self.identities.get(name, "here"))

    def load(self, name: str) -> Any:
        self.loaded.append(name)
        if self.backends[name].reason == "cannot be loaded":
            raise BackendUnavailable("no such module", hint="install it")
        return self.backends[name]

    def probed(self) -> dict[str, int]:
        return {name: script.probes for name, script in self.backends.items() if script.probes}


def _installation(*scripts: Script) -> Installation:
    return Installation(backends={script.name: script for script in scripts})


@dataclass(kw_only=True)
class Choice:
    """A request as policy decides it, as far as backends matter."""

    needed: tuple[Feature, ...] = (Feature.EXEC,)
    notice_without: Feature | None = None  # a feature that is done without, with a notice, where no backend has it
    request: SandboxRequest = field(default_factory=SandboxRequest)

    def __call__(self, known: Any) -> Grant:
        notices: tuple[Any, ...] = ()
        try:
            chosen, kind = choose(self.request, self.needed, known)
        except Unsupported:
            if self.notice_without is None:
                raise
            chosen, kind = choose(self.request, [each for each in self.needed if each is not self.notice_without], known)
            notices = (UNAVAILABLE,)
        spec = SandboxSpec(name="s", profile="moderate", root=ROOT, level=chosen.level)
        return Grant(spec=spec, backend=chosen.backend, chosen=kind, notices=notices)


@pytest.fixture
def cache(tmp_path: Path) -> FingerprintCache:
    return FingerprintCache(str(tmp_path), lambda: "here")


def _probes(installation: Installation, cache: FingerprintCache) -> Probes:
    return Probes(installation, cache, installation.load)


async def test_a_backend_that_is_not_here_is_neither_loaded_nor_probed(cache: FingerprintCache) -> None:
    installation = _installation(Script(name="gvisor"), Script(name="namespaces"))
    installation.absent["gvisor"] = Presence(reason="no `runsc`", remedy="get it")
    grant = await _probes(installation, cache).decided(None, Choice())
    assert (grant.backend, installation.loaded) == ("namespaces", ["namespaces"])
    every = {one.backend: one for one in await _probes(installation, cache).every()}
    assert (every["gvisor"].ready, every["gvisor"].reason, every["gvisor"].remedy) == (False, "no `runsc`", "get it")
    assert "gvisor" not in installation.loaded


async def test_backends_that_come_later_are_not_probed_once_one_will_do(cache: FingerprintCache) -> None:
    installation = _installation(*(Script(name=name) for name in ("podman", "docker", "namespaces", "gvisor")))
    grant = await _probes(installation, cache).decided(None, Choice())
    assert (grant.backend, grant.chosen) == ("gvisor", BackendKind.CHOSEN)
    assert installation.probed() == {"gvisor": 1}


async def test_the_next_one_is_probed_where_the_first_lacks_something(cache: FingerprintCache) -> None:
    installation = _installation(Script(name="gvisor", refused=(Feature.GPUS,)), Script(name="namespaces"), Script(name="docker"))
    grant = await _probes(installation, cache).decided(None, Choice(needed=(Feature.GPUS,)))
    assert grant.backend == "namespaces"
    assert installation.probed() == {"gvisor": 1, "namespaces": 1}


async def test_what_would_be_left_out_for_want_of_a_backend_is_looked_for_in_all(cache: FingerprintCache) -> None:
    gvisor = Script(name="gvisor", refused=(Feature.NETWORK_FILTERED,))
    choice = Choice(needed=(Feature.NETWORK_FILTERED,), notice_without=Feature.NETWORK_FILTERED)
    grant = await _probes(_installation(gvisor, Script(name="docker")), cache).decided(None, choice)
    assert (grant.backend, grant.notices) == ("docker", ())
    grant = await _probes(_installation(gvisor), cache).decided(None, choice)
    assert (grant.backend, grant.notices) == ("gvisor", (UNAVAILABLE,))


async def test_a_level_for_want_of_another_does_not_end_the_search(cache: FingerprintCache) -> None:
    installation = _installation(Script(name="qemu", level=IsolationLevel.VM_EMULATED), Script(name="apple", level=IsolationLevel.VM))
    choice = Choice(request=SandboxRequest(min_isolation=IsolationLevel.VM_EMULATED))
    assert (await _probes(installation, cache).decided(None, choice)).backend == "apple"


async def test_who_comes_first_is_asked_first(cache: FingerprintCache) -> None:
    installation = _installation(Script(name="gvisor"), Script(name="docker"))
    grants: list[list[str]] = []

    def decide(known: Any) -> Grant:
        grants.append([one.backend for one in known])
        return Choice()(known)

    await _probes(installation, cache).decided(None, decide, first=("docker",))
    assert grants == [["docker"]]


async def test_one_that_is_not_ready_is_passed_over_from_memory(cache: FingerprintCache) -> None:
    installation = _installation(Script(name="gvisor", ready=False, reason="broken"), Script(name="namespaces"))
    for _ in range(3):
        assert (await _probes(installation, cache).decided(None, Choice())).backend == "namespaces"
    assert installation.probed() == {"gvisor": 1, "namespaces": 1}


async def test_another_program_is_probed_at_once(cache: FingerprintCache) -> None:
    installation = _installation(Script(name="gvisor", ready=False, reason="broken"), Script(name="namespaces"))
    await _probes(installation, cache).decided(None, Choice())
    installation.backends["gvisor"].ready = True
    assert (await _probes(installation, cache).decided(None, Choice())).backend == "namespaces"
    installation.identities["gvisor"] = "another"
    assert (await _probes(installation, cache).decided(None, Choice())).backend == "gvisor"


async def test_nobody_is_refused_for_an_old_reason(cache: FingerprintCache) -> None:
    gvisor = Script(name="gvisor", ready=False, reason="broken")
    installation = _installation(gvisor)
    with pytest.raises(BackendUnavailable, match="broken"):
        await _probes(installation, cache).decided(None, Choice())
    assert gvisor.probes == 1
    gvisor.reason = "still broken"
    with pytest.raises(BackendUnavailable, match="still broken"):
        await _probes(installation, cache).decided(None, Choice())
    gvisor.ready = True
    assert (await _probes(installation, cache).decided(None, Choice())).backend == "gvisor"


async def test_who_asks_for_one_by_name_has_it_probed_whatever_is_remembered(cache: FingerprintCache) -> None:
    docker = Script(name="docker", ready=False, reason="broken")
    installation = _installation(Script(name="gvisor"), docker)
    choice = Choice(request=SandboxRequest(backend="docker"))
    with pytest.raises(BackendUnavailable, match="broken"):
        await _probes(installation, cache).decided("docker", choice)
    docker.ready = True
    assert (await _probes(installation, cache).decided("docker", choice)).backend == "docker"
    assert installation.probed() == {"docker": 2}


async def test_what_one_cannot_do_names_those_that_can(cache: FingerprintCache) -> None:
    installation = _installation(Script(name="gvisor", refused=(Feature.GPUS,)), Script(name="docker"))
    choice = Choice(needed=(Feature.GPUS,), request=SandboxRequest(backend="gvisor"))
    with pytest.raises(Unsupported) as caught:
        await _probes(installation, cache).decided("gvisor", choice)
    assert "docker" in caught.value.hint


async def test_an_unknown_name_probes_nothing(cache: FingerprintCache) -> None:
    installation = _installation(Script(name="gvisor"))
    with pytest.raises(UnknownKey) as caught:
        await _probes(installation, cache).decided("gvsior", Choice(request=SandboxRequest(backend="gvsior")))
    assert "gvisor" in caught.value.hint
    assert installation.probed() == {}


async def test_one_that_takes_no_part_in_the_choice_can_be_asked_for(cache: FingerprintCache) -> None:
    installation = _installation(Script(name="stranger"))
    installation.hidden = ("stranger",)
    grant = await _probes(installation, cache).decided("stranger", Choice(request=SandboxRequest(backend="stranger")))
    assert (grant.backend, grant.chosen) == ("stranger", BackendKind.ASKED)


async def test_many_who_ask_at_once_wait_for_one_probe(cache: FingerprintCache) -> None:
    gate = asyncio.Event()
    installation = _installation(Script(name="gvisor", gate=gate))
    probes = _probes(installation, cache)
    waiting = [asyncio.create_task(probes.decided(None, Choice())) for _ in range(20)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    gate.set()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(result) for result in results] == [asyncio.CancelledError, *[Grant] * 19]
    assert installation.backends["gvisor"].probes == 2, "the one whose asker went, and one for all others"


async def test_backends_are_probed_side_by_side_for_a_report_and_told_in_order(cache: FingerprintCache) -> None:
    gate = asyncio.Event()
    installation = _installation(Script(name="podman", gate=gate), Script(name="gvisor", gate=gate))
    every = asyncio.create_task(_probes(installation, cache).every())
    while len(installation.probed()) < 2:
        await asyncio.sleep(0)
    gate.set()
    assert [one.backend for one in await every] == ["gvisor", "podman"]


async def test_one_that_cannot_be_loaded_is_not_ready_and_says_why(cache: FingerprintCache) -> None:
    installation = _installation(Script(name="docker", reason="cannot be loaded"))
    (found,) = await _probes(installation, cache).every()
    assert (found.ready, found.reason, found.remedy) == (False, "no such module", "install it")
