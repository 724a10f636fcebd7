"""The egress process's side of the control socket: sandboxes join, rules change, decisions are told. It ends when the socket does."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Any, Final

from agentkernel.egress import dispatch, messages, resolver
from agentkernel.egress.own import OwnAddresses
from agentkernel.egress.reach import Surroundings, parse_proxy
from agentkernel.egress.resolving import Lookup, Resolver, system_lookup
from agentkernel.egress.sandbox import Joining, Sandbox, Service
from agentkernel.egress.upstream import make_desk
from agentkernel.errors import ProtocolViolation
from agentkernel.model.codec import from_json
from agentkernel.model.network import EgressLimits, EgressRules

_MESSAGES_A_TURN: Final = 64
SERVICE: Final = Service(serve=dispatch.serve, answer=resolver.answer)


class Server:
    """Serves the sandboxes of one engine.

    Args:
        control: the SEQPACKET socket to the engine, which it owns from now on.
        lookup: what names are looked up with, in threads.
    """

    def __init__(self, control: socket.socket, loop: asyncio.AbstractEventLoop, *, lookup: Lookup = system_lookup) -> None:
        control.setblocking(False)
        self.over: asyncio.Future[None] = loop.create_future()
        self._control = control
        self._loop = loop
        self._around = Surroundings(desk=make_desk(loop), resolver=Resolver(lookup), own=OwnAddresses())
        self._sandboxes: dict[str, Sandbox] = {}
        loop.add_reader(control.fileno(), self._readable)
        self._tell(messages.READY)

    def close(self) -> None:
        """Ends every connection."""
        if self._control.fileno() >= 0:
            self._loop.remove_reader(self._control.fileno())
            self._control.close()
        for sandbox in tuple(self._sandboxes.values()):
            sandbox.close()
        if not self.over.done():
            self.over.set_result(None)

    def _readable(self) -> None:
        for _ in range(_MESSAGES_A_TURN):
            try:
                data, descriptors, _, _ = socket.recv_fds(self._control, messages.MAX_MESSAGE_BYTES + 1, 1)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                self.close()
                return
            if not data:
                self.close()  # the engine has ended, or lets go
                return
            try:
                self._obey(messages.read(data), descriptors)
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)

    def _obey(self, message: dict[str, Any], descriptors: list[int]) -> None:
        """Does what the engine says; whatever is wrong with it ends this process by its exception."""
        operation = message["op"]
        if operation == "join":
            if len(descriptors) != 1:
                raise ProtocolViolation("a sandbox joins with one stream")
            self._join(message, socket.socket(fileno=descriptors.pop()))
        elif operation == "rules":
            sandbox = self._sandboxes.get(str(message.get("sandbox")))
            if sandbox is not None:
                sandbox.set_rules(from_json(EgressRules, message.get("rules")))
        elif operation == "configure":
            self._around.proxy = parse_proxy(str(message.get("upstream", "")))
        elif operation == "ping":
            self._tell(messages.PONG)

    def _join(self, message: dict[str, Any], sock: socket.socket) -> None:
        sandbox_id = str(message.get("sandbox"))
        rules, limits = from_json(EgressRules, message.get("rules")), from_json(EgressLimits, message.get("limits"))
        earlier = self._sandboxes.get(sandbox_id)
        if earlier is not None:
            earlier.close()
        joining = Joining(sandbox_id, rules, limits, sock)
        self._sandboxes[sandbox_id] = Sandbox(joining, self._around, SERVICE, self._tell, self._left)

    def _left(self, sandbox: Sandbox) -> None:
        if self._sandboxes.get(sandbox.sandbox_id) is sandbox:
            del self._sandboxes[sandbox.sandbox_id]

    def _tell(self, message: bytes) -> bool:
        try:
            self._control.send(message)
        except OSError:  # the engine does not keep up, or has gone
            return False
        return True
