"""What the campaign does to sandboxes, in the same words over a socket and in process."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from agentkernel.abc import Caller, Kernel
from agentkernel.model.command import Command, ExecResult
from agentkernel.model.record import CreateOptions, EventFilter, SandboxFilter
from agentkernel.model.request import SandboxRequest


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What sandboxes are made of, and where; `image`: empty where the backend shows the host's root."""

    backend: str
    image: str
    cwd: str


class Operations:
    """Each is one act of a user; data is text, so that it can travel as JSON."""

    def __init__(self, kernel: Kernel, caller: Caller, subject: Subject) -> None:
        self._kernel = kernel
        self._caller = caller
        self._request = SandboxRequest(argv=(b"sh",), cwd=subject.cwd, backend=subject.backend, image=subject.image or None)

    async def create(self, name: str, key: str, start: bool) -> str:
        """Makes a lasting sandbox and returns its id."""
        options = CreateOptions(name=name, start=start, request_key=key)
        return (await self._kernel.create(self._caller, self._request, options)).sandbox_id

    async def start(self, name: str) -> None:
        """Boots it."""
        await self._kernel.start(self._caller, name)

    async def stop(self, name: str) -> None:
        """Stops it."""
        await self._kernel.stop(self._caller, name)

    async def remove(self, name: str, force: bool) -> None:
        """Removes it."""
        await self._kernel.remove(self._caller, name, force=force)

    async def rename(self, name: str, new_name: str) -> None:
        """Renames it."""
        await self._kernel.rename(self._caller, name, new_name)

    async def list(self) -> list[tuple[str, str, str, str]]:
        """Id, name, status and reason of every lasting sandbox."""
        found = await self._kernel.sandboxes(self._caller, SandboxFilter(limit=1000))
        return [(each.sandbox_id, each.name, each.status.value, each.reason) for each in found]

    async def passing(self) -> list[str]:
        """The ids of sandboxes that were made for one command."""
        found = await self._kernel.sandboxes(self._caller, SandboxFilter(limit=1000, ephemeral=True))
        return [each.sandbox_id for each in found if each.ephemeral]

    async def ids(self, after: int) -> list[tuple[int, str]]:
        """The sandboxes of the audit trail's events after that one, with their events' ids."""
        found = self._kernel.events(self._caller, EventFilter(after=after, limit=1000))
        return [(event.event_id, event.sandbox_id) async for event in found]

    async def write(self, name: str, path: str, text: str) -> None:
        """Replaces a file."""
        sandbox = await self._kernel.open(self._caller, name)
        try:
            await sandbox.files.write(path, text.encode())
        finally:
            await sandbox.close()

    async def read(self, name: str, path: str) -> str:
        """Reads a file."""
        sandbox = await self._kernel.open(self._caller, name)
        try:
            return (await sandbox.files.read(path)).decode()
        finally:
            await sandbox.close()

    async def exec(self, name: str, script: str) -> tuple[int, str]:
        """Runs a shell script to its end: exit code and output."""
        sandbox = await self._kernel.open(self._caller, name)
        try:
            return _told(await sandbox.exec(_command(script)))
        finally:
            await sandbox.close()

    async def run(self, script: str) -> tuple[int, str]:
        """Runs it in a sandbox of its own."""
        async with self._kernel.sandbox(self._caller, self._request) as (sandbox, _):
            return _told(await sandbox.exec(_command(script)))

    async def detach(self, name: str, script: str) -> int:
        """Starts it in the background and returns its exec id."""
        sandbox = await self._kernel.open(self._caller, name)
        try:
            process = await sandbox.start(_command(script, detached=True))
            return process.exec_id
        finally:
            await sandbox.close()

    async def logs(self, name: str, exec_id: int) -> str:
        """What a background command has printed so far, as recorded."""
        entries = self._kernel.logs(self._caller, name, exec_id=exec_id)
        return b"".join([entry.data async for entry in entries]).decode()

    async def gc(self) -> list[str]:
        """Collects garbage."""
        return list(await self._kernel.collect_garbage(self._caller))

    async def pause(self, seconds: float) -> None:
        """Does nothing."""
        await asyncio.sleep(seconds)


def _command(script: str, *, detached: bool = False) -> Command:
    return Command(argv=(b"sh", b"-c", script.encode()), detached=detached)


def _told(result: ExecResult) -> tuple[int, str]:
    return result.exit_code, result.stdout.decode() + result.stderr.decode()
