"""What a verb gets from its process: the environment, the working directory and the door to the kernel."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from agentkernel.errors import InvalidInput

if TYPE_CHECKING:
    from agentkernel.abc import Kernel


class Context:
    """The surroundings of one invocation; tests make their own with a scripted kernel."""

    def __init__(self, *, environment: Mapping[str, str], open_kernel: Callable[[Mapping[str, str]], Kernel]) -> None:
        self.environment = environment
        self._open_kernel = open_kernel

    def kernel(self) -> Kernel:
        """Opens the door; nothing is probed or imported before it is used."""
        return self._open_kernel(self.environment)

    def cwd(self) -> str:
        """The working directory; raises InvalidInput when it has been removed."""
        try:
            return os.getcwd()
        except FileNotFoundError:
            raise InvalidInput("the working directory no longer exists", hint="change to a directory that does") from None
