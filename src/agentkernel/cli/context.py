"""What a verb gets from its process: the environment, the working directory and the door to the kernel."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from agentkernel.errors import DaemonUnavailable, InvalidInput

if TYPE_CHECKING:
    from agentkernel.abc import Kernel
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

    def kernel(self) -> Kernel:
        """Opens the door of an engine in this process; nothing is probed or imported before it is used."""
        return self._open_kernel(self.environment)

    def client(self) -> Kernel:
        """Opens the door of the daemon's."""
        return self._open_client(self.environment)

    def any_kernel(self) -> Kernel:
        """The daemon's door, or where `AGENTKERNEL_DAEMON` says that there is to be none, an engine's in this process."""
        return self.kernel() if self._is_off else self.client()

    def client_of(self, verb: str) -> Kernel:
        """The daemon's door, for a verb that makes no sense without; raises as `calls` does."""
        self._need_daemon(verb)
        return self.client()

    def calls(self, verb: str, *, starts: bool = True) -> Calls:
        """The daemon, for plain calls; raises DaemonUnavailable where `AGENTKERNEL_DAEMON` says that there is to be none."""
        self._need_daemon(verb)
        return self._open_calls(self.environment, starts)

    def running_daemon(self) -> Calls:
        """The daemon for who asks for it by name: one that is there already, whatever the switch says."""
        return self._open_calls(self.environment, False)

    @property
    def _is_off(self) -> bool:
        return self.environment.get(_SWITCH, "").strip().lower() in _OFF

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
