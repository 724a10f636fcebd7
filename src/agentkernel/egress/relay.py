"""The bytes between a tunnel and its upstream connection: as they are, or as many as belong to one HTTP body."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable
from typing import Final, cast

from agentkernel.egress.http_body import BodyReader, Framing, Kind, framed, last_piece
from agentkernel.egress.http_fields import BadMessage
from agentkernel.egress.stream import Piece
from agentkernel.egress.tunnel import Tunnel
from agentkernel.egress.upstream import Upstream

BROKEN_S: Final = 2.0  # for a program to read the last words of a server that takes nothing more, before it is reset

Count = Callable[[int], None]  # told of bytes that were passed on


class Body:
    """An HTTP body on its way: taken out of the framing that it comes in, put into the one that it leaves in."""

    def __init__(self, framing: Framing, kind: Kind) -> None:
        self._reader = BodyReader(framing)
        self._kind = kind
        self._is_plain = framing.kind is not Kind.CHUNKED and kind is not Kind.CHUNKED

    @property
    def is_done(self) -> bool:
        """Whether its end has come."""
        return self._reader.done

    @property
    def rest(self) -> bytes:
        """What came after its end."""
        return bytes(self._reader.rest)

    def feed(self, view: Piece) -> Piece:
        """What is to be sent for these bytes; raises BadMessage."""
        if self._is_plain:
            pieces = self._reader.feed(cast(bytes, view))  # of a view it makes views
            return pieces[0] if pieces else b""
        framed_pieces = [framed(self._kind, piece) for piece in self._reader.feed(bytes(view))]
        return b"".join((*framed_pieces, last_piece(self._kind) if self._reader.done else b""))

    def end(self) -> Piece:
        """The connection that it comes on has ended: what is still to be sent; raises BadMessage where that cuts it off."""
        self._reader.end()
        return last_piece(self._kind)


class BrokenFlowError(Exception):
    """Bytes stopped where they should not: `number` is the errno, `end` who is to blame."""

    def __init__(self, number: int, end: str) -> None:
        super().__init__(f"{end} broke off")
        self.number = number or errno.ECONNRESET
        self.end = end


class Outflow:
    """From the program to the upstream connection; a `tunnel.Sink`. `done` is set when all of it is written."""

    def __init__(self, tunnel: Tunnel, upstream: Upstream, count: Count, body: Body | None = None) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tunnel = tunnel
        self._upstream = upstream
        self._count = count
        self._body = body
        self._all_here = False
        self.is_broken = False  # nobody takes it any more: what still comes is thrown away

    def start(self) -> None:
        """Begins with what the tunnel has already."""
        self._upstream.on_written = self._tunnel.consumed
        self._upstream.on_flushed = self._flushed
        self._upstream.on_broken = self._broken
        if self._body is not None and self._body.is_done:
            self._finish()
        else:
            self._tunnel.give_to(self)

    def data(self, view: Piece) -> None:
        """See `tunnel.Sink`."""
        body = self._body
        if self.done.done():
            self._tunnel.consumed(len(view))  # broken off; nobody wants it
        elif body is None:
            self._count(len(view))
            self._upstream.write(view)
        else:
            try:
                out = body.feed(view)
            except BadMessage as error:
                self._tunnel.consumed(len(view))
                self._end_with(error)
                return
            taken = len(view) - len(body.rest)
            self._count(taken)
            self._tunnel.consumed(taken - len(out))  # the rest of it when it is written
            self._upstream.write(out)
            if body.is_done:
                self._tunnel.give_back(body.rest)
                self._finish()

    def ended(self) -> None:
        """See `tunnel.Sink`."""
        if self._body is not None:
            self._end_with(BrokenFlowError(errno.ECONNRESET, "the program"))
            return
        self._upstream.shut_down()
        self._finish()

    def _finish(self) -> None:
        self._all_here = True
        if self._upstream.is_flushed():
            self._flushed()

    def _flushed(self) -> None:
        if self._all_here and not self.done.done():
            self.done.set_result(None)

    def _broken(self, error: OSError) -> None:
        self.is_broken = True
        if self._body is None and not self.done.done():
            self.done.set_result(None)  # what it said before can still be read
        self._end_with(BrokenFlowError(error.errno or 0, "the other end"))

    def _end_with(self, error: Exception) -> None:
        if not self.done.done():
            self.done.set_exception(error)
            self.done.exception()  # who waits for the other direction alone need not look


class Inflow:
    """From the upstream connection to the program; an `upstream.Reader`. `done` is set when all of it is sent, or waits for credit."""

    def __init__(self, tunnel: Tunnel, upstream: Upstream, count: Count, body: Body | None = None) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tunnel = tunnel
        self._upstream = upstream
        self._count = count
        self._body = body

    def start(self) -> None:
        """Begins with what the connection has read already."""
        first, self._upstream.buffer = memoryview(self._upstream.buffer), b""
        if self._body is not None and self._body.is_done:
            self._finish(bytes(first))
            return
        if first:
            self._pass_on(first, now=False)
        if not self.done.done():
            self._tunnel.on_room = self._upstream.go_on
            self._upstream.read_to(self)

    def room(self) -> int:
        """See `upstream.Reader`."""
        return self._tunnel.room()

    def data(self, view: memoryview) -> None:
        """See `upstream.Reader`."""
        self._pass_on(view, now=True)

    def ended(self) -> None:
        """See `upstream.Reader`."""
        if self._body is None:
            self._tunnel.end()
        else:
            try:
                self._tunnel.send(bytes(self._body.end()))
            except BadMessage:
                self._end_with(BrokenFlowError(errno.ECONNRESET, "the other end"))
                return
        if not self.done.done():
            self.done.set_result(None)

    def failed(self, error: OSError) -> None:
        """See `upstream.Reader`."""
        self._end_with(BrokenFlowError(error.errno or 0, "the other end"))

    def _pass_on(self, view: memoryview, *, now: bool) -> None:
        body = self._body
        out: Piece = view
        if body is not None:
            try:
                out = body.feed(view)
            except BadMessage as error:
                self._upstream.stop_reading()
                self._end_with(error)
                return
        self._count(len(out))
        if now and isinstance(out, memoryview):
            self._tunnel.send_now(out)
        else:
            self._tunnel.send(bytes(out))
        if body is not None and body.is_done:
            self._finish(body.rest)

    def _finish(self, rest: bytes) -> None:
        self._upstream.stop_reading()
        self._upstream.buffer = rest
        self._tunnel.on_room = None
        if not self.done.done():
            self.done.set_result(None)

    def _end_with(self, error: Exception) -> None:
        if not self.done.done():
            self.done.set_exception(error)
            self.done.exception()


async def relay(tunnel: Tunnel, upstream: Upstream, count: Count, admitted: Awaitable[bool] | None = None) -> None:
    """Passes bytes both ways until both directions have ended or one of the ends is gone; closes both, also when it is cancelled.

    Nothing of the program's goes out before `admitted` has come true; where it says False everything is closed.
    """
    inflow, outflow = Inflow(tunnel, upstream, count), Outflow(tunnel, upstream, count)
    number, clean = errno.ECONNRESET, False
    try:
        inflow.start()
        if admitted is None or await _first(admitted, inflow):
            outflow.start()
            await asyncio.gather(inflow.done, outflow.done)
            async with asyncio.timeout(BROKEN_S if outflow.is_broken else None):
                await tunnel.finished()
            clean = True
    except TimeoutError:
        pass
    except BrokenFlowError as broken:
        number = broken.number
    finally:
        tunnel.on_room = None
        tunnel.close(number)
        upstream.close(reset=not clean)


async def _first(admitted: Awaitable[bool], inflow: Inflow) -> bool:
    """Waits for the admission; raises what breaks the other direction meanwhile."""
    asked = asyncio.ensure_future(admitted)
    try:
        await asyncio.wait((asked, inflow.done), return_when=asyncio.FIRST_COMPLETED)
        if inflow.done.done():
            inflow.done.result()
        return await asked
    finally:
        asked.cancel()
