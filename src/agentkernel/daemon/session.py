"""One command of one client: from START or RESUME until the client has the result, or is gone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from agentkernel.abc import Caller, Sandbox
from agentkernel.channel import door
from agentkernel.channel.frames import FrameType
from agentkernel.channel.messages import TWO_OFFSETS, Exited, KillCause, Resumed, encode_exited, encode_failed, encode_resumed
from agentkernel.channel.relay import Client, Relay
from agentkernel.daemon.desk import Desk
from agentkernel.daemon.early import Early
from agentkernel.daemon.opened import open_sandbox
from agentkernel.daemon.reaching import name_of, relaying, sandbox_of
from agentkernel.errors import AgentKernelError, CommandNotStarted, InvalidInput, NotFound, ProtocolViolation
from agentkernel.failpoints import failpoint
from agentkernel.model.codec import to_json
from agentkernel.model.command import ExitStatus
from agentkernel.model.request import Notice
from agentkernel.text.outcome import exit_status, why
from agentkernel.text.style import line

FORGET_S: Final = 10.0  # a client that has the result says so at once, or goes
_HELD = Resumed(state=0, pid=1, stdout_first=0, stderr_first=0, stdin_consumed=0, stdin_limit=0)
_LET_GO = Exited(0, 0, KillCause.REQUEST, 0, 0, 0, 0, 0, 0, 0)
_STARTED = Notice(code="started", message="the sandbox was started for this visit")

Ending = Callable[[ExitStatus], Awaitable[tuple[int | None, str]]]  # exit status and message for the client


class Caught(Client, Protocol):
    """What a session needs of its connection."""

    @property
    def caller(self) -> Caller:
        """Who is at its other end."""
        ...

    def refuse(self, ident: int, error: AgentKernelError) -> None:
        """Sends FAILED."""
        ...


class Session:
    """Made for a START or RESUME; `ended` is called when the connection may forget it."""

    def __init__(self, desk: Desk, client: Caught, ident: int, ended: Callable[[], object]) -> None:
        self._desk = desk
        self._client = client
        self._ident = ident
        self._ended = ended
        self._early = Early()
        self._relay: Relay | None = None
        self._task: asyncio.Task[None] | None = None
        self._killed = asyncio.Event()  # of one that holds a sandbox, or visits it
        self._visited: Sandbox | None = None
        self._forgotten = asyncio.Event()
        self._holds = False
        self._resumes = False
        self._stays = False  # what it began goes on without it
        self._owns = False  # the sandbox was made for the command, and goes when no session follows it any more
        self._has_claim = False
        self._began = False  # the engine was told so
        self._told = False  # and of the end

    def begin(self, payload: bytes, *, resumes: bool) -> None:
        """Takes up the work."""
        self._resumes = resumes
        self._task = self._desk.spawn(self._run(payload), f"command {self._ident:016x} of {self._client.caller.principal}")

    # -- what the connection passes on

    def handle(self, kind: int, flags: int, payload: memoryview | bytes) -> bool:
        """STDIN, CONSUMED, RESIZE, KILL or FORGET; False for one that cannot be."""
        if kind == FrameType.FORGET:
            if self._relay is not None and self._relay.has_ended:
                self._forgotten.set()
            return not payload
        if self._relay is not None:
            return self._early.pass_on(self._relay, kind, flags, payload)
        if not self._early.keep(kind, payload):
            return False
        if kind == FrameType.KILL and self._holds:
            self._let_all_go()
        elif kind == FrameType.KILL and self._owns and not self._resumes and self._task is not None:
            self._client.refuse(self._ident, CommandNotStarted("the command was killed before it started"))
            self._task.cancel()
        return True

    def client_is_ready(self) -> None:
        """The client has taken what waited for it."""
        if self._relay is not None:
            self._relay.client_is_ready()

    @property
    def told(self) -> tuple[bool, bool]:
        """Whether the beginning and the end of the command have been told to the engine."""
        return self._began, self._told

    def lose(self, patience_s: float = 0.0) -> None:
        """The client is gone, and with it, unless it comes back within `patience_s`, what it began in the foreground."""
        if patience_s:
            if self._desk.is_draining:
                self.leave()
            else:
                self._desk.wait(self._client.caller, self._ident, self, patience_s)
            return
        self._forgotten.set()
        if self._relay is not None:
            self._stays = self._relay.is_detached
            self._relay.lose()
        if self._task is not None and (self._relay is None or self._owns or self._stays):
            self._task.cancel()  # else the end that was ordered is waited for

    def leave(self) -> None:
        """The daemon goes: everything stays as it is, for the next one."""
        self._stays = True
        if self._relay is not None:
            self._relay.leave()
        if self._task is not None:
            self._task.cancel()

    # -- its course

    async def _run(self, payload: bytes) -> None:
        try:
            await self._serve(payload)
        except AgentKernelError as error:
            self._client.refuse(self._ident, error)
        except UnicodeEncodeError:
            self._client.refuse(self._ident, InvalidInput("a name holds what is no text"))
        except Exception as error:  # noqa: BLE001 - a fault of ours must not leave the client waiting
            self._client.refuse(self._ident, self._desk.fault(f"command {self._ident:016x}", error))
        finally:
            if self._relay is not None and not self._stays:
                self._relay.lose()
            if self._visited is not None and not self._stays:
                departure = self._desk.host.depart(self._client.caller, self._visited)
                self._desk.spawn(departure, f"end of visit {self._ident:016x}")
            if self._is_last() and self._owns and not self._stays:
                removal = self._desk.host.dispose(self._ident, self._client.caller)
                self._desk.spawn(removal, f"removal of the sandbox of command {self._ident:016x}")
            self._ended()

    def _claim(self) -> None:
        """Whatever becomes of this session, the sandbox is there as long as another one follows the command."""
        self._desk.claim(self._client.caller, self._ident, self._killed)
        self._has_claim = True

    def _is_last(self) -> bool:
        return self._has_claim and self._desk.unclaim(self._ident, self._killed)

    def _let_all_go(self) -> None:
        """Whoever else holds the same is told of its end too; each visits for itself."""
        for killed in self._desk.claims(self._ident) if self._has_claim else (self._killed,):
            killed.set()

    async def _serve(self, payload: bytes) -> None:
        try:
            fields = door.decode_request(payload)
        except ProtocolViolation as error:
            raise InvalidInput(error.message) from error
        if door.VISIT in fields:
            await self._visit(fields)
        elif self._resumes:
            await self._resume(fields)
        else:
            await self._start(fields)

    async def _start(self, fields: door.Fields) -> None:
        host, caller = self._desk.host, self._client.caller
        failpoint("daemon.exec.received")
        self._owns = door.SANDBOX not in fields
        if self._owns:
            self._claim()
        opened = await open_sandbox(host, caller, fields, self._ident)
        opening = opened.opening()
        if opened.start is None:
            failpoint("daemon.hold.made")
            self._client.send(FrameType.STARTED, self._ident, opening(_HELD.pid))
            self._desk.take_over(caller, self._ident)
            await self._hold()
            return
        relay = self._relay = relaying(opened.sandbox).relay(self._ident, opened.start, self._client, opening)
        self._early.replay(relay)
        failpoint("daemon.exec.passed")
        self._began, self._told = self._desk.take_over(caller, self._ident)
        if opened.is_audited and not self._began:
            host.started(caller, opened.sandbox, opened.command, self._ident)
            self._began = True
        try:
            await self._to_the_end(relay, lambda status: opened.ending(host, caller, status), opened.sandbox if opened.is_audited else None)
        except CommandNotStarted:
            if opened.words is not None or relay.failure is None:
                raise
            self._client.send(FrameType.FAILED, self._ident, encode_failed(relay.failure))  # the client knows what it asked for
            relay.release()

    async def _resume(self, fields: door.Fields) -> None:
        inner = fields.get(door.INNER, [b""])[0]
        if len(inner) != TWO_OFFSETS.size:
            raise InvalidInput("malformed RESUME")
        stdout, stderr = TWO_OFFSETS.unpack(inner)
        failpoint("daemon.resume.received")
        is_anothers = self._desk.is_of_another(self._client.caller, self._ident)
        sandbox, self._owns = await sandbox_of(self._desk.host, self._client.caller, fields, self._ident, is_anothers=is_anothers)
        if self._owns:
            self._claim()
        try:
            relay = self._relay = await relaying(sandbox).resume(self._ident, (stdout, stderr), self._client)
        except NotFound:
            if not self._owns:
                raise
            self._client.send(FrameType.RESUMED, self._ident, encode_resumed(_HELD))
            self._desk.take_over(self._client.caller, self._ident)
            await self._hold()
            return
        self._early.replay(relay)
        failpoint("daemon.resume.passed")

        async def ending(status: ExitStatus) -> tuple[int | None, str]:
            return exit_status(status), "".join(line(*each) for each in why(status, sandbox.spec, None))

        _, self._told = self._desk.take_over(self._client.caller, self._ident)
        is_in_use = relay.is_alone and not relay.is_detached  # else the engine knows of it
        if is_in_use and not self._told:
            self._desk.host.resumed(self._client.caller, sandbox, self._ident)
            self._began = True
        await self._to_the_end(relay, ending, sandbox if is_in_use else None)

    async def _to_the_end(self, relay: Relay, ending: Ending, audited: Sandbox | None) -> None:
        try:
            status = await relay.ended()
        except AgentKernelError as error:
            self._note_end(audited, None, error.code)
            raise
        except asyncio.CancelledError:
            if not self._stays:
                self._note_end(audited, None, "client_lost")
            raise
        self._note_end(audited, status, "")
        failpoint("daemon.exec.ended")
        relay.tell_end(status, *await ending(status))
        try:
            async with asyncio.timeout(FORGET_S):
                await self._forgotten.wait()
        except TimeoutError:
            pass  # it is as good as forgotten
        relay.release()

    def _note_end(self, audited: Sandbox | None, status: ExitStatus | None, error: str) -> None:
        if audited is not None and not self._told:
            self._told = True
            self._desk.host.ended(self._client.caller, audited, self._ident, status, error)

    async def _visit(self, fields: door.Fields) -> None:
        """The sandbox runs until it is let go, and then on or not as it would without the visit."""
        if fields.keys() != {door.SANDBOX, door.VISIT} | ({door.INNER} if self._resumes else set()):
            raise InvalidInput("a visit names a sandbox, and nothing to start there")
        failpoint("daemon.visit.received")
        sandbox, is_started = await self._desk.host.arrive(self._client.caller, name_of(fields))
        self._visited = sandbox
        failpoint("daemon.visit.arrived")
        if self._resumes:
            self._client.send(FrameType.RESUMED, self._ident, encode_resumed(_HELD))
        else:
            notices = [json.dumps(to_json(_STARTED)).encode()] if is_started else []
            self._client.send(FrameType.STARTED, self._ident, door.encode_started(_HELD.pid, sandbox.sandbox_id, notices))
        await self._let_go()
        self._visited = None
        goes_on = await self._desk.host.depart(self._client.caller, sandbox)
        failpoint("daemon.visit.left")
        self._tell_let_go(int(goes_on))

    async def _let_go(self) -> None:
        self._holds = True
        if self._early.is_killed:
            self._let_all_go()
        await self._killed.wait()

    def _tell_let_go(self, exit_code: int = 0) -> None:
        exited = encode_exited(_LET_GO._replace(value=exit_code))
        self._client.send(FrameType.EXITED, self._ident, door.encode_exited(exited, 0, _LET_GO.cause))

    async def _hold(self) -> None:
        """The sandbox is there until it is let go."""
        await self._let_go()
        await self._desk.host.dispose(self._ident, self._client.caller)
        self._owns = False
        self._tell_let_go()
