"""What a verb gets from its process: the environment, the working directory and the door to the kernel."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

from agentkernel import assembly
from agentkernel import cli as late  # what only verbs that ask the daemon need
from agentkernel.errors import DaemonUnavailable, InvalidInput, Unsupported

if TYPE_CHECKING:
    from asyncio import StreamReader, StreamWriter

    from agentkernel.abc import Caller, Kernel
    from agentkernel.client.calls import Calls

_SWITCH = "AGENTKERNEL_DAEMON"
_OFF = ("off", "false", "no", "0")


class Context:
    """The surroundings of one invocation; tests make their own with a scripted kernel."""

    def __init__(
        self,
        *,
        environment: Mapping[str, str],
        open_kernel: Callable[[Mapping[str, str]], Kernel],
        open_client: Callable[[Mapping[str, str]], Kernel],
        open_calls: Callable[[Mapping[str, str], bool], Calls],
    ) -> None:
        self.environment = environment
        self._open_kernel = open_kernel
        self._open_client = open_client
        self._open_calls = open_calls
        self._with_files: Mapping[str, str] | None = None

    def kernel(self) -> Kernel:
        """Opens the door of an engine in this process; nothing is probed or imported before it is used."""
        return self._open_kernel(self.environment)

    def client(self) -> Kernel:
        """Opens the door of the daemon's, which may be one elsewhere."""
        return self._open_client(self._located())

    def any_kernel(self) -> Kernel:
        """The daemon's door, or where `AGENTKERNEL_DAEMON` says that there is to be none, an engine's in this process."""
        return self.kernel() if self._is_off else self.client()

    def doors(self) -> Callable[[Caller], Kernel]:
        """The door of `any_kernel` for each caller of a server: behind a daemon one each, which may do no more than that caller may."""
        if self._is_off:
            kernel = self.kernel()
            return lambda caller: kernel
        self.here("a server serves the daemon of its own machine")
        return lambda caller: assembly.build_client(self.environment, caller)

    def tunnel(self) -> Callable[[Caller], Awaitable[tuple[StreamReader, StreamWriter]]] | None:
        """Opens the daemon's own byte stream for a caller of a server; None where there is to be no daemon."""
        if self._is_off:
            return None
        return lambda caller: assembly.open_door(self.environment, caller)

    def client_of(self, verb: str) -> Kernel:
        """The daemon's door, for a verb that makes no sense without; raises as `calls` does."""
        self._need_daemon(verb)
        return self.client()

    def calls(self, verb: str, *, starts: bool = True) -> Calls:
        """The daemon, for plain calls; raises DaemonUnavailable where `AGENTKERNEL_DAEMON` says that there is to be none."""
        self._need_daemon(verb)
        return self._open_calls(self._located(), starts)

    def running_daemon(self) -> Calls:
        """The daemon for who asks for it by name: one that is there already, whatever the switch says."""
        return self._open_calls(self._located(), False)

    def elsewhere(self) -> str:
        """The URL of the daemon elsewhere that is asked in place of this machine's; empty: none is."""
        found = late.elsewhere_of(self._located())
        return "" if found is None else found.url

    def here(self, why: str, hint: str = "AGENTKERNEL_HOST= (set, but empty) says: here") -> None:
        """Raises Unsupported for what only this machine's own daemon can be asked, where the settings name one elsewhere."""
        if url := self.elsewhere():
            raise Unsupported(f"{why}, and the settings name one at {url}", hint=hint)

    def _need_daemon(self, verb: str) -> None:
        if self._is_off:
            raise DaemonUnavailable(
                f"`agentkernel {verb}` needs the daemon, which keeps sandboxes", hint=f"unset {_SWITCH}; only `run` works without a daemon"
            )

    def cwd(self) -> str:
        """The working directory; raises InvalidInput when it has been removed."""
        try:
            return os.getcwd()
        except FileNotFoundError:
            raise InvalidInput("the working directory no longer exists", hint="change to a directory that does") from None

    @property
    def _is_off(self) -> bool:
        """Whether there is to be no daemon; raises InvalidInput where one is named all the same."""
        is_off = self.environment.get(_SWITCH, "").strip().lower() in _OFF
        if is_off and (url := self.elsewhere()):
            raise InvalidInput(f"{_SWITCH} says that there is to be no daemon, and the settings name one at {url}", hint=f"unset {_SWITCH}")
        return is_off

    def _located(self) -> Mapping[str, str]:
        """The environment with what the user's files say of a daemon elsewhere, which are read when a daemon is first asked."""
        if self._with_files is None:
            self._with_files = late.located(self.environment)
        return self._with_files
