"""The command line as a front: processes of it, with the surface of `agentkernel.AsyncClient` that scenarios use."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

from parity import fronts_cli_streams as streams
from parity import told

from agentkernel.errors import AgentKernelError

DEADLINE_S: Final = 60.0


class CliClient:
    """Runs verbs in a directory."""

    def __init__(self, environment: Mapping[str, str], directory: Path) -> None:
        self.environment, self.directory = dict(environment), directory
        self.images = CliImages(self)

    async def __aenter__(self) -> CliClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Every verb has ended."""

    async def verb(self, *words: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Runs a verb to its end."""
        return await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "agentkernel", *words],
            input=stdin,
            capture_output=True,
            env=self.environment,
            cwd=self.directory,
            timeout=DEADLINE_S,
        )

    async def said(self, verb: str, *words: str) -> str:
        """What a verb prints with `--json`; raises the error that it tells."""
        done = await self.verb(verb, "--json", *words)
        if done.returncode:
            raise _error(done)
        return done.stdout.decode()

    async def json(self, verb: str, *words: str) -> Any:
        return json.loads(await self.said(verb, *words))

    async def lines(self, verb: str, *words: str) -> list[Any]:
        return [json.loads(line) for line in (await self.said(verb, *words)).splitlines()]

    async def command(self, words: Sequence[str], argv: Sequence[str], options: Mapping[str, Any]) -> told.Ran:
        """One command that is waited for, by `run` or `exec`."""
        given = options.get("stdin", b"")
        stdin = given.encode() if isinstance(given, str) else given
        done = await self.verb(*words[:1], "--json", *_options(options), *words[1:], *argv, stdin=stdin)
        record = json.loads(done.stdout)
        if "error" in record:
            raise _error(done)
        result = told.ran(record)
        assert done.returncode == result.exit_code
        return result

    async def run(self, *argv: str, **options: Any) -> told.Ran:
        return await self.command(("run", "--"), argv, options)

    def run_stream(self, *argv: str, **options: Any) -> CliStream:
        return CliStream(self, ("run", *_options(options), "--", *argv), options.get("stdin", "").encode())

    async def create(self, *, name: str | None = None, ttl: float | None = None, start: bool = True, **options: Any) -> CliSandbox:
        words = [] if name is None else [name]
        words += ["--start"] if start else []
        words += [] if ttl is None else ["--ttl", f"{ttl}s"]
        words += [word for key, value in options.pop("labels", {}).items() for word in ("--label", f"{key}={value}")]
        words += ["--no-network"] if not options.pop("network", True) else []
        words += [word for key, value in options.items() for word in (f"--{key.replace('_', '-')}", value)]
        return CliSandbox(self, told.sandbox(await self.json("create", *words)))

    async def get(self, name: str) -> CliSandbox:
        return CliSandbox(self, told.sandbox(await self.json("info", name)))

    async def list(self, *, labels: Mapping[str, str] | None = None) -> list[CliSandbox]:
        words = [word for key, value in (labels or {}).items() for word in ("--label", f"{key}={value}")]
        return [CliSandbox(self, told.sandbox(each)) for each in await self.json("list", *words)]

    async def fingerprints(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(backend=each["name"], ready=each["ready"]) for each in await self.json("backends")]

    async def status(self) -> SimpleNamespace:
        found = await self.json("daemon", "status")
        return SimpleNamespace(sandboxes=found["sandboxes"], running=found["sandboxes_running"])

    async def collect_garbage(self, *, dry_run: bool) -> Any:
        return await self.json("gc", *(["--dry-run"] if dry_run else []))

    async def events(self, *, sandbox: str, kinds: Sequence[str] = ()) -> AsyncIterator[SimpleNamespace]:
        for each in await self.lines("audit", "--sandbox", sandbox, *(word for kind in kinds for word in ("--kind", kind))):
            yield SimpleNamespace(**each)


class CliSandbox:
    """One sandbox."""

    def __init__(self, client: CliClient, info: SimpleNamespace) -> None:
        self._client, self.id, self.name = client, info.id, info.name
        self.files = CliFiles(client, info.id)

    async def exec(self, *argv: str, **options: Any) -> told.Ran:
        return await self._client.command(("exec", self.id), argv, options)

    async def spawn(self, *argv: str, **options: Any) -> CliProcess:
        done = await self._client.json("exec", "--detach", *_options(options), self.id, *argv)
        return CliProcess(self._client, self.id, done["exec_id"])

    def stream(self, *argv: str, **options: Any) -> CliStream:
        words = ("exec", *_options(options), self.id, *argv)
        return CliStream(self._client, words, options.get("stdin", "").encode())

    def talk(self, *argv: str, tty: tuple[int, int] | None) -> AbstractAsyncContextManager[Any]:
        there = (self._client.environment, self._client.directory)
        if tty is None:
            return streams.piped(("exec", self.id, *argv), *there)
        return streams.on_terminal(("exec", "--tty", self.id, *argv), *there, tty)

    async def process(self, exec_id: int) -> CliProcess:
        return CliProcess(self._client, self.id, f"{exec_id:016x}")

    async def processes(self) -> list[SimpleNamespace]:
        return [told.process(each) for each in await self._client.json("ps", "--all", self.id)]

    async def kill_commands(self) -> None:
        await self._client.said("kill", "--all", "--signal", "KILL", self.id)

    async def logs(self, *, exec_id: int) -> AsyncIterator[SimpleNamespace]:
        for each in await self._client.lines("logs", "--exec", f"{exec_id:016x}", self.id):
            yield told.log(each)

    async def info(self) -> SimpleNamespace:
        return told.sandbox(await self._client.json("info", self.id))

    async def start(self) -> SimpleNamespace:
        return told.sandbox((await self._client.json("start", self.id))[0])

    async def stop(self) -> SimpleNamespace:
        return told.sandbox((await self._client.json("stop", self.id))[0])

    async def remove(self, *, force: bool = False) -> None:
        await self._client.said("remove", *(["--force"] if force else []), self.id)

    async def extend(self, ttl: str) -> SimpleNamespace:
        return told.sandbox(await self._client.json("extend-ttl", self.id, ttl))

    async def rename(self, name: str) -> SimpleNamespace:
        return told.sandbox(await self._client.json("rename", self.id, name))

    async def network(self) -> SimpleNamespace:
        return told.rules(await self._client.json("network", "show", self.id))

    async def allow(self, *hosts: str) -> SimpleNamespace:
        return told.rules(await self._client.json("network", "allow", self.id, *hosts))

    async def deny(self, *hosts: str) -> SimpleNamespace:
        return told.rules(await self._client.json("network", "deny", self.id, *hosts))

    async def forget(self, *hosts: str) -> SimpleNamespace:
        return told.rules(await self._client.json("network", "forget", self.id, *hosts))

    async def network_log(self) -> AsyncIterator[SimpleNamespace]:
        for each in await self._client.lines("network", "log", self.id):
            yield told.decision(each)

    async def publish(self, port: int, host_port: int = 0) -> SimpleNamespace:
        return told.port(await self._client.json("ports", self.id, f"{host_port}:{port}" if host_port else str(port)))

    async def unpublish(self, port: int) -> None:
        await self._client.said("ports", self.id, "--remove", str(port))

    async def ports(self) -> list[SimpleNamespace]:
        return [told.port(each) for each in await self._client.json("ports", self.id)]


class CliProcess:
    """A background command."""

    def __init__(self, client: CliClient, sandbox: str, ident: str) -> None:
        self._client, self._sandbox, self._ident, self.exec_id = client, sandbox, ident, int(ident, 16)

    def output(self) -> CliStream:
        return CliStream(self._client, ("attach", "--no-stdin", self._sandbox, self._ident), b"")

    async def kill(self) -> None:
        await self.signal(9)

    async def signal(self, number: int) -> None:
        await self._client.said("kill", "--signal", str(int(number)), self._sandbox, self._ident)


class CliStream:
    """What a verb passes on while its command runs; a verb that is left is killed."""

    def __init__(self, client: CliClient, words: Sequence[str], stdin: bytes) -> None:
        self._client, self._words, self._stdin = client, words, stdin
        self.exit_code: int | None = None

    async def __aiter__(self) -> AsyncIterator[SimpleNamespace]:
        said = b""
        async with streams.piped(self._words, self._client.environment, self._client.directory) as process:
            await process.write(self._stdin)
            await process.close_input()
            async for piece in process.output():
                said += piece.data
                if not said.startswith(b"error: "):
                    yield piece
            self.exit_code = (await process.wait()).exit_code
        if said.startswith(b"error: "):  # of verbs that talk: in words, as to people
            code = next(code for words, code in _SAID.items() if words in said)
            assert self.exit_code == told.error_of(code, "").exit_status
            raise told.error_of(code, said.decode())


_SAID: Final = {b"no such command in the sandbox": "command_not_found", b"no command": "not_found"}


class CliImages:
    """Images."""

    def __init__(self, client: CliClient) -> None:
        self._client = client

    async def pull(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(**await self._client.json("image", "pull", name))

    async def list(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(**each) for each in await self._client.json("image", "list")]

    async def remove(self, name: str) -> None:
        await self._client.said("image", "remove", name)

    async def prune(self, *, unused: float) -> list[str]:
        return list(await self._client.json("image", "prune", "--unused", f"{unused}s"))


class CliFiles:
    """Files, copied in and out."""

    def __init__(self, client: CliClient, sandbox: str) -> None:
        self._client, self._sandbox = client, sandbox
        self._copy = client.directory / "copy"

    async def read(self, path: str) -> bytes:
        self._copy.unlink(missing_ok=True)
        await self._client.said("cp", f"{self._sandbox}:{path}", str(self._copy))
        return self._copy.read_bytes()

    async def read_stream(self, path: str) -> AsyncIterator[bytes]:
        yield await self.read(path)

    async def upload(self, source: Path, target: str) -> SimpleNamespace:
        return SimpleNamespace(**await self._client.json("cp", str(source), f"{self._sandbox}:{target}"))

    async def download(self, source: str, target: Path) -> SimpleNamespace:
        return SimpleNamespace(**await self._client.json("cp", f"{self._sandbox}:{source}", str(target)))

    async def write(self, path: str, data: bytes) -> None:
        self._copy.write_bytes(data)
        await self._client.said("cp", str(self._copy), f"{self._sandbox}:{path}")


def _options(options: Mapping[str, Any]) -> list[str]:
    """A command's surroundings as options."""
    words = [word for key, value in options.get("environment", {}).items() for word in ("--env", f"{key}={value}")]
    words += ["--timeout", f"{options['timeout']}s"] if "timeout" in options else []
    return words + (["--workdir", options["cwd"]] if "cwd" in options else [])


def _error(done: subprocess.CompletedProcess[bytes]) -> AgentKernelError:
    """The error that a verb has told: on stdout as JSON, on stderr in words, and by its exit status."""
    record = json.loads(done.stdout)
    error = told.error_of(record["error"]["code"], record["error"]["message"])
    assert done.returncode == record["exit_code"] == error.exit_status, record
    assert f"error: {record['error']['message']}" in done.stderr.decode()
    return error
