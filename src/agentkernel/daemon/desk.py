"""What the parts of the daemon share: the engine, the tasks, the log, and whether it still takes work."""

from __future__ import annotations

import asyncio
import os
import traceback
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, Protocol

from agentkernel.abc import Caller, Host
from agentkernel.errors import AgentKernelError, DaemonUnavailable, NotFound

TRACE_LETTERS: Final = 1500  # of the end of a traceback: which line it was, and why
_Followed = tuple[Caller, int]  # who follows a command, with which token; its exec id


class Waiting(Protocol):
    """A session whose client was lost, and may come back over another connection."""

    def lose(self) -> None:
        """It does not come."""
        ...

    def leave(self) -> None:
        """Lets go of what it followed without ending anything."""
        ...

    @property
    def told(self) -> tuple[bool, bool]:
        """Whether the beginning and the end of its command have been told to the engine."""
        ...


class Desk:
    """One daemon's.

    Args:
        log: writes a line to daemon.log.
    """

    def __init__(self, host: Host, log: Callable[[str], None]) -> None:
        self.host = host
        self.log = log
        self.is_draining = False
        self.is_replaced = False  # another version of the package is to follow
        self.clients = 0
        self.passed_on = 0  # of these, those that a server opened for callers of its own
        self._ending = asyncio.Event()
        self._reason = ""
        self._tasks: set[asyncio.Task[Any]] = set()
        self._claims: dict[int, tuple[Caller, list[asyncio.Event]]] = {}
        self._waiting: dict[_Followed, list[Waiting]] = {}

    @property
    def reason(self) -> str:
        """Why it is to end."""
        return self._reason

    @property
    def is_ending(self) -> bool:
        """Whether it is to end."""
        return self._ending.is_set()

    def end(self, reason: str, *, is_replaced: bool = False) -> None:
        """Lets the daemon end, in good order; the first reason counts."""
        if not self._ending.is_set():
            self._reason = reason
            self.is_replaced = is_replaced
            self._ending.set()

    async def ending(self) -> None:
        """Waits until it is to end."""
        await self._ending.wait()

    def check(self) -> None:
        """Raises DaemonUnavailable where no new work is taken: nothing was done, the next daemon will."""
        if self.is_draining:
            raise DaemonUnavailable("the daemon is ending", hint="connect again")

    def fault(self, what: str, error: Exception) -> AgentKernelError:
        """What a client is told of a fault of ours: an id, by which the log has the rest. What broke may name files of this host."""
        ident = os.urandom(4).hex()
        self.log(f"fault {ident}: {what} failed: {error!r}, {''.join(traceback.format_exception(error))[-TRACE_LETTERS:]}")
        return AgentKernelError(f"the daemon itself failed (fault {ident})", hint="daemon.log of its machine says more about that fault")

    def claim(self, caller: Caller, exec_id: int, let_go: asyncio.Event) -> None:
        """One more session of the caller's has to do with the sandbox that is made for that command; `let_go` is its own.

        Raises NotFound where that is another caller's: two tokens of one user are two callers.
        """
        if self.is_of_another(caller, exec_id):
            raise NotFound(f"the caller has no command {exec_id:016x}", hint="each command has an id of its own")
        self._claims.setdefault(exec_id, (caller, []))[1].append(let_go)

    def is_of_another(self, caller: Caller, exec_id: int) -> bool:
        """Whether somebody else has to do with the sandbox of that command."""
        claim = self._claims.get(exec_id)
        return claim is not None and claim[0] != caller

    def claims(self, exec_id: int) -> Sequence[asyncio.Event]:
        """What those sessions wait for that only hold the sandbox."""
        return tuple(self._claims[exec_id][1]) if exec_id in self._claims else ()

    def unclaim(self, exec_id: int, let_go: asyncio.Event) -> bool:
        """That session has ended; whether it was the last one, with which the sandbox goes."""
        claims = self._claims[exec_id][1]
        claims.remove(let_go)
        if claims:
            return False
        del self._claims[exec_id]
        return True

    def wait(self, caller: Caller, exec_id: int, session: Waiting, patience_s: float) -> None:
        """A session waits so long for its client to come back."""
        key = (caller, exec_id)
        self._waiting.setdefault(key, []).append(session)
        asyncio.get_running_loop().call_later(patience_s, self._give_up, key, session)

    def take_over(self, caller: Caller, exec_id: int) -> tuple[bool, bool]:
        """The client is back, and its new session follows the command: those that waited let go; see `Waiting.told`."""
        sessions = self._waiting.pop((caller, exec_id), [])
        for session in sessions:
            session.leave()
        return any(session.told[0] for session in sessions), any(session.told[1] for session in sessions)

    def leave(self) -> None:
        """The daemon goes: those that wait let go, for the next one."""
        for caller, exec_id in tuple(self._waiting):
            self.take_over(caller, exec_id)

    def _give_up(self, key: _Followed, session: Waiting) -> None:
        sessions = self._waiting.get(key, [])
        if session in sessions:
            sessions.remove(session)
            if not sessions:
                del self._waiting[key]
            session.lose()

    def spawn(self, work: Coroutine[Any, Any, object], name: str) -> asyncio.Task[Any]:
        """Runs something to its end beside everything else; what it fails with is logged."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def unfinished(self) -> tuple[asyncio.Task[Any], ...]:
        """What still runs."""
        return tuple(self._tasks)

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.log(f"{task.get_name()} failed: {error!r}")
