"""Plain calls of the door, one after the other, over a blocking socket: for a process that asks a thing or two and ends.

What `remote.RemoteKernel` does for programs this does without an event loop, whose import alone takes longer than most answers.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, TypeVar

from agentkernel import __version__
from agentkernel import channel as late  # what only some calls need
from agentkernel import client as afar  # what only a daemon elsewhere needs
from agentkernel.channel import wire
from agentkernel.channel.door import DRAINING, encode_addressed
from agentkernel.channel.refusal import decode_refusal, is_refusal
from agentkernel.config.daemon_process import last_words, spawn
from agentkernel.config.directories import socket_path
from agentkernel.config.elsewhere import elsewhere_of
from agentkernel.errors import (
    AgentKernelError,
    DaemonUnavailable,
    InvalidInput,
    NotFound,
    OutputTooLarge,
    ProtocolViolation,
    SandboxFailed,
)
from agentkernel.model.codec import from_json, to_json
from agentkernel.model.inspection import ProcessRecord
from agentkernel.model.network import EgressChange, EgressRules, PortRule, PublishedPort
from agentkernel.model.operation import OPERATIONS
from agentkernel.model.record import CreateOptions, Event, EventFilter, KernelStatus, LogEntry, SandboxFilter, SandboxInfo
from agentkernel.model.request import Grant, SandboxRequest

PATIENCE_S: Final = 60.0  # for daemons to come after one that is gone or ends
_PAUSE_S: Final = 0.02
_AWAY_S: Final = 0.2  # between two looks for a server
_FOLLOW_S: Final = 20.0  # how long the daemon holds a question for what is to come
_SIGNAL, _LIST, _CALL, _REPLY, _FAILED = 5, 10, 14, 128, 129
_CREDENTIALS = struct.Struct("3i")
_SIGNALLED = struct.Struct("<QII")
_WHOLE_TREE = 1
_HELLO_ID = 2  # no request of ours has an even id
T = TypeVar("T")


class Calls:
    """A connection to the user's daemon. What a daemon that goes away had not answered is asked of the next one, as the same request."""

    def __init__(self, environment: Mapping[str, str], *, starts: bool = True) -> None:
        """`starts`: a daemon is started where none answers. Raises InvalidInput for an AGENTKERNEL_HOST that is no place."""
        self._environment = environment
        self._elsewhere = elsewhere_of(environment)
        self._was_reached = False  # elsewhere
        self._starts = starts
        self._socket: socket.socket | None = None
        self._tag = 0
        self.repeated = False  # whether the last answer may be that to a repeat

    def __enter__(self) -> Calls:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def connect(self) -> None:
        """Connects now; raises DaemonUnavailable, or of one elsewhere ServerUnavailable and Unauthorized."""
        self._persistently(self._connected)

    def call(self, operation: str, **parameters: Any) -> Any:
        """One operation of `model.operation`, with its result as the table types it.

        Raises:
            DaemonUnavailable: none answers and none can be started.
            ServerUnavailable, Unauthorized: the one elsewhere does not answer, or does not let us in.
            AgentKernelError: the operation's own.
        """
        said = {name: to_json(value) for name, value in parameters.items()}
        if OPERATIONS[operation].mutates:
            said["key"] = os.urandom(16).hex()
        answer = self.request(_CALL, json.dumps({"op": operation, **said}).encode())
        result = OPERATIONS[operation].result
        return None if result is None else from_json(result, json.loads(answer))

    def create(self, request: SandboxRequest, options: CreateOptions) -> SandboxInfo:
        """See `abc.Kernel`, as for all these; a repeat to the next daemon makes no second one."""
        info: SandboxInfo = self.call("create", request=self._told(request), options=replace(options, request_key=os.urandom(16).hex()))
        return info

    def grant(self, request: SandboxRequest) -> Grant:
        """What would be built; decides without doing anything."""
        grant: Grant = self.call("grant", request=self._told(request))
        return grant

    def _told(self, request: SandboxRequest) -> SandboxRequest:
        return request if self._elsewhere is None else afar.without_surroundings(request)

    def info(self, name: str) -> SandboxInfo:
        """Describes one."""
        info: SandboxInfo = self.call("info", name=name)
        return info

    def started(self, name: str, secret_values: dict[str, str] | None = None) -> SandboxInfo:
        """Boots it, with values of its secrets where they have to be given again."""
        more: dict[str, Any] = {"secret_values": secret_values} if secret_values else {}
        info: SandboxInfo = self.call("start", name=name, **more)
        return info

    def stopped(self, name: str) -> SandboxInfo:
        """Ends everything in it and keeps its files."""
        info: SandboxInfo = self.call("stop", name=name)
        return info

    def renamed(self, name: str, new_name: str) -> SandboxInfo:
        """Gives it another name; see `remove` for repeats."""
        try:
            info: SandboxInfo = self.call("rename", name=name, new_name=new_name)
        except NotFound:
            if not self.repeated:
                raise
            return self.info(new_name)
        return info

    def extended(self, name: str, ttl_s: float | None) -> SandboxInfo:
        """Lets it expire so many seconds from now; None: never."""
        info: SandboxInfo = self.call("extend", name=name, ttl_s=ttl_s)
        return info

    def network(self, name: str) -> EgressRules:
        """Who it may talk to."""
        rules: EgressRules = self.call("network", name=name)
        return rules

    def network_changed(self, name: str, change: EgressChange) -> EgressRules:
        """Changes that; the new rules."""
        rules: EgressRules = self.call("change_network", name=name, change=change)
        return rules

    def published(self, name: str, rule: PortRule) -> PublishedPort:
        """Listens on the host for a port inside."""
        port: PublishedPort = self.call("publish", name=name, rule=rule)
        return port

    def unpublish(self, name: str, port: int) -> None:
        """Ends that; one that is not published is fine."""
        self.call("unpublish", name=name, port=port)

    def ports(self, name: str) -> Sequence[PublishedPort]:
        """What is published of it."""
        ports: Sequence[PublishedPort] = self.call("ports", name=name)
        return ports

    def collect_garbage(self, *, dry_run: bool) -> Sequence[str]:
        """Removes what has expired and what belongs to no sandbox."""
        lines: Sequence[str] = self.call("gc", dry_run=dry_run)
        return lines

    def drain(self) -> None:
        """Has the daemon end when what it does is done."""
        self.request(_CALL, json.dumps({"op": "drain"}).encode())

    def status(self) -> KernelStatus:
        """The daemon at a glance."""
        status: KernelStatus = self.call("status")
        return status

    def remove(self, name: str, *, force: bool) -> None:
        """See `abc.Kernel`; one that is not there after a repeat was removed by the daemon that could not say so any more."""
        try:
            self.call("remove", name=name, force=force)
        except NotFound:
            if not self.repeated:
                raise

    def sandboxes(self, wanted: SandboxFilter) -> Iterator[SandboxInfo]:
        """All that match, page after page; shorter ones where these do not fit a frame."""
        while True:
            try:
                page: Sequence[SandboxInfo] = self.call("list", wanted=wanted)
            except OutputTooLarge:
                if wanted.limit == 1:
                    raise
                wanted = replace(wanted, limit=wanted.limit // 2)
                continue
            yield from page
            if len(page) < wanted.limit:
                return
            wanted = replace(wanted, after=page[-1].sandbox_id)

    def events(self, wanted: EventFilter, *, follow: bool = False) -> Iterator[Event]:
        """The audit trail from there on, all of it; with `follow` for ever."""
        while True:
            page: Sequence[Event] = self.call("events", wanted=wanted, wait_s=_FOLLOW_S if follow else 0.0)
            yield from page
            if page:
                wanted = replace(wanted, after=page[-1].event_id)
            elif not follow:
                return

    def logs(self, name: str, *, exec_id: int, since: float, follow: bool) -> Iterator[LogEntry]:
        """The recorded output, oldest first; with `follow` until the sandbox is removed."""
        name = self.info(name).sandbox_id if follow else name  # which stays when it is renamed
        while True:
            wait_s = _FOLLOW_S if follow else 0.0
            try:
                page: Sequence[LogEntry] = self.call("logs", name=name, exec_id=exec_id, since=since, wait_s=wait_s)
            except NotFound:
                if not follow:
                    raise
                return
            yield from page
            if page:
                since = page[-1].at  # no two entries of a log have the same
            elif not follow:
                return

    def processes(self, sandbox: str) -> list[ProcessRecord]:
        """What was started in a running sandbox and is remembered."""
        return late.parse_processes(self.request(_LIST, encode_addressed(sandbox)))

    def signal(self, sandbox: str, exec_id: int, number: int) -> None:
        """Signals a command's whole tree."""
        self.request(_SIGNAL, encode_addressed(sandbox, _SIGNALLED.pack(exec_id, number, _WHOLE_TREE)))

    def request(self, kind: int, payload: bytes) -> bytes:
        """Sends a frame and returns the payload of its REPLY."""
        if len(payload) > wire.MAX_PAYLOAD:
            raise InvalidInput(f"the request takes {len(payload)} bytes, at most {wire.MAX_PAYLOAD} can be sent")
        ident = int.from_bytes(os.urandom(8), "little") | 1
        return self._persistently(lambda: self._exchange(kind, ident, payload))

    def _persistently(self, act: Callable[[], T]) -> T:
        """Does it over the connections that follow each other."""
        deadline = time.monotonic() + PATIENCE_S
        self.repeated = False
        while True:
            try:
                return act()
            except (EOFError, ConnectionError) as gone:
                self.close()
                if time.monotonic() > deadline or (self._elsewhere is not None and not self._was_reached):
                    raise self._gone(gone) from gone
            self.repeated = True
            time.sleep(_PAUSE_S if self._elsewhere is None else _AWAY_S)

    def _gone(self, error: EOFError | ConnectionError) -> AgentKernelError:
        if self._elsewhere is not None:
            return afar.unanswered(self._elsewhere, error)
        return DaemonUnavailable(f"the daemon is gone: {error}")

    def _exchange(self, kind: int, ident: int, payload: bytes) -> bytes:
        connection = self._connected()
        connection.sendall(wire.encode_frame(self._tag, kind, ident, payload))
        while True:
            length, answer, _, _, about = wire.HEADER.unpack(self._exactly(connection, wire.HEADER.size))
            if length > wire.MAX_PAYLOAD:
                raise ProtocolViolation(f"a frame of {length} bytes is longer than {wire.MAX_PAYLOAD}")
            body = self._exactly(connection, length)
            self._exactly(connection, wire.TAG.size)
            if about != ident:
                continue
            if answer == _REPLY:
                return body
            if answer == _FAILED:
                error = _error_of(body)
                raise ConnectionError(error.message) if isinstance(error, DaemonUnavailable) else error  # it is ending

    def _connected(self) -> socket.socket:
        if self._socket is None:
            epoch = bytes((os.urandom(1)[0] | 1,)) + os.urandom(15)
            self._socket = self._opened() if self._elsewhere is None else afar.reach(self._elsewhere)
            self._tag = wire.tag_of(epoch)
            self._socket.sendall(wire.encode_hello(epoch))
            magic, answered, version, _, state, _ = wire.HELLO_REPLY.unpack(self._exactly(self._socket, wire.HELLO_REPLY.size))
            if (magic, answered) != (wire.AGENT_MAGIC, epoch) or version != wire.VERSION:
                raise ProtocolViolation("what answers at the daemon's socket speaks another protocol")
            self._was_reached = True  # from now on it is waited for: it, or the way to it, is being started again
            if state & DRAINING:
                raise ConnectionError("it is ending")
            # One that is older than this makes way; its answer passes by with the others that nobody waits for.
            self._socket.sendall(
                wire.encode_frame(self._tag, _CALL, _HELLO_ID, json.dumps({"op": "hello", "version": __version__}).encode())
            )
        return self._socket

    def _opened(self) -> socket.socket:
        path = socket_path(self._environment)
        try:
            return _open(path)
        except (FileNotFoundError, ConnectionRefusedError) as missing:
            if not self._starts:
                raise DaemonUnavailable("no daemon is running", hint="agentkernel daemon start") from missing
        except OSError as broken:
            raise DaemonUnavailable(f"the daemon's socket {path} cannot be used: {broken.strerror or broken}") from broken
        try:
            spawn(self._environment)
            return _open(path)
        except OSError as error:
            raise DaemonUnavailable(f"no daemon answers at {path}", hint=f"it last said: {last_words(self._environment)}") from error

    def _exactly(self, connection: socket.socket, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            more = connection.recv(count - len(data))
            if not more:
                raise EOFError("it closed the connection")
            data += more
        return bytes(data)


def _open(path: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(path)
        uid = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))[1]
        if uid not in (0, os.geteuid()):  # /tmp is anyone's
            raise DaemonUnavailable(f"who listens at {path} is uid {uid}, whom this user need not trust")
    except BaseException:
        connection.close()
        raise
    return connection


def _error_of(body: bytes) -> AgentKernelError:
    if is_refusal(body):
        return decode_refusal(body)
    text = body[8:].decode("utf-8", "replace")
    return SandboxFailed(f"the sandbox's agent refused: {text}")
