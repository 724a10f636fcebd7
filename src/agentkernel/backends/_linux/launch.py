"""Runs `agentkernel-guest enter` on a plan and reports the first process, or the step that failed."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import signal
import struct
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

from agentkernel.backends._linux.plan import AGENT_SOCKET_FD, LOG_FD, PLAN_FD, STATUS_FD, Op, Step, encode
from agentkernel.errors import LaunchFailed

LAUNCH_DEADLINE_S = 20.0
STEP_HINT = "run `agentkernel doctor` to see what this host allows"  # the kernel refused a step; the facts may tell why
_RECORD = struct.Struct("<IIII")
_KIND_FAILED, _KIND_PID, _KIND_READY = 1, 3, 4  # 2: the plan is malformed


@dataclass(frozen=True, slots=True, kw_only=True)
class Launched:
    """The sandbox's first process: our child, named by a pidfd."""

    pid: int
    pidfd: int


class Launcher:
    """`enter`, started and waiting for its plan, which is computed meanwhile. Ends by itself when nobody holds this any more."""

    def __init__(self, guest: Path, listener_fd: int, log_fd: int | None = None) -> None:
        """`log_fd`: what the program of a last step PROGRAM complains on. Raises LaunchFailed."""
        with contextlib.ExitStack() as made:
            plan_read, self._plan = _pipe(made)
            self._status, status_write = _pipe(made)
            # For the clean-up, which goes on when the launch is cancelled. There may be no descriptor to be had when it is needed.
            self._spare = _Descriptor(os.dup(self._status.fd))
            made.callback(self._spare.close)
            self._enter_pid = _spawn(guest, plan_read.fd, status_write.fd, listener_fd, log_fd)
            made.pop_all()
        plan_read.close()
        status_write.close()
        os.set_blocking(self._plan.fd, False)
        os.set_blocking(self._status.fd, False)

    async def run(self, steps: tuple[Step, ...]) -> Launched:
        """Executes the plan; returns when its last step is done. To be called once.

        Raises:
            LaunchFailed: names the step and the kernel's answer; no process is left.
        """
        pidfd = pid = -1
        failure: LaunchFailed | None = None
        ready = False
        try:
            async with asyncio.timeout(LAUNCH_DEADLINE_S), contextlib.aclosing(_records(self._status.fd)) as records:
                await self._send(encode(steps))
                async for kind, step, number, value in records:
                    if kind == _KIND_PID:
                        pid = value
                        pidfd = os.pidfd_open(pid)
                    elif kind == _KIND_READY:
                        ready = True
                    elif failure is None:
                        failure = _explain(kind, step, number, steps)
            if failure is None and not (ready and pidfd >= 0):
                failure = LaunchFailed("the launcher was killed before the sandbox was ready", hint="was the host out of memory?")
            if failure is not None:
                raise failure
        except BaseException as error:
            await asyncio.shield(self._abandon(pid, pidfd))
            if isinstance(error, TimeoutError):
                raise LaunchFailed(f"the sandbox was not ready within {LAUNCH_DEADLINE_S:.0f} s", hint="is the host overloaded?") from error
            raise
        self._close()
        os.waitpid(self._enter_pid, 0)  # it ends with its last step, so this does not wait
        return Launched(pid=pid, pidfd=pidfd)

    async def give_up(self) -> None:
        """In place of `run`: there is no plan."""
        await asyncio.shield(self._abandon(-1, -1))

    async def _send(self, plan: bytes) -> None:
        """Writes the plan, and its end; a launcher that is gone is told of by its records, or by their end."""
        remaining = memoryview(plan)
        with contextlib.suppress(BrokenPipeError):
            while remaining:
                try:
                    remaining = remaining[os.write(self._plan.fd, remaining) :]
                except BlockingIOError:
                    await writable(self._plan.fd)
        self._plan.close()

    async def _abandon(self, pid: int, pidfd: int) -> None:
        """Kills and reaps whatever was started: the first process may have reported itself without being heard."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._enter_pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._enter_pid, 0)
        try:
            if pid < 0:
                async for kind, _, _, value in _records(self._spare.fd):
                    if kind == _KIND_PID:
                        pid = value
        finally:
            self._close()
        if pidfd >= 0:
            await kill_and_reap(pidfd)
        elif pid > 0:
            await _kill_child(pid)

    def _close(self) -> None:
        for each in (self._plan, self._status, self._spare):
            each.close()


class _Descriptor:
    """A descriptor that is closed once, by whoever comes first."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _pipe(made: contextlib.ExitStack) -> tuple[_Descriptor, _Descriptor]:
    """A pipe's ends for reading and writing; `made` closes them."""
    read, write = (_Descriptor(fd) for fd in os.pipe2(os.O_CLOEXEC))
    made.callback(read.close)
    made.callback(write.close)
    return read, write


def _spawn(guest: Path, plan_fd: int, status_fd: int, listener_fd: int, log_fd: int | None) -> int:
    """Starts `enter` with an empty environment, in a session of its own (so the terminal's Ctrl-C never reaches a sandbox)."""
    argv = [str(guest), "enter", "--plan-fd", str(PLAN_FD), "--status-fd", str(STATUS_FD)]
    # Copies above the targets, so that no dup2 of the child overwrites a source.
    given = {AGENT_SOCKET_FD: listener_fd, PLAN_FD: plan_fd, STATUS_FD: status_fd}
    if log_fd is not None:
        given[LOG_FD] = log_fd
    copies = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, LOG_FD + 1) for fd in given.values()]
    actions = [(os.POSIX_SPAWN_DUP2, copy, target) for copy, target in zip(copies, given, strict=True)]
    try:
        return os.posix_spawn(argv[0], argv, {}, file_actions=actions, setsid=True, setsigmask=(), setsigdef=(signal.SIGPIPE,))
    except OSError as error:
        raise LaunchFailed(f"cannot run {guest}: {error}", hint="reinstall agentkernel") from error
    finally:
        for copy in copies:
            os.close(copy)


async def _records(status_fd: int) -> AsyncGenerator[tuple[int, int, int, int], None]:
    pending = b""
    while True:
        await readable(status_fd)
        chunk = os.read(status_fd, 4096)
        if not chunk:
            return
        pending += chunk
        while len(pending) >= _RECORD.size:
            yield _RECORD.unpack(pending[: _RECORD.size])
            pending = pending[_RECORD.size :]


def _explain(kind: int, step: int, number: int, steps: tuple[Step, ...]) -> LaunchFailed:
    if kind == _KIND_FAILED and step < len(steps):
        if steps[step].op in (Op.TREE, Op.IDMAP_TREE) and number == errno.EINVAL:
            return LaunchFailed(
                f"cannot {steps[step].describe()}: its file system cannot be id-mapped (overlayfs and some network file systems)",
                hint="use a directory on another file system, or run as a plain user",
            )
        name = errno.errorcode.get(number, str(number))
        return LaunchFailed(
            f"cannot {steps[step].describe()}: {os.strerror(number)} ({name}, step {step} of the launch plan)",
            hint=STEP_HINT,
        )
    return LaunchFailed(
        f"the launcher refused the plan (record {kind}, step {step}, errno {number})",
        hint="this is a fault of agentkernel; please report it",
    )


async def _kill_child(pid: int) -> None:
    """Kills and reaps a child without a descriptor for it: nobody has waited for it, so the pid is still its own."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(pid, os.WNOHANG) == (0, 0):  # noqa: ASYNC110 - without a descriptor there is no bell
            await asyncio.sleep(0.002)


async def readable(fd: int) -> None:
    """Waits until a descriptor is readable (a pidfd: until its process has ended)."""
    loop = asyncio.get_running_loop()
    event = asyncio.Event()
    loop.add_reader(fd, event.set)
    try:
        await event.wait()
    finally:
        loop.remove_reader(fd)


async def writable(fd: int) -> None:
    """Waits until a pipe takes more."""
    loop = asyncio.get_running_loop()
    event = asyncio.Event()
    loop.add_writer(fd, event.set)
    try:
        await event.wait()
    finally:
        loop.remove_writer(fd)


async def kill_and_reap(pidfd: int) -> None:
    """Kills the sandbox's first process, and with it all others; waits until the kernel has ended them all and closes the pidfd."""
    try:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        await readable(pidfd)
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
    finally:
        os.close(pidfd)
