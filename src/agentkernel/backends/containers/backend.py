"""The backends of container engines: probe, create, sweep; what lasts is in `lasting`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Collection, Mapping
from pathlib import Path

from agentkernel.abc import Sandbox
from agentkernel.abc_images import ImageKeeper
from agentkernel.backends._linux.state import abandoned, create_state
from agentkernel.backends._records import BUILD_HINT, LEFT_HINT, failing_as
from agentkernel.backends._sources import require_apart
from agentkernel.backends.containers import fingerprint, guest_volume, lasting
from agentkernel.backends.containers.build import build, level_of, stream_of
from agentkernel.backends.containers.dialect import Dialect, EngineFacts
from agentkernel.backends.containers.docker import DockerDialect
from agentkernel.backends.containers.holdings import Holdings
from agentkernel.backends.containers.host import Host
from agentkernel.backends.containers.plan import Stream
from agentkernel.errors import AgentKernelError, BackendUnavailable, LaunchFailed, SandboxFailed, Unsupported
from agentkernel.failpoints import failpoint
from agentkernel.model.isolation import Feature, Fingerprint, IsolationLevel, Support
from agentkernel.model.spec import SandboxSpec
from agentkernel.policy.needs import needs


class ContainersBackend:
    """Implements `abc.Backend` and `abc_images.KeepsImages` over one engine; all its state is in the engine and beneath the user's
    directories."""

    def __init__(self, dialect: Dialect, state_directory: Path | None = None) -> None:
        """`state_directory` overrides where sandboxes are recorded and their files lie (tests); the default is per user."""
        self.name = dialect.name
        self._host = Host(dialect, state_directory)
        self._keeper: ImageKeeper | None = None

    @property
    def keeper(self) -> ImageKeeper:
        """The engine's images."""
        if self._keeper is None:
            self._keeper = self._host.dialect.keeper(self._host.data_directory, self._host.momentary)
        return self._keeper

    async def probe(self) -> Fingerprint:
        """Builds a whole sandbox of the guest's own image, asks its agent, and says what the engine grants."""
        try:
            facts = await self._host.facts(anew=True)
            guest = guest_volume.this_guest(facts.architecture)
            async with asyncio.timeout(fingerprint.PROBE_DEADLINE_S):
                await guest_volume.ensure_image(self._host.dialect.api, guest)
                sandbox = await self._create(fingerprint.probe_spec(guest.image))
                try:
                    await sandbox.statistics()
                finally:
                    await sandbox.destroy()
        except TimeoutError:
            slow = SandboxFailed(
                f"a sandbox was not ready within {fingerprint.PROBE_DEADLINE_S:g} seconds", hint="see the engine's own log"
            )
            return fingerprint.not_ready(self.name, slow)
        except AgentKernelError as obstacle:
            return fingerprint.not_ready(self.name, obstacle)
        return self._declared(facts)

    def _declared(self, facts: EngineFacts) -> Fingerprint:
        mounts = self._host.dialect.mounter(facts) is not None
        sampled = facts.local and os.geteuid() == 0

        def inside(level: IsolationLevel) -> bool:
            return stream_of(level, facts) is Stream.SESSION

        return fingerprint.ready(self.name, facts, mounts=mounts, sampled=sampled, inside=inside)

    async def create(self, spec: SandboxSpec) -> Sandbox:
        """Builds and starts a sandbox that ends with this process; see `abc.Backend.create`."""
        with failing_as(LaunchFailed, "cannot build the sandbox", BUILD_HINT):
            self._host.note_use()
        return await self._create(spec)

    async def _create(self, spec: SandboxSpec) -> Sandbox:
        with failing_as(LaunchFailed, "cannot build the sandbox", BUILD_HINT):
            facts = await self._checked(spec)
            require_apart(spec, self._host.own_directories)
            sandbox_id = os.urandom(8).hex()
            state = create_state(self._host.state, sandbox_id)
            holdings = Holdings(host=self._host, facts=facts, sandbox_id=sandbox_id, state=state)
            try:
                failpoint("containers.create.state")
                return await build(self._host, spec, holdings, None)
            except BaseException:
                await asyncio.shield(holdings.release_or_let_go("undo"))
                raise

    async def _checked(self, spec: SandboxSpec) -> EngineFacts:
        """The engine's facts; raises Unsupported for what it refuses, before anything is done."""
        facts = await self._host.facts()
        declared = self._declared(facts)
        for feature in needs(spec, from_tar=False, user_asked=False):
            if declared.support(feature) is Support.REFUSED:
                found = declared.features[feature]
                raise Unsupported(f"backend {self.name!r} cannot provide {feature}: {found.reason}", hint=found.remedy)
        if spec.transparent_network:
            found = declared.features[Feature.TRANSPARENT_NETWORK]
            raise Unsupported(f"backend {self.name!r} cannot provide {Feature.TRANSPARENT_NETWORK}: {found.reason}", hint=found.remedy)
        level_of(spec, facts, self.name)
        return facts

    async def boot(self, sandbox_id: str, spec: SandboxSpec, owner: str) -> Sandbox:
        """Builds and starts a sandbox that lives on without this process; see `abc.Backend.boot`.

        Raises also Conflict: the id belongs to another store, or an engine that lives holds it.
        """
        await self._checked(spec)
        return await lasting.boot(self._host, sandbox_id, spec, owner)

    async def recover(self, sandbox_id: str, spec: SandboxSpec, owner: str) -> Sandbox | None:
        """Takes up a booted sandbox; see `abc.Backend.recover`. Raises Conflict as `boot` does."""
        return await lasting.recover(self._host, sandbox_id, spec, owner)

    async def has_files(self, sandbox_id: str, owner: str) -> bool:
        """Whether there is its container yet; see `abc.Keeping`."""
        return await lasting.has_files(self._host, sandbox_id, owner)

    async def discard(self, sandbox_id: str, owner: str) -> None:
        """Removes every trace of a booted sandbox; see `abc.Backend.discard`. Raises Conflict as `boot` does."""
        await lasting.discard(self._host, sandbox_id, owner)

    async def sweep_owned(self, owner: str, keep: Collection[str]) -> int:
        """Removes an owner's booted sandboxes that are not to be kept; see `abc.Backend.sweep_owned`."""
        return await lasting.sweep_owned(self._host, owner, keep)

    async def sweep(self) -> int:
        """Removes the sandboxes of `create` whose engine is gone: by their state directories, and containers that have none any more."""
        if not self._host.is_recorded:
            return 0
        removed = 0
        with failing_as(SandboxFailed, "what another engine left cannot be removed", LEFT_HINT):
            left = abandoned(self._host.state)
            if not left and not self._host.was_used:
                return 0
            try:
                facts = await self._host.facts()
                for state in left:
                    holdings = Holdings(host=self._host, facts=facts, sandbox_id=state.sandbox_id, state=state)
                    await holdings.release_or_let_go("sweep")
                    removed += 1
                return removed + await self._sweep_unrecorded()
            except BackendUnavailable:
                if left:
                    raise
                return 0  # no engine, and nothing of one
            finally:
                for state in left:
                    state.let_go()

    async def _sweep_unrecorded(self) -> int:
        """Containers, and private views on disk, that the host's restart has left without a record."""
        host, label = self._host, self._host.lease_label
        facts = await host.facts()
        left = [each for each in {*await host.containers.owned(label), *host.owned(label)} if not (host.state.sandboxes / each).exists()]
        for sandbox_id in left:
            await Holdings(host=host, facts=facts, sandbox_id=sandbox_id).release("sweep")
        return len(left)


class DockerBackend(ContainersBackend):
    """Docker: the Engine API over its socket."""

    def __init__(self, state_directory: Path | None = None, environment: Mapping[str, str] | None = None) -> None:
        """`environment` says which engine, as `docker` reads it; the default is this process's."""
        super().__init__(DockerDialect(environment), state_directory)
