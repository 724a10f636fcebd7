"""What a backend knows of its engine and of this host: found out when it is first asked for, and then remembered."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentkernel import __version__
from agentkernel.backends._linux.state import CLOSED, PASSABLE, SandboxState, StateRoot, create_state, own_directory
from agentkernel.backends._records import BUILD_HINT, failing_as, owned_in, read_file, write_file
from agentkernel.backends.containers.api import EngineRefused
from agentkernel.backends.containers.calls import Containers
from agentkernel.backends.containers.dialect import Dialect, EngineFacts
from agentkernel.backends.containers.guest_volume import Guest, fill, holds_guest
from agentkernel.backends.containers.plan import LABEL_OWNER, LABEL_SANDBOX, LABEL_VERSION, container_name
from agentkernel.config.directories import data_directory, runtime_directory, state_directory
from agentkernel.errors import BackendUnavailable, SandboxFailed
from agentkernel.failpoints import failpoint


@dataclass(slots=True)
class Host:
    """`state_directory` overrides where sandboxes are recorded and their files lie (tests)."""

    dialect: Dialect
    state_directory: Path | None = None
    _whole: set[str] = field(default_factory=set, init=False)  # volumes in which this process has found the guest
    _filling: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)
    _facts: EngineFacts | None = field(default=None, init=False)
    _asking: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)
    _state: StateRoot | None = field(default=None, init=False)

    @property
    def containers(self) -> Containers:
        """Calls about containers."""
        return Containers(self.dialect.api)

    async def facts(self, *, anew: bool = False) -> EngineFacts:
        """What the engine says of itself; raises BackendUnavailable."""
        async with self._asking:
            if self._facts is None or anew:
                self._facts = None
                self._facts = await self.dialect.facts()
            return self._facts

    async def with_guest(self, container: str, guest: Guest, *, anew: bool = False) -> None:
        """Sees to it that the volume of a container that is not started yet holds the guest; looks once per process, or `anew`."""
        async with self._filling:
            if anew:
                self._whole.discard(guest.volume)
            if guest.volume in self._whole:
                return
            if not await holds_guest(self.dialect.api, container, guest):
                await fill(self.dialect.api, guest, self.momentary)
            self._whole.add(guest.volume)

    @contextlib.asynccontextmanager
    async def momentary(self, body: Mapping[str, Any]) -> AsyncIterator[str]:
        """For the block, the name of a container that is made and never started.

        It is recorded, named and labelled as a sandbox that ends with this process: of one that is killed, `sweep` removes it.
        """
        with failing_as(SandboxFailed, "a container cannot be recorded", BUILD_HINT):
            self.note_use()
            state = create_state(self.state, os.urandom(8).hex())
        name = container_name(state.sandbox_id)
        labels = {LABEL_SANDBOX: state.sandbox_id, LABEL_OWNER: self.lease_label, LABEL_VERSION: __version__}
        try:
            failpoint("containers.momentary.state")
            await self.dialect.api.call("POST", "/containers/create", query={"name": name}, body={**body, "Labels": labels})
            failpoint("containers.momentary.created")
            yield name
        finally:
            await asyncio.shield(self._remove(name, state))

    async def _remove(self, name: str, state: SandboxState) -> None:
        try:
            with contextlib.suppress(EngineRefused, BackendUnavailable):  # the next sweep finds it by its record
                await self.containers.remove(name)
                state.release()
        finally:
            state.let_go()

    @property
    def state(self) -> StateRoot:
        """Where sandboxes are recorded while they live."""
        if self._state is None:
            base, uid = self._state_base(), os.geteuid()
            root = StateRoot(path=base, place=self.dialect.name, mount_point=base / "mount")
            passable = PASSABLE if uid == 0 else CLOSED  # the base serves other backends, too
            own = (base / self.dialect.name, root.sandboxes, root.lasting)
            for directory, mode in ((base, passable), *((path, CLOSED) for path in own)):
                own_directory(directory, mode, uid)
            self._state = root
        return self._state

    @property
    def is_recorded(self) -> bool:
        """Whether there may be records; where there are none nothing was ever made here since the host's start."""
        return self._state is not None or (self._state_base() / self.dialect.name).is_dir()

    @property
    def was_used(self) -> bool:
        """Whether this user ever had a sandbox of this backend. Where not, no engine is asked what is left: Podman would be started."""
        return (self._data_base() / self.dialect.name).is_dir()

    def note_use(self) -> None:
        """Before the first sandbox is made; what it notes outlasts the host's restart, as containers do."""
        own_directory(self._data_base() / self.dialect.name, CLOSED, os.geteuid())

    def files(self, sandbox_id: str) -> Path:
        """Where what a private view keeps on disk is; made when it is needed."""
        return self._data_base() / self.dialect.name / sandbox_id

    def make_files(self, sandbox_id: str, owner: str) -> Path:
        """Makes that directory, of that owner."""
        path, uid = self.files(sandbox_id), os.geteuid()
        for directory in (path.parent, path):
            own_directory(directory, CLOSED, uid)
        write_file(f"{path}/owner", owner)
        return path

    def owned(self, owner: str) -> tuple[str, ...]:
        """The ids of that owner's booted sandboxes that have anything on this host."""
        bases = (self.state.lasting, self._data_base() / self.dialect.name)
        return tuple(dict.fromkeys(found for base in bases if base.is_dir() for found in owned_in(base, owner)))

    @property
    def lease_label(self) -> str:
        """The owner's label of containers that end with the process that made them: of this host's records alone."""
        machine = read_file("/etc/machine-id") + os.fsencode(self._state_base()) + str(os.geteuid()).encode()
        return f"lease-{hashlib.sha256(machine).hexdigest()[:24]}"

    @property
    def own_directories(self) -> tuple[str, ...]:
        """What no sandbox may see, as named and where it really is."""
        named = [str(self._state_base()), str(self._data_base())]
        if self.state_directory is None:
            named.append(runtime_directory(os.environ, os.geteuid()))  # with the daemon's socket
        return tuple(dict.fromkeys((*named, *map(os.path.realpath, named))))

    @property
    def data_directory(self) -> str:
        """Agentkernel's own."""
        return str(self._data_base())

    def _state_base(self) -> Path:
        return self.state_directory or Path(state_directory(os.environ, os.geteuid()))

    def _data_base(self) -> Path:
        return self.state_directory / "data" if self.state_directory else Path(data_directory(os.environ, os.geteuid()))
