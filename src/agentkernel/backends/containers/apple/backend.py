"""The backend of Apple's containers: probe, create, boot, recover and sweep.

Written against the documented commands of the program (docs/backends/apple.md); what a Mac really does nobody has seen.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import tempfile
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from agentkernel import __version__
from agentkernel.abc import Sandbox
from agentkernel.abc_images import ImageKeeper
from agentkernel.backends._configuration import Configuration, Rlimits
from agentkernel.backends._guest import guest_binary
from agentkernel.backends._presence import find_program
from agentkernel.backends._records import BUILD_HINT, LEFT_HINT, check_identity, failing_as, owned_in
from agentkernel.backends.containers.apple import fingerprint
from agentkernel.backends.containers.apple.arguments import create_arguments
from agentkernel.backends.containers.apple.boundary import BACKEND, AppleBoundary, end_machine, remove_machine
from agentkernel.backends.containers.apple.furnish import Parts, furnish, parts_of
from agentkernel.backends.containers.apple.images import AppleImages
from agentkernel.backends.containers.apple.probe_image import probe_archive, probe_reference
from agentkernel.backends.containers.apple.program import OLDEST, SLOW_S, Program
from agentkernel.backends.containers.apple.state import Place, Places
from agentkernel.backends.containers.ledger import Ledger
from agentkernel.backends.containers.plan import ContainerPlan, Naming, Stream, container_name, plan_of
from agentkernel.channel.messages import NetworkPorts
from agentkernel.channel.sandbox import GuestSandbox, open_sandbox
from agentkernel.config.directories import data_directory
from agentkernel.errors import AgentKernelError, Conflict, LaunchFailed, SandboxFailed, SandboxLost, Unsupported
from agentkernel.failpoints import failpoint
from agentkernel.model.isolation import Fingerprint, Support
from agentkernel.model.spec import NetworkMode, RootFilesystem, RootKind, SandboxSpec
from agentkernel.policy.inside import PROXY_PORT, RESOLVER_PORT
from agentkernel.policy.needs import needs
from agentkernel.policy.seccomp import compile_filter

_IN_PROCESS = "process"  # the owner's label of sandboxes that end with their engine
_ARCHITECTURES = {"arm64": "aarch64", "aarch64": "aarch64", "x86_64": "x86_64"}
_IMAGE_ARCHITECTURES = {"aarch64": "arm64", "x86_64": "amd64"}
_ELF_MACHINES = {b"\x3e\x00": "x86_64", b"\xb7\x00": "aarch64"}  # e_machine, at byte 18
# Of Linux, in whose kernel they hold: Darwin has other numbers.
_FSIZE, _CORE, _NPROC, _NOFILE, _NICE, _RTPRIO = 1, 4, 6, 7, 13, 14


class AppleBackend:
    """Implements `abc.Backend` and `abc_images.KeepsImages`."""

    name = BACKEND

    def __init__(self, directory: Path | None = None, program: str = "") -> None:
        """`directory` overrides where sandboxes are recorded, `program` which program is called (tests)."""
        self._places = Places(directory or Path(data_directory(os.environ, os.geteuid()), "apple"))
        self._program = Program(program or find_program("container"))
        self._architecture = _ARCHITECTURES.get(platform.machine(), platform.machine())

    @property
    def keeper(self) -> ImageKeeper:
        """The program's images."""
        ledger = Ledger(str(self._places.base / "images.json"))
        return AppleImages(self._program, ledger, _IMAGE_ARCHITECTURES.get(self._architecture, self._architecture))

    async def probe(self) -> Fingerprint:
        """Boots a whole machine of an image that holds the guest alone, and has its agent answer."""
        try:
            version = await self._program.version()
            if version < OLDEST:
                said = ".".join(map(str, version)) or "an unknown version"
                return fingerprint.not_ready(f"`container` is {said}; 1.0 is the oldest that will do", "install a newer release of it")
            sandbox = await self.create(await self._probe_spec())
            try:
                await sandbox.statistics()
            finally:
                await sandbox.destroy()
        except AgentKernelError as error:
            return fingerprint.not_ready(error.message, error.hint or "see `container system logs`")
        return fingerprint.ready(version)

    async def create(self, spec: SandboxSpec) -> Sandbox:
        """Builds and starts a machine that ends with this process; see `abc.Backend.create`. Raises Unsupported as the probe says."""
        _refuse(spec)
        with failing_as(LaunchFailed, "cannot build the sandbox", BUILD_HINT):
            place = self._places.make(os.urandom(8).hex())
            try:
                return await self._start(spec, place)
            except BaseException:
                await asyncio.shield(self._undo(place))
                raise

    async def boot(self, sandbox_id: str, spec: SandboxSpec, owner: str) -> Sandbox:
        """Builds and starts one that lives on; see `abc.Backend.boot`. Raises also Conflict: another store or engine has it."""
        check_identity(sandbox_id, owner)
        _refuse(spec)
        with failing_as(LaunchFailed, "cannot build the sandbox", BUILD_HINT):
            place = self._places.find(sandbox_id, owner)
            was_there = place is not None and bool(place.arguments)
            place = place or self._places.make(sandbox_id, owner)
            failpoint("apple.boot.place")
            try:
                if was_there:
                    await end_machine(self._program, place)
                return await self._start(spec, place)
            except BaseException:
                await asyncio.shield(self._end_again(place) if was_there else self._undo(place))
                raise

    async def recover(self, sandbox_id: str, spec: SandboxSpec, owner: str) -> Sandbox | None:
        """Takes up a machine that runs; see `abc.Backend.recover`."""
        check_identity(sandbox_id, owner)
        with failing_as(SandboxFailed, "the sandbox cannot be taken up", LEFT_HINT):
            place = self._places.find(sandbox_id, owner)
            if place is None:
                return None
            failpoint("apple.recover.place")
            try:
                found = (await self._program.containers()).get(container_name(sandbox_id))
                if found is not None and found.runs and place.arguments:
                    with contextlib.suppress(SandboxLost):  # as one that had ended before
                        return (await _opened(self._boundary(spec, place)))[0]
                await asyncio.shield(end_machine(self._program, place))
                if not place.arguments:
                    await asyncio.shield(remove_machine(self._program, place))
            except BaseException:
                place.let_go()
                raise
            place.let_go()
            return None

    async def discard(self, sandbox_id: str, owner: str) -> None:
        """Removes a machine and its disk; see `abc.Backend.discard`."""
        check_identity(sandbox_id, owner)
        with failing_as(SandboxFailed, f"sandbox {sandbox_id} cannot be removed", LEFT_HINT):
            place = self._places.find(sandbox_id, owner)
            failpoint("apple.discard.place")
            if place is not None:
                await asyncio.shield(self._remove(place))

    async def sweep(self) -> int:
        """Removes the machines of `create` whose engine is gone, also those whose records are."""
        removed = 0
        if not self._places.base.is_dir():
            return 0
        with failing_as(SandboxFailed, "what another engine left cannot be removed", LEFT_HINT):
            for place in self._places.abandoned():
                await self._remove(place)
                removed += 1
        return removed

    async def sweep_owned(self, owner: str, keep: Collection[str]) -> int:
        """Removes an owner's machines that are not to be kept; see `abc.Backend.sweep_owned`."""
        removed = 0
        for sandbox_id in owned_in(self._places.lasting, owner) if self._places.lasting.is_dir() else ():
            if sandbox_id not in keep:
                with contextlib.suppress(Conflict):  # an engine that lives holds it
                    await self.discard(sandbox_id, owner)
                    removed += 1
        return removed

    async def _start(self, spec: SandboxSpec, place: Place) -> Sandbox:
        """Creates the machine where there is none, starts it, and waits until its agent has answered and it has what it needs."""
        plan, parts, arguments = await self._planned(spec, place)
        before = place.arguments
        if not before:
            place.record_configuration(_configuration(spec, self._architecture))
            await self._program.call(*arguments, deadline_s=SLOW_S)
            failpoint("apple.boot.created")
            place.record_arguments(arguments)
        elif before != arguments:
            raise LaunchFailed("the sandbox's machine was made for other settings", hint="remove it, and create it again")
        await self._program.call("start", plan.name, deadline_s=SLOW_S)
        failpoint("apple.boot.started")
        sandbox, boundary = await _opened(self._boundary(spec, place))
        try:
            await furnish(sandbox, plan, parts, again=bool(before))
        except BaseException:
            await sandbox.close()
            await boundary.end_session()
            raise
        return sandbox

    async def _planned(self, spec: SandboxSpec, place: Place) -> tuple[ContainerPlan, Parts, tuple[str, ...]]:
        if spec.root.digest:
            image = await self.keeper.find(spec.root.reference)
            if image is None or image.digest != spec.root.digest:
                hint = f"run `agentkernel image pull --backend {BACKEND} {spec.root.reference}`, and create it again"
                raise LaunchFailed(f"the image {spec.root.reference!r} is not here as it was granted", hint=hint)
        naming = Naming(
            sandbox_id=place.sandbox_id, owner=place.owner or _IN_PROCESS, version=__version__, guest_volume="", stream=Stream.SOCKET
        )
        plan = plan_of(spec, naming)
        parts = parts_of(plan, spec)
        plan = _named(plan, spec, parts)
        guest = await asyncio.to_thread(self._places.guest_directory, self._guest())
        return plan, parts, create_arguments(plan, str(guest))

    def _guest(self) -> Path:
        """The guest, if it is one for the machines' architecture; raises BackendUnavailable, LaunchFailed."""
        guest = guest_binary()
        with open(guest, "rb") as file:
            machine = _ELF_MACHINES.get(file.read(20)[18:20], "something else")
        if machine != self._architecture:
            hint = "install agentkernel from a wheel for macOS, or set AGENTKERNEL_GUEST"
            raise LaunchFailed(f"the guest {str(guest)!r} is for {machine}, the machines are {self._architecture}", hint=hint)
        return guest

    def _boundary(self, spec: SandboxSpec, place: Place) -> AppleBoundary:
        async def find() -> Place | None:
            return self._places.find(place.sandbox_id, place.owner)

        return AppleBoundary(spec, self._program, place, place.configuration, find)

    async def _undo(self, place: Place) -> None:
        """After a failure: what cannot be removed now the next sweep finds."""
        try:
            with contextlib.suppress(SandboxFailed):
                await remove_machine(self._program, place)
        finally:
            place.let_go()

    async def _end_again(self, place: Place) -> None:
        try:
            with contextlib.suppress(SandboxFailed):
                await end_machine(self._program, place)
        finally:
            place.let_go()

    async def _remove(self, place: Place) -> None:
        try:
            await remove_machine(self._program, place)
        finally:
            place.let_go()

    async def _probe_spec(self) -> SandboxSpec:
        guest = await asyncio.to_thread(self._guest().read_bytes)
        reference = probe_reference(guest)
        if await self.keeper.find(reference) is None:
            with tempfile.NamedTemporaryFile(suffix=".tar") as file:
                file.write(probe_archive(guest, self._architecture))
                file.flush()
                await self._program.call("image", "load", "--input", file.name, deadline_s=SLOW_S)
        root = RootFilesystem(kind=RootKind.IMAGE, reference=reference, label="probe")
        return SandboxSpec(name="probe", profile="moderate", root=root, network=NetworkMode.FILTERED)


async def _opened(boundary: AppleBoundary) -> tuple[GuestSandbox, AppleBoundary]:
    """A sandbox whose agent has answered; where none does, no session is left."""
    try:
        sandbox = await open_sandbox(boundary)
        try:
            await sandbox.ready()
        except BaseException:
            await sandbox.close()
            raise
    except BaseException:
        await asyncio.shield(boundary.end_session())
        raise
    return sandbox, boundary


def _refuse(spec: SandboxSpec) -> None:
    """Raises Unsupported for what no machine of this backend has."""
    declared = fingerprint.ready(OLDEST)
    for feature in needs(spec, from_tar=False, user_asked=False):
        if declared.support(feature) is Support.REFUSED:
            provision = declared.features[feature]
            raise Unsupported(f"backend {BACKEND!r} cannot provide {feature}: {provision.reason}", hint=provision.remedy)
    if spec.runtime:
        raise Unsupported(f"backend {BACKEND!r} has no runtimes to choose from", hint="leave --runtime out")


def _named(plan: ContainerPlan, spec: SandboxSpec, parts: Parts) -> ContainerPlan:
    """The plan in the program's words: an image by its name, and the places of private copies."""
    return replace(plan, image=spec.root.reference, tmpfs=(*plan.tmpfs, *parts.memory))


def _configuration(spec: SandboxSpec, architecture: str) -> Configuration:
    filtered = spec.network is NetworkMode.FILTERED
    return Configuration(
        level=spec.level.label,
        seccomp=compile_filter(spec.seccomp, architecture),
        rlimits=_rlimits(spec),
        network=NetworkPorts(PROXY_PORT, RESOLVER_PORT, 0) if filtered else None,
    )


def _rlimits(spec: SandboxSpec) -> Rlimits:
    limits = spec.resources
    wanted = [(_CORE, 0), (_NOFILE, limits.open_files), (_FSIZE, limits.disk_bytes), (_NICE, 0), (_RTPRIO, 0)]
    if limits.pids is not None:
        wanted.append((_NPROC, limits.pids))
    return tuple((number, value, value) for number, value in wanted)
