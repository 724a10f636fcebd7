"""One client: frames in, to the command or the call that they concern, and frames out. Whatever it sends, it harms only itself."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Final

from agentkernel.abc import Caller
from agentkernel.channel.door import DRAINING
from agentkernel.channel.frames import CLIENT_TYPES, Frame, FrameDecoder, FrameType, HelloReply, decode_hello, encode_hello_reply
from agentkernel.channel.link import Link
from agentkernel.channel.messages import MAX_ECHO, encode_echo
from agentkernel.channel.preface import read_preface
from agentkernel.channel.refusal import encode_refusal
from agentkernel.channel.wire import VERSION, encode_frame, tag_of
from agentkernel.daemon.calls import Calls
from agentkernel.daemon.desk import Desk
from agentkernel.daemon.greeting import Greeting
from agentkernel.daemon.questions import answer_about_sandbox
from agentkernel.daemon.session import Session
from agentkernel.errors import AgentKernelError, Busy, InvalidInput, ProtocolViolation
from agentkernel.failpoints import failpoint

BACKLOG_LIMIT_BYTES: Final = 1024 * 1024  # above it nothing more is read from this client, and output stays in the agents' rings
HELLO_S: Final = 10.0  # within which a connection must say who it is
MAX_COMMANDS: Final = 1024
MAX_PASSED_ON: Final = 768  # connections that servers open for their callers: the others are for the users of this machine
MAX_CALLS: Final = 256
_OF_COMMANDS: Final = frozenset({FrameType.STDIN, FrameType.CONSUMED, FrameType.RESIZE, FrameType.KILL, FrameType.FORGET})


class Connection:
    """Implements `channel.link.Reader` and `channel.relay.Client`.

    Args:
        sock: connected and non-blocking; belongs to the connection from now on.
        closed: called once, when nothing of it is left.
    """

    def __init__(self, desk: Desk, calls: Calls, sock: socket.socket, caller: Caller, closed: Callable[[Connection], None]) -> None:
        self.caller = caller
        self._closed = closed
        self._desk = desk
        self._calls = calls
        self._greeting = Greeting()
        self._decoder: FrameDecoder | None = None
        self._tag = 0
        self._sessions: dict[int, Session] = {}
        self._asking: dict[int, asyncio.Task[None]] = {}
        self._open = True
        self._loop = asyncio.get_running_loop()
        self._link = Link(sock, self, self._loop)
        self._unheard = self._loop.call_later(HELLO_S, self._close, "it did not say HELLO")
        self._is_passed_on = False
        self._patience_s = 0.0  # for which its commands wait for another connection when this one is lost
        desk.clients += 1

    # -- what sessions and calls use

    @property
    def is_open(self) -> bool:
        """Whether the client is still there."""
        return self._open

    @property
    def is_full(self) -> bool:
        """See `relay.Client`."""
        return not self._open or self._link.backlog_bytes > BACKLOG_LIMIT_BYTES

    def send(self, kind: int, ident: int, payload: bytes = b"", flags: int = 0, rest: bytes | memoryview = b"") -> None:
        """See `relay.Client`; dropped when the client is gone."""
        frame = encode_frame(self._tag, kind, ident, payload, flags, rest)
        if kind != FrameType.OUTPUT:
            self._link.send(frame)
            return
        try:
            failpoint("daemon.exec.output")
        except OSError as error:  # as of a socket that fails: noticed after what is being done
            self._loop.call_soon(self._close, str(error))
        self._link.send_soon(frame)

    def refuse(self, ident: int, error: AgentKernelError) -> None:
        """FAILED: the request failed, or was not taken."""
        self.send(FrameType.FAILED, ident, encode_refusal(error))

    def leave(self) -> None:
        """Closes the connection without ending any command: the daemon goes, and the next one takes them up."""
        for session in tuple(self._sessions.values()):
            session.leave()
        self._end()

    # -- what the link calls

    def writable(self) -> memoryview:
        """See `link.Reader`."""
        return self._greeting.writable() if self._decoder is None else self._decoder.writable()

    def received(self, count: int) -> None:
        """See `link.Reader`."""
        try:
            if self._decoder is None:
                self._greet(count)
            else:
                self._read(self._decoder, count)
        except ProtocolViolation as violation:
            self._close(violation.message)
        if self._open and self.is_full:
            self._link.pause()

    def drained(self) -> None:
        """See `link.Reader`."""
        self._link.go_on()
        for session in tuple(self._sessions.values()):
            session.client_is_ready()

    def lost(self, reason: str) -> None:
        """See `link.Reader`: ends what belongs to this connection alone."""
        for session in tuple(self._sessions.values()):
            session.lose(self._patience_s)
        self._end()

    # -- frames

    def _greet(self, count: int) -> None:
        greeting = self._greeting
        if not greeting.received(count):
            return
        if (preface := greeting.preface) is not None:
            self.caller, self._patience_s = read_preface(self.caller, preface)
            if self._desk.passed_on >= MAX_PASSED_ON:
                self._close(f"servers have {self._desk.passed_on} connections already")
                return
            self._is_passed_on = True
            self._desk.passed_on += 1
        hello = decode_hello(greeting.hello)
        self._unheard.cancel()
        version = VERSION if hello.version_min <= VERSION <= hello.version_max else 0
        state = DRAINING if self._desk.is_draining else 0
        self._tag = tag_of(hello.epoch)
        self._link.send(encode_hello_reply(HelloReply(hello.epoch, version, 0, state, bytes.fromhex(self._desk.host.identity))))
        if not version:
            self._close(f"it speaks versions {hello.version_min} to {hello.version_max}")
            return
        decoder = self._decoder = FrameDecoder(hello.epoch, types=CLIENT_TYPES, greeted=True)
        rest = greeting.rest
        greeting.clear()
        decoder.writable()[: len(rest)] = rest
        self._read(decoder, len(rest))

    def _read(self, decoder: FrameDecoder, count: int) -> None:
        for frame in decoder.received(count):
            try:
                self._handle(frame)
            except ProtocolViolation as violation:  # of a well-framed request: it alone is refused
                self.refuse(frame.id, InvalidInput(violation.message))
            except AgentKernelError as error:
                self.refuse(frame.id, error)
            if not self._open:
                return

    def _handle(self, frame: Frame) -> None:
        kind, flags, ident, payload = frame
        if kind in _OF_COMMANDS:
            session = self._sessions.get(ident)
            if session is not None and not session.handle(kind, flags, payload):
                raise InvalidInput(f"impossible {FrameType(kind).name}")
        elif kind == FrameType.PING:
            if len(payload) > MAX_ECHO:
                raise InvalidInput("malformed PING")
            self.send(FrameType.REPLY, ident, encode_echo(bytes(payload)))
        elif kind in (FrameType.START, FrameType.RESUME):
            self._begin(kind, ident, bytes(payload))
        else:
            self._ask(kind, ident, bytes(payload))

    def _begin(self, kind: int, ident: int, payload: bytes) -> None:
        self._desk.check()
        if ident == 0 or ident in self._sessions:
            raise InvalidInput(f"this connection cannot have a command {ident:016x}")
        if len(self._sessions) >= MAX_COMMANDS:
            raise Busy(f"a connection can have {MAX_COMMANDS} commands at a time", hint="wait until some have ended")
        self._sessions[ident] = Session(self._desk, self, ident, ended=lambda: self._sessions.pop(ident, None))
        self._sessions[ident].begin(payload, resumes=kind == FrameType.RESUME)

    def _ask(self, kind: int, ident: int, payload: bytes) -> None:
        self._desk.check()
        if ident in self._asking:
            raise InvalidInput("two requests of one id")
        if len(self._asking) >= MAX_CALLS:
            raise Busy(f"a connection can ask {MAX_CALLS} things at a time", hint="wait for answers")
        work = self._answer(kind, ident, payload)
        self._asking[ident] = self._desk.spawn(work, f"{FrameType(kind).name} of {self.caller.principal}")

    async def _answer(self, kind: int, ident: int, payload: bytes) -> None:
        try:
            if kind == FrameType.CALL:
                failpoint("daemon.call.received")
                answer = await self._calls.answer(self.caller, payload)
                failpoint("daemon.call.done")
                self.send(FrameType.REPLY, ident, answer)
            else:
                self.send(*await answer_about_sandbox(self._desk.host, self.caller, kind, ident, payload))
        except AgentKernelError as error:
            self.refuse(ident, error)
        except UnicodeEncodeError:
            self.refuse(ident, InvalidInput("a name holds what is no text"))
        except Exception as error:  # noqa: BLE001 - a fault of ours must not leave the client waiting
            self.refuse(ident, self._desk.fault(FrameType(kind).name, error))
        finally:
            self._asking.pop(ident, None)

    # -- its end

    def _close(self, reason: str) -> None:
        """Ends a connection that breaks the rules."""
        self._desk.log(f"connection of {self.caller.principal} closed: {reason}")
        self._patience_s = 0.0
        if self._open:
            self.lost(reason)

    def _end(self) -> None:
        if self._open:
            self._open = False
            self._desk.clients -= 1
            self._desk.passed_on -= self._is_passed_on
            self._unheard.cancel()
            for task in tuple(self._asking.values()):
                task.cancel()
            self._link.flush(at_once=True)
            self._link.close()
            self._closed(self)
