"""The program `container`: called with an argv, answered in JSON. Written for version 1.2 of its command reference."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from agentkernel.errors import BackendUnavailable, SandboxFailed

OLDEST: Final = (1, 0)  # the first with --ulimit and --shm-size
SLOW_S: Final = 300.0  # unpacking an image, booting a machine for the first time
_QUICK_S = 30.0
_WORDS_BYTES = 2000
_PASSED = ("PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "LANG")


class ProgramFailed(SandboxFailed):
    """The program ended with an exit status that says so."""

    def __init__(self, verb: str, status: int, words: str) -> None:
        super().__init__(f"`container {verb}` failed with status {status}: {words or 'it says nothing'}")
        self.words = words

    @property
    def says_missing(self) -> bool:
        """Whether what was named is not there."""
        return "notfound" in self.words.lower().replace(" ", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """One container, as `list` shows it."""

    name: str
    runs: bool
    labels: Mapping[str, str] = field(default_factory=dict)


class Program:
    """The program at a path; makes no process before it is asked something."""

    def __init__(self, path: str) -> None:
        self._path = path

    async def call(self, *arguments: str, deadline_s: float = _QUICK_S) -> str:
        """Runs it to its end and returns what it wrote to stdout; one that is cancelled or too slow is killed.

        Raises:
            ProgramFailed: it said no.
            BackendUnavailable: it cannot be run.
            SandboxFailed: it did not end in time.
        """
        if not self._path:
            raise BackendUnavailable("the program `container` is not installed", hint="https://github.com/apple/container/releases")
        pipe = asyncio.subprocess.PIPE
        try:
            process = await asyncio.create_subprocess_exec(
                self._path,
                *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=pipe,
                stderr=pipe,
                env=_environment(),
                start_new_session=True,
            )
        except OSError as error:
            raise BackendUnavailable(f"`container` cannot be run: {error}", hint="install it again") from error
        try:
            async with asyncio.timeout(deadline_s):
                out, words = await process.communicate()
        except TimeoutError:
            raise SandboxFailed(
                f"`container {arguments[0]}` did not end within {deadline_s:g} seconds", hint="see `container system logs`"
            ) from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode:
            raise ProgramFailed(arguments[0], process.returncode, words[-_WORDS_BYTES:].decode("utf-8", "replace").strip())
        return out.decode("utf-8", "replace")

    async def ask(self, *arguments: str) -> Any:
        """The same for what answers in JSON."""
        text = await self.call(*arguments)
        try:
            return json.loads(text)
        except ValueError as error:
            raise SandboxFailed(f"`container {arguments[0]}` did not answer in JSON: {error}") from error

    async def version(self) -> tuple[int, ...]:
        """Of the program, once its service answers; raises BackendUnavailable where it does not."""
        try:
            status = await self.ask("system", "status", "--format", "json")
        except ProgramFailed as failure:
            raise BackendUnavailable(
                f"its service does not run: {failure.words or 'status says nothing'}", hint="container system start"
            ) from failure
        if not isinstance(status, dict) or status.get("status") != "running":
            raise BackendUnavailable("its service does not run", hint="container system start")
        found = await self.ask("system", "version", "--format", "json")
        named = (
            {str(part.get("appName")): str(part.get("version")) for part in found if isinstance(part, dict)}
            if isinstance(found, list)
            else {}
        )
        numbers = named.get("container", "").split(".")
        return tuple(int(number) for number in numbers if number.isdigit())

    async def containers(self) -> dict[str, Container]:
        """All, running or not, by name."""
        listed = await self.ask("list", "--all", "--format", "json")
        found = [_container(record) for record in listed if isinstance(record, dict)] if isinstance(listed, list) else []
        return {each.name: each for each in found}

    async def delete(self, name: str) -> None:
        """Ends and removes one; one that is not there is fine."""
        try:
            await self.call("delete", "--force", name)
        except ProgramFailed:
            if name in await self.containers():
                raise

    async def converse(self, *arguments: str) -> tuple[socket.socket, asyncio.subprocess.Process]:
        """Starts it with its standard streams joined to the socket that is returned: non-blocking, the caller's."""
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                process = await asyncio.create_subprocess_exec(
                    self._path,
                    *arguments,
                    stdin=theirs.fileno(),
                    stdout=theirs.fileno(),
                    stderr=asyncio.subprocess.DEVNULL,
                    env=_environment(),
                    start_new_session=True,
                )
        except BaseException:
            ours.close()
            raise
        ours.setblocking(False)
        return ours, process


def _environment() -> dict[str, str]:
    return {name: os.environ[name] for name in _PASSED if name in os.environ}


def _container(record: dict[str, Any]) -> Container:
    """Versions before 1.2 have the status as a word, later ones as an object."""
    configuration = record.get("configuration")
    configuration = configuration if isinstance(configuration, dict) else {}
    status = record.get("status")
    state = status.get("state") if isinstance(status, dict) else status
    labels = configuration.get("labels")
    return Container(
        name=str(record.get("id") or configuration.get("id") or ""),
        runs=state == "running",
        labels={str(name): str(value) for name, value in labels.items()} if isinstance(labels, dict) else {},
    )
