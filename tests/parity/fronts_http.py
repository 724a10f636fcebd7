"""The HTTP API as a front: a client of it over a real connection, with the surface of `agentkernel.AsyncClient` that scenarios use."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import httpx
from parity import fronts_http_streams as streams
from parity import told

DEADLINE_S = 60.0


class HttpClient:
    """Asks a server at a URL. Every answer must be the envelope."""

    def __init__(self, url: str, token: str) -> None:
        headers = {"Authorization": f"Bearer {token}"}
        self.http = httpx.AsyncClient(base_url=url, headers=headers, timeout=DEADLINE_S, trust_env=False)

    @property
    def images(self) -> HttpImages:
        return HttpImages(self.ask)

    async def __aenter__(self) -> HttpClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.http.aclose()

    async def ask(self, method: str, path: str, body: object = None, **query: Any) -> Any:
        """The data of the answer; raises the error that it tells."""
        answer = await self.http.request(method, path, json=body, params=query or None)
        said = answer.json()
        if not said["success"]:
            assert answer.status_code >= 400 and said.keys() <= {"success", "error", "code", "hint"}
            raise told.error_of(said["code"], said["error"])
        assert answer.status_code in (200, 201) and said.keys() == {"success", "data"}
        return said["data"]

    async def run(self, *argv: str, **options: Any) -> told.Ran:
        return told.ran(await self.ask("POST", "/run", _command(argv, options)))

    def run_stream(self, *argv: str, **options: Any) -> streams.HttpStream:
        return streams.HttpStream(self.http, "POST", "/run/stream", _command(argv, options))

    async def batch(self, commands: Sequence[Sequence[str]]) -> list[tuple[str, int] | str]:
        found = await self.ask("POST", "/batch/run", {"commands": [{"command": argv} for argv in commands]})
        return [each["code"] or (each["output"], each["exit_code"]) for each in found["results"]]

    async def create(self, *, ttl: float | None = None, **options: Any) -> HttpSandbox:
        body = options | ({} if ttl is None else {"ttl_s": ttl})
        return HttpSandbox(self, told.sandbox(await self.ask("POST", "/sandboxes", body)))

    async def get(self, name: str) -> HttpSandbox:
        return HttpSandbox(self, told.sandbox(await self.ask("GET", f"/sandboxes/{quote(name, safe='')}")))

    async def list(self, *, labels: Mapping[str, str] | None = None) -> list[HttpSandbox]:
        found = await self.ask("GET", "/sandboxes", label=[f"{key}={value}" for key, value in (labels or {}).items()])
        return [HttpSandbox(self, told.sandbox(each)) for each in found]

    async def fingerprints(self) -> list[SimpleNamespace]:
        found = await self.ask("GET", "/backends")
        return [SimpleNamespace(backend=each["name"], ready=each["ready"]) for each in found["backends"]]

    async def status(self) -> SimpleNamespace:
        found = await self.ask("GET", "/status")
        return SimpleNamespace(sandboxes=found["sandboxes"], running=found["sandboxes_running"])

    async def collect_garbage(self, *, dry_run: bool) -> Any:
        return await self.ask("POST", "/gc", {"dry_run": dry_run})

    async def events(self, *, sandbox: str, kinds: Sequence[str] = ()) -> AsyncIterator[SimpleNamespace]:
        for each in (await self.ask("GET", "/audit", sandbox=sandbox, kind=list(kinds)))["events"]:
            yield SimpleNamespace(**each)


class HttpSandbox:
    """One sandbox."""

    def __init__(self, client: HttpClient, info: SimpleNamespace) -> None:
        self._client, self.id, self.name = client, info.id, info.name
        self._streams: dict[str, streams.HttpStream] = {}
        self.files = HttpFiles(self.ask, client.http, f"/sandboxes/{info.id}")

    async def ask(self, method: str, path: str, body: object = None, **query: Any) -> Any:
        return await self._client.ask(method, f"/sandboxes/{self.id}{path}", body, **query)

    async def exec(self, *argv: str, **options: Any) -> told.Ran:
        return told.ran(await self.ask("POST", "/exec", _command(argv, options)))

    def stream(self, *argv: str, **options: Any) -> streams.HttpStream:
        return streams.HttpStream(self._client.http, "POST", f"/sandboxes/{self.id}/exec/stream", _command(argv, options))

    def talk(self, *argv: str, tty: tuple[int, int] | None) -> AbstractAsyncContextManager[streams.HttpTalk]:
        return streams.talk(self._client.http, f"/sandboxes/{self.id}", argv, tty)

    async def spawn(self, *argv: str, **options: Any) -> HttpProcess:
        return self._process((await self.ask("POST", "/exec/detach", _command(argv, options)))["id"])

    async def process(self, exec_id: int) -> HttpProcess:
        return self._process(f"{exec_id:016x}")

    def _process(self, ident: str) -> HttpProcess:
        """With what has been heard of it: the next one who listens goes on there."""
        path = f"/sandboxes/{self.id}/exec/{ident}/stream"
        return HttpProcess(self.ask, ident, self._streams.setdefault(ident, streams.HttpStream(self._client.http, "GET", path)))

    async def statistics(self) -> SimpleNamespace:
        return SimpleNamespace(**await self.ask("GET", "/statistics"))

    async def processes(self) -> list[SimpleNamespace]:
        return [told.process(each) for each in await self.ask("GET", "/processes", ended=True)]

    async def kill_commands(self) -> None:
        await self.ask("DELETE", "/processes")

    async def logs(self, *, exec_id: int) -> AsyncIterator[SimpleNamespace]:
        for each in (await self.ask("GET", "/logs", exec_id=f"{exec_id:016x}"))["entries"]:
            yield told.log(each)

    async def info(self) -> SimpleNamespace:
        return told.sandbox(await self.ask("GET", ""))

    async def start(self) -> SimpleNamespace:
        return told.sandbox(await self.ask("POST", "/start"))

    async def stop(self) -> SimpleNamespace:
        return told.sandbox(await self.ask("POST", "/stop"))

    async def remove(self, *, force: bool = False) -> None:
        await self.ask("DELETE", "", force=force)

    async def extend(self, ttl: str) -> SimpleNamespace:
        return told.sandbox(await self.ask("POST", "/extend", {"by": ttl}))

    async def rename(self, name: str) -> SimpleNamespace:
        return told.sandbox(await self.ask("PATCH", "", {"name": name}))

    async def relabel(self, labels: Mapping[str, str]) -> SimpleNamespace:
        return told.sandbox(await self.ask("PATCH", "", {"labels": labels}))

    async def network(self) -> SimpleNamespace:
        return told.rules(await self.ask("GET", "/network"))

    async def allow(self, *hosts: str) -> SimpleNamespace:
        return told.rules(await self.ask("PATCH", "/network", {"allow": hosts}))

    async def deny(self, *hosts: str) -> SimpleNamespace:
        return told.rules(await self.ask("PATCH", "/network", {"deny": hosts}))

    async def forget(self, *hosts: str) -> SimpleNamespace:
        return told.rules(await self.ask("PATCH", "/network", {"remove": hosts}))

    async def network_log(self) -> AsyncIterator[SimpleNamespace]:
        for each in (await self.ask("GET", "/network/log"))["attempts"]:
            yield told.decision(each)

    async def publish(self, port: int, host_port: int = 0) -> SimpleNamespace:
        return told.port(await self.ask("POST", "/ports", {"port": port, "host_port": host_port}))

    async def unpublish(self, port: int) -> None:
        await self.ask("DELETE", f"/ports/{port}")

    async def ports(self) -> list[SimpleNamespace]:
        return [told.port(each) for each in await self.ask("GET", "/ports")]


class HttpProcess:
    """A background command."""

    def __init__(self, ask: Any, ident: str, stream: streams.HttpStream) -> None:
        self._ask, self._ident, self.exec_id, self._stream = ask, ident, int(ident, 16), stream

    def output(self) -> streams.HttpStream:
        return self._stream

    async def kill(self) -> None:
        await self._ask("DELETE", f"/exec/detached/{self._ident}")

    async def signal(self, number: int) -> None:
        await self._ask("POST", f"/processes/{self._ident}/signal", {"signal": number})


class HttpFiles:
    """Files as JSON."""

    def __init__(self, ask: Any, http: httpx.AsyncClient, sandbox: str) -> None:
        self._ask, self._http, self._sandbox = ask, http, sandbox

    async def read_stream(self, path: str) -> AsyncIterator[bytes]:
        async with self._http.stream("GET", f"{self._sandbox}/download{_inside(path)}") as answer:
            if answer.status_code != 200:
                raise streams.refused(await answer.aread())
            async for piece in answer.aiter_bytes():
                yield piece

    async def write_stream(self, path: str, data: bytes) -> None:
        async def pieces() -> AsyncIterator[bytes]:
            for at in range(0, len(data), 100_000):
                yield data[at : at + 100_000]

        answer = await self._http.put(f"{self._sandbox}/upload{_inside(path)}", content=pieces())
        assert answer.status_code == 200, answer.content

    async def upload(self, source: Path, target: str) -> SimpleNamespace:
        return await streams.upload(self._http, self._sandbox, source, target)

    async def download(self, source: str, target: Path) -> SimpleNamespace:
        return await streams.download(self._http, self._sandbox, source, target)

    async def read(self, path: str) -> bytes:
        found = await self._ask("GET", f"/files{_inside(path)}")
        return told.decoded(found["content"], found["encoding"])

    async def write(self, path: str, data: bytes) -> None:
        await self._ask("PUT", f"/files{_inside(path)}", {"content": base64.b64encode(data).decode(), "encoding": "base64"})

    async def stat(self, path: str) -> SimpleNamespace:
        return told.file(await self._ask("GET", f"/stat{_inside(path)}"))

    async def list(self, path: str) -> list[SimpleNamespace]:
        return [told.file(each) for each in await self._ask("GET", f"/list{_inside(path)}")]

    async def make_directory(self, path: str, *, parents: bool) -> None:
        await self._ask("POST", "/mkdir", {"path": path, "parents": parents})

    async def move(self, source: str, target: str) -> None:
        await self._ask("POST", "/move", {"source": source, "target": target})

    async def remove(self, path: str, *, recursive: bool = False) -> None:
        await self._ask("DELETE", f"/files{_inside(path)}", recursive=recursive)


class HttpImages:
    """Images."""

    def __init__(self, ask: Any) -> None:
        self._ask = ask

    async def pull(self, name: str) -> SimpleNamespace:
        job = await self._ask("POST", "/images/pull", {"image": name})
        if job["code"]:
            raise told.error_of(job["code"], job["error"])
        return SimpleNamespace(**job["image"])

    async def list(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(**each) for each in await self._ask("GET", "/images")]

    async def remove(self, name: str) -> None:
        await self._ask("DELETE", f"/images/{quote(name)}")

    async def prune(self, *, unused: float) -> list[str]:
        return list(await self._ask("POST", "/images/prune", {"unused_for_s": unused}))


def _inside(path: str) -> str:
    return quote(path)


def _command(argv: Sequence[str], options: Mapping[str, Any]) -> dict[str, Any]:
    """The body of a command."""
    names = {"environment": "env", "cwd": "workdir", "timeout": "timeout_s"}
    body: dict[str, Any] = {"command": argv, **{names.get(name, name): value for name, value in options.items()}}
    if isinstance(body.get("stdin"), bytes):
        body["stdin_base64"] = base64.b64encode(body.pop("stdin")).decode()
    return body
