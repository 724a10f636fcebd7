"""Requests of a proxy's clients: CONNECT, and `http://` URLs, one after another on a connection that is kept."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from agentkernel.egress.attempt import Attempt, RefusedError
from agentkernel.egress.http import Request, RequestReader
from agentkernel.egress.http_body import Kind
from agentkernel.egress.http_fields import BadMessage
from agentkernel.egress.http_refusal import CONNECTED, render_refusal, render_refused
from agentkernel.egress.http_response import Response, ResponseReader
from agentkernel.egress.opening import pass_through
from agentkernel.egress.proxied import asks_by_url, check_answer, render_by_url
from agentkernel.egress.reach import judge, named
from agentkernel.egress.relay import Body, BrokenFlowError, Inflow, Outflow, relay
from agentkernel.egress.tunnel import Tunnel
from agentkernel.egress.upstream import Upstream

if TYPE_CHECKING:
    from agentkernel.egress.sandbox import Sandbox

IDLE_S: Final = 120.0  # between two requests
HEAD_S: Final = 60.0  # for a request's head
LINGER_S: Final = 5.0  # for a program to read a refusal


async def serve_http(sandbox: Sandbox, tunnel: Tunnel) -> None:
    """Serves one client of the proxy to its end."""
    conversation = _Conversation(sandbox, tunnel)
    try:
        await conversation.serve()
    finally:
        conversation.close()


class _Conversation:
    def __init__(self, sandbox: Sandbox, tunnel: Tunnel) -> None:
        self._sandbox = sandbox
        self._tunnel = tunnel
        self._upstream: Upstream | None = None
        self._where = ("", 0, False)  # it leads there; whether an upstream proxy reads the requests
        self._is_fresh = False  # nothing was asked on it yet

    async def serve(self) -> None:
        """Takes request after request."""
        while True:
            await self._tunnel.sent()  # who does not read the answers gets no more of them
            try:
                request = await self._next_request()
            except BadMessage as error:
                await self._refuse(render_refusal(error.status, "egress_invalid", error.reason))
                return
            except TimeoutError:
                return
            if request is None or not await self._serve_one(request):
                return

    def close(self) -> None:
        """Lets go of the connection to the server."""
        if self._upstream is not None:
            self._upstream.close()
            self._upstream = None

    async def _next_request(self) -> Request | None:
        """None: the client has ended. Raises BadMessage, TimeoutError."""
        tunnel = self._tunnel
        async with asyncio.timeout(IDLE_S):
            if not await tunnel.some():
                return None
        reader = RequestReader()
        async with asyncio.timeout(HEAD_S):
            while True:
                request = reader.feed(tunnel.take(len(tunnel.buffer)))
                if request is not None:
                    tunnel.put_back(reader.rest)
                    return request
                if not await tunnel.more():
                    return None

    async def _serve_one(self, request: Request) -> bool:
        """Whether another request may follow. Answers refusals."""
        attempt = self._sandbox.attempt("connect" if request.is_connect else "http", request.host, request.port)
        try:
            attempt.host = named(self._sandbox.site, request.host)
            if request.is_connect:
                await self._connect(attempt)
                return False
            if self._sandbox.site.vault is not None:
                self._sandbox.site.vault.check_plain(request)
            return await self._forward(request, attempt)
        except RefusedError as refused:
            attempt.refuse(refused)
            await self._refuse(render_refused(refused, attempt, request.method))
        except BadMessage as error:  # the server's answer
            await self._refuse(render_refusal(502, "egress_failed", error.reason, method=request.method))
        return False

    async def _connect(self, attempt: Attempt) -> None:
        upstream = await self._sandbox.reach(self._tunnel, attempt)
        self._tunnel.send(CONNECTED)
        await pass_through(self._sandbox, self._tunnel, attempt, upstream)

    # -- requests by URL

    async def _forward(self, request: Request, attempt: Attempt) -> bool:
        proxy = self._sandbox.around.proxy if asks_by_url(self._sandbox.around.proxy, request) else None
        upstream = await self._server(attempt, by_url=proxy is not None)
        head = request.render() if proxy is None else render_by_url(proxy, request, attempt.host)
        out = await self._ask(upstream, request, head)
        response = await self._answer(upstream, request, out)
        if response is None and not self._is_fresh and request.framing.kind is Kind.NONE and request.method in ("GET", "HEAD", "OPTIONS"):
            self.close()  # a kept connection that the server closed just then: once again on a new one
            upstream = await self._server(attempt, by_url=proxy is not None)
            out = await self._ask(upstream, request, head)
            response = await self._answer(upstream, request, out)
        if response is None:
            raise BadMessage("the server closed the connection without an answer")
        if proxy is not None:
            check_answer(response)
        self._is_fresh = False
        return await self._pass_back(upstream, request, response, out)

    async def _server(self, attempt: Attempt, *, by_url: bool) -> Upstream:
        """A connection to where a request goes: the one that is there, or a new one."""
        where = (attempt.host, attempt.port, by_url)
        if self._upstream is not None and where == self._where and not self._upstream.is_stale():
            attempt.rule = judge(self._sandbox.site, attempt).rule
            return self._upstream
        self.close()
        self._upstream = await self._sandbox.reach(self._tunnel, attempt, by_url=by_url)
        self._where, self._is_fresh = where, True
        attempt.allow()
        return self._upstream

    async def _ask(self, upstream: Upstream, request: Request, head: bytes) -> Outflow:
        """Sends the head, and lets the body follow by itself."""
        out = Outflow(self._tunnel, upstream, self._sandbox.count, Body(request.framing, request.framing.kind))
        try:
            await upstream.send(head)
        except OSError:
            pass  # reading the answer shows the same
        self._sandbox.count(len(head))
        out.start()
        out.done.add_done_callback(self._asked)
        return out

    def _asked(self, done: asyncio.Future[None]) -> None:
        error = done.exception() if not done.cancelled() else None
        if isinstance(error, BadMessage) or (isinstance(error, BrokenFlowError) and error.end == "the program"):
            self._tunnel.abort()  # nobody would believe an answer to half a request

    async def _answer(self, upstream: Upstream, request: Request, out: Outflow) -> Response | None:
        """The head of the answer, after interim ones are passed on; None: the server closed before it said anything. Raises BadMessage."""
        reader, heard = ResponseReader(request.method, upgrade=request.upgrade), False
        while True:
            data, upstream.buffer = upstream.buffer, b""
            heard = heard or bool(data)
            response = reader.feed(data) if data else None
            if response is not None:
                upstream.buffer = reader.rest
                if not response.is_interim:
                    return response
                if request.minor == 1:
                    self._send_head(request, response, close=False)
                    await self._tunnel.sent()
                reader = ResponseReader(request.method, upgrade=request.upgrade)
            elif not await _more(upstream):
                if heard:
                    raise BadMessage("the server's answer is cut off")
                return None

    async def _pass_back(self, upstream: Upstream, request: Request, response: Response, out: Outflow) -> bool:
        tunnel = self._tunnel
        if response.is_switch:
            self._send_head(request, response, close=False)
            self._upstream = None
            await relay(tunnel, upstream, self._sandbox.count)
            return False
        kind = response.framing_for(request.minor)
        last = not request.keep_alive or kind is Kind.CLOSE or not out.done.done()
        self._send_head(request, response, close=last)
        inflow = Inflow(tunnel, upstream, self._sandbox.count, Body(response.framing, kind))
        inflow.start()
        try:
            await inflow.done
        except (BrokenFlowError, BadMessage):
            tunnel.close()  # the client must not take a part for the whole
            return False
        if last or not out.done.done():
            await self._linger()
            return False
        if not response.keep_alive:
            self.close()
        return True

    def _send_head(self, request: Request, response: Response, *, close: bool) -> None:
        head = response.render(request.minor, close=close)
        self._sandbox.count(len(head))
        self._tunnel.send(head)

    async def _refuse(self, answer: bytes) -> None:
        self._tunnel.send(answer)
        await self._linger()

    async def _linger(self) -> None:
        """Ends the answers, and gives the client time to read the last one before the connection is closed."""
        self._tunnel.end()
        try:
            async with asyncio.timeout(LINGER_S):
                await self._tunnel.finished()
        except TimeoutError:
            self._tunnel.close(0)


async def _more(upstream: Upstream) -> bool:
    try:
        return await upstream.receive()
    except OSError:
        return False
