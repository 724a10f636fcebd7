"""Calls of an engine's HTTP interface, over whatever stream its endpoint gives.

One connection per call: beside what an engine does for it, connecting costs nothing, nothing goes stale and nothing stays open. Calls run
in threads of one small executor, since `http.client` blocks. No version is named before the engine has said which it speaks: the newest
engines refuse old ones, and old ones new ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar
from urllib.parse import urlencode

from agentkernel.backends.containers.endpoint import Endpoint
from agentkernel.errors import BackendUnavailable, SandboxFailed

DEADLINE_S: Final = 60.0
CONNECT_S: Final = 5.0
UPLOAD_S: Final = 600.0
NEWEST: Final = (1, 44)  # what this project was written against; engines that speak more are asked for this
MAX_ANSWER_BYTES: Final = 64 * 1024 * 1024  # but for streams
THREADS: Final = 16

Query = Mapping[str, object]
Result = TypeVar("Result")


class EngineRefused(SandboxFailed):
    """The engine answered with an error; `status` is HTTP's."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Api:
    """The engine at one endpoint. Every call raises BackendUnavailable when it cannot be reached, and EngineRefused."""

    def __init__(self, find: Callable[[], Endpoint], engine: str = "the container engine") -> None:
        """`find` says where it is when that is first needed, or raises BackendUnavailable; `engine` is how messages call it."""
        self._find = find
        self._endpoint: Endpoint | None = None
        self._engine = engine
        self._version = ""
        self._threads: ThreadPoolExecutor | None = None

    @property
    def endpoint(self) -> Endpoint:
        """Where it is; raises BackendUnavailable."""
        if self._endpoint is None:
            self._endpoint = self._find()
        return self._endpoint

    async def call(self, method: str, path: str, *, query: Query | None = None, body: object = None, deadline_s: float = DEADLINE_S) -> Any:
        """One request; returns the answer's JSON (None where it has no body), or its bytes where it is none.

        `body`: bytes are sent as a tar archive, anything else as JSON. A cancelled call waits for its answer all the same, so that whoever
        undoes what it did finds it.
        """
        return await self._in_thread(lambda: self._call(method, self._target(path, query), body, deadline_s))

    async def head(self, path: str, header: str, *, query: Query | None = None) -> str:
        """One header of the answer to HEAD; empty where it has none."""

        def ask() -> str:
            with self._failures(), self._connected() as connection:
                return self._begin(connection, "HEAD", self._target(path, query), None, DEADLINE_S, {}).getheader(header) or ""

        return await self._in_thread(ask)

    async def upload(self, method: str, path: str, chunks: Iterator[bytes], *, query: Query | None = None) -> Any:
        """The same with a body that is read as it is sent; `chunks` is used by another thread."""
        return await self._in_thread(lambda: self._call(method, self._target(path, query), chunks, UPLOAD_S))

    async def lines(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        silence_s: float | None = None,
    ) -> AsyncIterator[dict[str, Any]]:
        """The answer's JSON objects, one per line, as they come; None in `silence_s` waits for ever for the next.

        `body` may also be an iterator of bytes. Ending the iteration closes the connection, which ends what the engine does for it.
        """
        connection = await self._in_thread(self._connect)
        try:
            target = self._target(path, query)
            answer = await self._in_thread(lambda: self._begin(connection, method, target, body, DEADLINE_S, headers or {}))
            connection.stream.settimeout(silence_s)
            while line := await self._interruptible(answer.readline, connection):
                if line.strip():
                    yield json.loads(line)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise self._unreachable(error) from error
        finally:
            connection.hang_up()

    async def download(self, path: str, *, query: Query | None = None) -> AsyncIterator[bytes]:
        """The answer's bytes in chunks."""
        connection = await self._in_thread(self._connect)
        try:
            answer = await self._in_thread(lambda: self._begin(connection, "GET", self._target(path, query), None, DEADLINE_S, {}))
            while chunk := await self._interruptible(lambda: answer.read(65_536), connection):
                yield chunk
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from error
        finally:
            connection.hang_up()

    async def version(self) -> tuple[int, int]:
        """The newest version of its interface that the engine speaks, at most ours."""
        if not self._version:
            await self._in_thread(self._negotiate)
        major, minor = self._version.removeprefix("/v").split(".")
        return int(major), int(minor)

    def close(self) -> None:
        """Ends the threads; another call starts new ones."""
        threads, self._threads = self._threads, None
        if threads is not None:
            threads.shutdown(wait=False)

    async def _in_thread(self, work: Callable[[], Result]) -> Result:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="engine")
        under_way = asyncio.get_running_loop().run_in_executor(self._threads, work)
        try:
            return await asyncio.shield(under_way)
        except asyncio.CancelledError:
            await asyncio.wait([under_way])
            if not under_way.cancelled():
                under_way.exception()  # it is nobody's any more
            raise

    async def _interruptible(self, work: Callable[[], Result], connection: _Connection) -> Result:
        """Reading: a cancelled one is cut off at once."""
        under_way = asyncio.get_running_loop().run_in_executor(self._threads, work)
        try:
            return await asyncio.shield(under_way)
        except asyncio.CancelledError:
            connection.cut()
            await asyncio.wait([under_way])
            under_way.exception()
            raise

    # -- in threads

    def _call(self, method: str, target: Callable[[], str], body: object, deadline_s: float) -> Any:
        with self._failures(), self._connected() as connection:
            answer = self._begin(connection, method, target, body, deadline_s, {})
            content = answer.read(MAX_ANSWER_BYTES)
            if not content:
                return None
            is_json = (answer.getheader("Content-Type") or "").startswith("application/json")
            return json.loads(content) if is_json else content

    def _begin(
        self,
        connection: _Connection,
        method: str,
        target: Callable[[], str],
        body: object,
        deadline_s: float,
        headers: Mapping[str, str],
    ) -> http.client.HTTPResponse:
        """Sends the request and reads the head of its answer; raises EngineRefused for an error's."""
        with self._failures():
            path = target()
            connection.stream.settimeout(deadline_s)
            content, described = _encoded(body, method)
            named = {"Host": "engine", "Connection": "close", **described, **headers}
            connection.request(method, path, content, named, encode_chunked="Transfer-Encoding" in named)
            answer = connection.getresponse()
            if answer.status >= 400:
                raise EngineRefused(answer.status, _message(answer))
            return answer

    def _connect(self) -> _Connection:
        with self._failures():
            return _Connection(self.endpoint)

    @contextlib.contextmanager
    def _connected(self) -> Iterator[_Connection]:
        connection = self._connect()
        try:
            yield connection
        finally:
            connection.hang_up()

    def _target(self, path: str, query: Query | None) -> Callable[[], str]:
        text = urlencode({name: _text(value) for name, value in (query or {}).items()})

        def made() -> str:
            if not self._version:
                self._negotiate()
            return f"{self._version}{path}" + (f"?{text}" if text else "")

        return made

    def _negotiate(self) -> None:
        with self._failures(), self._connected() as connection:
            answer = self._begin(connection, "GET", lambda: "/_ping", None, CONNECT_S, {})
            said = answer.getheader("Api-Version") or "1.40"
            major, _, minor = said.partition(".")
            if not (major.isdecimal() and minor.isdecimal()):
                raise http.client.HTTPException(f"it says that it speaks version {said!r}")
            self._version = "/v{}.{}".format(*min((int(major), int(minor)), NEWEST))

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        """For the block, an engine that does not answer is BackendUnavailable."""
        try:
            yield
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise self._unreachable(error) from error

    def _unreachable(self, error: Exception) -> BackendUnavailable:
        where = self.endpoint
        if isinstance(error, FileNotFoundError):
            return BackendUnavailable(f"{self._engine} does not run: there is no {where}", hint="install it, or start its service")
        if isinstance(error, PermissionError):
            hint = "join the group that owns the socket (often `docker`), or use an engine of your own (rootless)"
            return BackendUnavailable(f"you may not use {self._engine} at {where}", hint=hint)
        if isinstance(error, ConnectionRefusedError):
            return BackendUnavailable(f"{self._engine} does not run: nobody listens at {where}", hint="start its service")
        said = f"no answer in time ({error})" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
        return BackendUnavailable(f"{self._engine} at {where} cannot be used: {said}", hint="see the engine's own log")


class _Connection(http.client.HTTPConnection):
    """Over the endpoint's stream, which is open already."""

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__("engine")
        self.sock = self.stream = endpoint.open(CONNECT_S)  # `sock` is gone as soon as the answer's head says that it is the last one
        self.answer: http.client.HTTPResponse | None = None

    def getresponse(self) -> http.client.HTTPResponse:
        """As of any connection; the answer is closed with it."""
        self.answer = super().getresponse()
        return self.answer

    def hang_up(self) -> None:
        """Closes the stream and the answer."""
        if self.answer is not None:
            self.answer.close()
        self.close()
        self.stream.close()

    def cut(self) -> None:
        """Ends whoever reads."""
        with contextlib.suppress(OSError):
            self.stream.shutdown(socket.SHUT_RDWR)

    def connect(self) -> None:
        """Never called: it is connected, and there is no second request."""
        raise http.client.NotConnected("the engine closed the connection")


def _encoded(body: object, method: str) -> tuple[Any, dict[str, str]]:
    """The body as it is sent, and the headers that describe it."""
    if body is None:
        return None, {} if method in ("GET", "HEAD") else {"Content-Length": "0"}
    if isinstance(body, bytes):
        return body, {"Content-Type": "application/x-tar"}
    if isinstance(body, Iterator):
        return body, {"Content-Type": "application/x-tar", "Transfer-Encoding": "chunked"}
    return json.dumps(body, separators=(",", ":")).encode(), {"Content-Type": "application/json"}


def _text(value: object) -> str:
    """Of a query: lists and tables (filters) as JSON, truth as 1 and 0."""
    if isinstance(value, bool):
        return str(int(value))
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def _message(answer: http.client.HTTPResponse) -> str:
    """What an error says, for people: one line."""
    content = answer.read(65_536)
    try:
        said = json.loads(content)
        text = str(said.get("message") or said.get("cause") or said) if isinstance(said, dict) else str(said)
    except ValueError:
        text = content.decode("utf-8", "replace")
    return " ".join(text.split())[:1000] or f"{answer.status} {answer.reason}"
