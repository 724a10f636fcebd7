"""The egress process as the engine has it: started, spoken to, ended and reaped. Nothing here waits for it, but `ended`."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final

from agentkernel.channel.bell import Bell
from agentkernel.config.daemon_process import daemon_environment
from agentkernel.egress.messages import MAX_MESSAGE_BYTES, read
from agentkernel.errors import ProtocolViolation

_MAX_QUEUED: Final = 4096  # messages that a process which does not read them leaves here
_MESSAGES_A_TURN: Final = 64
_LAST_WORDS_BYTES: Final = 2000
_CONTROL_FD: Final = 3
_PASSED: Final = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "PYTHONPATH")


class Child:
    """Runs from the constructor on, which raises OSError where it cannot be started.

    Args:
        environment: the engine's; of it only what Python and the resolver need is passed on.
        told: gets each message.
        died: is told once, when it is over, with its last words; not after `abandon`.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        environment: Mapping[str, str],
        told: Callable[[dict[str, Any]], None],
        died: Callable[[str], None],
    ) -> None:
        self._loop = loop
        self._told = told
        self._died = died
        self._queue: deque[tuple[bytes, int]] = deque()
        self.is_running = True
        self._gone = Bell()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.setblocking(False)
        self._errors = os.memfd_create("egress-errors", os.MFD_CLOEXEC)
        try:
            self.pid = _spawn(environment, theirs.fileno(), self._errors)
            self._pidfd = os.pidfd_open(self.pid)
        except OSError:
            self._control.close()
            os.close(self._errors)
            raise
        finally:
            theirs.close()
        loop.add_reader(self._pidfd, self._reap)
        loop.add_reader(self._control.fileno(), self._readable)

    def send(self, message: bytes, descriptor: int = -1) -> None:
        """Sends one message, with a descriptor that belongs to this call. A process that does not read is killed."""
        if not self.is_running or len(self._queue) >= _MAX_QUEUED:
            if descriptor >= 0:
                os.close(descriptor)
            self.kill()
            return
        self._queue.append((message, descriptor))
        if len(self._queue) == 1:
            self._flush()

    def kill(self) -> None:
        """SIGKILL; `died` follows."""
        if self.is_running:
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def let_go(self) -> None:
        """Closes the control socket, at which the process ends by itself."""
        if self._control.fileno() >= 0:
            self._loop.remove_reader(self._control.fileno())
            self._loop.remove_writer(self._control.fileno())
            self._control.close()
        while self._queue:
            _, descriptor = self._queue.popleft()
            if descriptor >= 0:
                os.close(descriptor)

    async def ended(self) -> None:
        """Waits until it is reaped."""
        while self.is_running:
            await self._gone.wait()

    def _flush(self) -> None:
        while self._queue:
            message, descriptor = self._queue[0]
            try:
                if descriptor >= 0:
                    socket.send_fds(self._control, [message], [descriptor])
                else:
                    self._control.send(message)
            except (BlockingIOError, InterruptedError):
                self._loop.add_writer(self._control.fileno(), self._writable)
                return
            except OSError:  # it has died, or is dying
                self.kill()
                return
            if descriptor >= 0:
                os.close(descriptor)
            self._queue.popleft()

    def _writable(self) -> None:
        self._loop.remove_writer(self._control.fileno())
        self._flush()

    def _readable(self) -> None:
        for _ in range(_MESSAGES_A_TURN):
            try:
                data = self._control.recv(MAX_MESSAGE_BYTES + 1)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                data = b""
            try:
                message = read(data)
            except ProtocolViolation:  # the end of the stream is one too
                self._loop.remove_reader(self._control.fileno())
                self.kill()
                return
            self._told(message)
            if self._control.fileno() < 0:
                return  # let go of meanwhile

    def _reap(self) -> None:
        try:
            os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG)
        except ChildProcessError:
            pass  # this process ignores its children, or somebody else waits for all of them
        self.is_running = False
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self.let_go()
        words = os.pread(self._errors, _LAST_WORDS_BYTES, max(0, os.fstat(self._errors).st_size - _LAST_WORDS_BYTES))
        os.close(self._errors)
        self._gone.ring()
        lines = words.decode("utf-8", "replace").split("\n")
        self._died(next((line.strip() for line in reversed(lines) if line.strip()), "it says nothing"))


def _spawn(environment: Mapping[str, str], control: int, errors: int) -> int:
    """Starts it in a session of its own, so that a terminal's signals do not reach it. `-P`: not what lies in the current directory."""
    if not sys.executable:
        raise OSError("this process does not know its Python interpreter")
    argv = [sys.executable, "-P", "-m", "agentkernel.egress", "--control-fd", str(_CONTROL_FD)]
    passed = {name: value for name, value in daemon_environment(environment).items() if name in _PASSED}
    actions = [
        (os.POSIX_SPAWN_DUP2, errors, 2),
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
    ]
    if control == _CONTROL_FD:
        os.set_inheritable(control, True)  # duplicated onto itself it would stay closed on execution
    else:
        actions.append((os.POSIX_SPAWN_DUP2, control, _CONTROL_FD))
    return os.posix_spawn(argv[0], argv, passed, file_actions=actions, setsid=True)
