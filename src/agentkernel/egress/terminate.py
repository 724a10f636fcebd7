"""Connections to the hosts of secrets: taken out of their TLS, every request judged and filled in, and put into TLS to the real server.

Bodies pass as they are, both ways. The client's TLS ends here with a certificate for that very host; the server's is verified as this host
verifies it.
"""

from __future__ import annotations

import asyncio
import errno
import ssl
from typing import TYPE_CHECKING, Final

from agentkernel.egress.attempt import Attempt, RefusedError, failed
from agentkernel.egress.http import Origin, Request, RequestReader
from agentkernel.egress.http_body import Framing, Kind
from agentkernel.egress.http_fields import BadMessage
from agentkernel.egress.http_refusal import render_refusal, render_refused
from agentkernel.egress.http_response import Response, ResponseReader
from agentkernel.egress.relay import Body
from agentkernel.egress.tls_stream import TlsStream, TunnelLink, UpstreamLink
from agentkernel.egress.tunnel import Tunnel
from agentkernel.egress.upstream import Upstream
from agentkernel.egress.vault import Vault
from agentkernel.model.secrets import TLS_PORT

if TYPE_CHECKING:
    from agentkernel.egress.sandbox import Sandbox

HANDSHAKE_S: Final = 30.0
IDLE_S: Final = 120.0  # between two requests
HEAD_S: Final = 60.0
END_S: Final = 2.0
_REPEATABLE: Final = ("GET", "HEAD", "OPTIONS")


async def terminate(sandbox: Sandbox, vault: Vault, tunnel: Tunnel, attempt: Attempt, upstream: Upstream) -> None:
    """Serves a tunnel whose program is about to begin TLS with the attempt's host; closes both connections."""
    conversation = _Conversation(sandbox, vault, tunnel, attempt, upstream)
    try:
        await conversation.serve()
    finally:
        conversation.close()


class _Conversation:
    def __init__(self, sandbox: Sandbox, vault: Vault, tunnel: Tunnel, attempt: Attempt, upstream: Upstream) -> None:
        self._sandbox = sandbox
        self._vault = vault
        self._tunnel = tunnel
        self._attempt = attempt
        self._host, self._port = attempt.host, attempt.port
        self._client = TlsStream(TunnelLink(tunnel), vault.server_context(attempt.host, attempt.port))
        self._raw: Upstream | None = upstream  # to the server, when it is not in TLS yet
        self._open: Upstream = upstream
        self._server: TlsStream | None = None
        self._from_server = b""  # read, and not taken yet
        self._is_fresh = True  # nothing was asked on it yet
        self._rest = b""  # what the client has said behind the request that is served
        self._told: set[str] = set()
        self._encoded: dict[bytes, bytes] = {}  # of the request that is served

    async def serve(self) -> None:
        """Takes request after request."""
        try:
            async with asyncio.timeout(HANDSHAKE_S):
                await self._client.handshake()
            while (request := await self._next_request()) is not None and await self._serve_one(request):
                pass
            await self._bid_farewell()
        except BadMessage as error:
            await self._refuse(render_refusal(error.status, "egress_invalid", error.reason))
        except (OSError, TimeoutError):
            return  # one of the ends has gone, speaks no TLS, or does not trust this one; what was cut off must look so

    def close(self) -> None:
        """Closes both connections."""
        self._open.close()
        self._tunnel.close(errno.ECONNRESET)

    # -- requests

    async def _next_request(self) -> Request | None:
        """None: the client has ended. Raises BadMessage, OSError, TimeoutError."""
        reader = RequestReader(Origin(self._host, self._port, TLS_PORT))
        data = self._left_by_client()
        if not data:
            async with asyncio.timeout(IDLE_S):
                data = await self._client.receive()
        async with asyncio.timeout(HEAD_S):
            while data:
                request = reader.feed(data)
                if request is not None:
                    self._rest = reader.rest
                    return request
                data = await self._client.receive()
        return None

    async def _serve_one(self, request: Request) -> bool:
        """Whether another request may follow."""
        told = self._sandbox.attempt("tls", self._host, self._port)
        told.address = self._attempt.address
        try:
            filled = self._vault.filled(request)
            self._encoded = filled.encoded
            response, sending = await self._exchanged(filled.request)
        except RefusedError as refused:
            told.refuse(refused)
            await self._refuse(render_refused(refused, self._attempt, request.method))
            return False
        for name in filled.used:
            self._tell_use(name)
        try:
            return await self._pass_back(request, self._hidden(response), sending)
        finally:
            sending.cancel()

    def _hidden(self, response: Response) -> Response:
        return self._vault.hidden(response, self._encoded)

    def _tell_use(self, name: str) -> None:
        """Once for each connection."""
        if name not in self._told:
            self._told.add(name)
            told = self._sandbox.attempt("tls", self._host, self._port)
            told.address, told.rule = self._attempt.address, f"secret {name}"
            told.allow()

    async def _exchanged(self, request: Request) -> tuple[Response, asyncio.Task[bool]]:
        """The head of the answer, and the task that sends the body. Raises RefusedError, BadMessage, OSError."""
        repeatable = request.framing.kind is Kind.NONE and request.method in _REPEATABLE
        server = await self._connected()
        was_fresh, self._is_fresh = self._is_fresh, False
        sending = await self._asked(server, request)
        try:
            response = await self._answer(server, request)
            if response is None and repeatable and not was_fresh:
                self._open.close()  # a kept connection that the server closed just then: once again on a new one
                server = await self._connected()
                sending.cancel()
                sending = await self._asked(server, request)
                response = await self._answer(server, request)
        except BaseException:
            sending.cancel()
            raise
        if response is None:
            sending.cancel()
            raise failed(f"{self._host} closed the connection without an answer", rule=self._attempt.rule)
        return response, sending

    async def _connected(self) -> TlsStream:
        """TLS to the server, which is who it should be; raises RefusedError."""
        server = self._server
        if server is not None and not self._from_server and not self._open.is_stale() and server.is_quiet():
            return server
        upstream, self._raw = self._raw, None
        if upstream is None:
            self._open.close()
            upstream = self._open = await self._sandbox.reach(self._tunnel, self._attempt)
        server = TlsStream(UpstreamLink(upstream), self._vault.client_context(), server_name=self._host)
        try:
            async with asyncio.timeout(HANDSHAKE_S):
                await server.handshake()
        except ssl.SSLCertVerificationError as error:
            upstream.close()
            raise failed(f"this host does not trust the certificate of {self._host}: {error.verify_message}") from None
        except (OSError, TimeoutError):
            upstream.close()
            raise failed(f"TLS with {self._host} does not come about") from None
        self._server, self._from_server, self._is_fresh = server, b"", True
        return server

    async def _asked(self, server: TlsStream, request: Request) -> asyncio.Task[bool]:
        """Sends the head, and lets the body follow by itself."""
        head = request.render()
        try:
            await server.send(head)
        except OSError:
            pass  # reading the answer shows the same
        self._sandbox.count(len(head))
        return asyncio.get_running_loop().create_task(self._send_body(server, request.framing))

    async def _send_body(self, server: TlsStream, framing: Framing) -> bool:
        """Whether all of it was sent. What comes behind it is the next request's."""
        body = Body(framing, framing.kind)
        try:
            while not body.is_done:
                data = self._left_by_client() or await self._client.receive()
                if not data:
                    self._tunnel.abort()  # nobody would believe an answer to half a request
                    return False
                out = body.feed(memoryview(data))
                self._sandbox.count(len(data))
                await server.send(bytes(out))
                self._rest = body.rest
        except BadMessage:
            self._tunnel.abort()
            return False
        except OSError:
            return False  # the answer says why, if there is one
        return True

    # -- answers

    async def _answer(self, server: TlsStream, request: Request) -> Response | None:
        """The head of the answer, after interim ones are passed on; None: the server closed before it said anything."""
        reader, heard = ResponseReader(request.method, upgrade=request.upgrade), False
        while True:
            data = self._left_by_server()
            if not data:
                try:
                    data = await server.receive()
                except OSError:
                    data = b""
            if not data:
                if heard:
                    raise BadMessage("the server's answer is cut off", 502)
                return None
            heard = True
            response = reader.feed(data)
            if response is None:
                continue
            self._from_server = reader.rest
            if not response.is_interim:
                return response
            await self._send_head(request, self._hidden(response), close=False)
            reader = ResponseReader(request.method, upgrade=request.upgrade)

    async def _pass_back(self, request: Request, response: Response, sending: asyncio.Task[bool]) -> bool:
        server = self._server
        assert server is not None  # noqa: S101 - what answered
        if response.is_switch:
            await self._send_head(request, response, close=False)
            await self._pass_both_ways(server)
            return False
        kind = response.framing_for(request.minor)
        last = not request.keep_alive or kind is Kind.CLOSE or not sending.done() or not sending.result()
        await self._send_head(request, response, close=last)
        await self._pass_body(server, Body(response.framing, kind))
        if not response.keep_alive:
            self._open.close()
        return not last

    async def _send_head(self, request: Request, response: Response, *, close: bool) -> None:
        head = response.render(request.minor, close=close)
        self._sandbox.count(len(head))
        await self._client.send(head)

    async def _pass_body(self, server: TlsStream, body: Body) -> None:
        """Raises OSError and BadMessage where it is cut off: the client must not take a part for the whole."""
        while not body.is_done:
            data = self._left_by_server() or await server.receive()
            if not data:
                await self._client.send(bytes(body.end()))
                return
            await self._client.send(bytes(body.feed(memoryview(data))))
            self._sandbox.count(len(data))
            self._from_server = body.rest

    async def _pass_both_ways(self, server: TlsStream) -> None:
        """A WebSocket's bytes, which are nobody's business here, until either end ends it."""
        for target, left in ((server, self._left_by_client()), (self._client, self._left_by_server())):
            self._sandbox.count(len(left))
            await target.send(left)
        flows = {asyncio.ensure_future(self._flow(self._client, server)), asyncio.ensure_future(self._flow(server, self._client))}
        try:
            done, _ = await asyncio.wait(flows, return_when=asyncio.FIRST_COMPLETED)
            for flow in done:
                flow.result()
        finally:
            for flow in flows:
                flow.cancel()
            await asyncio.gather(*flows, return_exceptions=True)

    async def _flow(self, source: TlsStream, target: TlsStream) -> None:
        while data := await source.receive():
            self._sandbox.count(len(data))
            await target.send(data)
        await target.end()

    def _left_by_client(self) -> bytes:
        data, self._rest = self._rest, b""
        return data

    def _left_by_server(self) -> bytes:
        data, self._from_server = self._from_server, b""
        return data

    # -- the end

    async def _refuse(self, answer: bytes) -> None:
        try:
            async with asyncio.timeout(END_S):
                await self._client.send(answer)
        except (OSError, TimeoutError):
            return
        await self._bid_farewell()

    async def _bid_farewell(self) -> None:
        """Ends the client's TLS, and gives it a moment to read what it was told last."""
        try:
            async with asyncio.timeout(END_S):
                await self._client.end()
                self._tunnel.end()
                await self._tunnel.finished()
        except (OSError, TimeoutError):
            return
