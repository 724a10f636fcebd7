"""The egress process's side of the control socket: sandboxes join, rules change, decisions are told. It ends when the socket does."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from typing import Any, Final

from agentkernel.egress import dispatch, messages, resolver
from agentkernel.egress.own import OwnAddresses
from agentkernel.egress.proxied import parse_proxy
from agentkernel.egress.reach import Surroundings
from agentkernel.egress.resolving import Lookup, Resolver, system_lookup
from agentkernel.egress.sandbox import Joining, Sandbox, Service
from agentkernel.egress.upstream import make_desk
from agentkernel.egress.vault import Vault
from agentkernel.errors import AgentKernelError
from agentkernel.model.codec import from_json
from agentkernel.model.network import Credentials, EgressLimits, EgressRules

_MESSAGES_A_TURN: Final = 64
_CONTROL_BYTES: Final = 1024 * 1024  # a burst of decisions; the kernel may give less
_MAX_TRUST_BYTES: Final = 4 * 1024 * 1024
SERVICE: Final = Service(serve=dispatch.serve, answer=resolver.answer)


class Server:
    """Serves the sandboxes of one engine.

    Args:
        control: the SEQPACKET socket to the engine, which it owns from now on.
        lookup: what names are looked up with, in threads.
    """

    def __init__(self, control: socket.socket, loop: asyncio.AbstractEventLoop, *, lookup: Lookup = system_lookup) -> None:
        control.setblocking(False)
        control.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _CONTROL_BYTES)
        self.over: asyncio.Future[None] = loop.create_future()
        self._control = control
        self._loop = loop
        self._around = Surroundings(desk=make_desk(loop), resolver=Resolver(lookup), own=OwnAddresses())
        self._sandboxes: dict[str, Sandbox] = {}
        self._vaults: dict[str, Vault] = {}  # of sandboxes, also of those that are about to join
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
            except (AgentKernelError, ValueError) as error:
                sys.stderr.write(f"what the engine says is wrong: {error}\n")
                self.close()  # whatever it was, nothing is served by other rules than were meant
                return
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)

    def _obey(self, message: dict[str, Any], descriptors: list[int]) -> None:
        """Does what the engine says. Raises AgentKernelError, ValueError where that is wrong."""
        operation = message["op"]
        if operation == "join":
            if not descriptors:
                return  # the kernel had no room for it and closed it: the sandbox's connections end, and the next one tries again
            self._join(message, socket.socket(fileno=descriptors.pop()))
        elif operation == "rules":
            sandbox = self._sandboxes.get(str(message.get("sandbox")))
            if sandbox is not None:
                sandbox.set_rules(from_json(EgressRules, message.get("rules")))
        elif operation == "secrets":
            self._keep(message, descriptors)
        elif operation == "configure":
            self._around.proxy = parse_proxy(str(message.get("upstream", "")))
        elif operation == "ping":
            self._tell(messages.PONG)

    def _keep(self, message: dict[str, Any], descriptors: list[int]) -> None:
        """Secrets of a sandbox that is there, or that joins next."""
        trust = _read_all(descriptors[0]) if descriptors else b""
        credentials = from_json(Credentials, message.get("credentials"))
        vault = Vault(credentials, trust.decode("ascii", "ignore"))
        sandbox_id = str(message.get("sandbox"))
        sandbox = self._sandboxes.get(sandbox_id)
        if sandbox is not None:
            sandbox.site.vault = vault
        if credentials.secrets:
            self._vaults[sandbox_id] = vault
        else:
            self._vaults.pop(sandbox_id, None)

    def _join(self, message: dict[str, Any], sock: socket.socket) -> None:
        sandbox_id = str(message.get("sandbox"))
        rules, limits = from_json(EgressRules, message.get("rules")), from_json(EgressLimits, message.get("limits"))
        earlier = self._sandboxes.get(sandbox_id)
        if earlier is not None:
            earlier.close()
        joining = Joining(sandbox_id, rules, limits, sock, self._vaults.get(sandbox_id))
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


def _read_all(descriptor: int) -> bytes:
    """A file of certificates."""
    data = b""
    while len(data) < _MAX_TRUST_BYTES and (piece := os.read(descriptor, _MAX_TRUST_BYTES)):
        data += piece
    return data
