"""Requests that bodies made of the settings below them: most bodies say nothing of their sandbox, or the same as the one before."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from agentkernel.config.load import Layer, Settings
from agentkernel.model.request import SandboxRequest

MOST: Final = 64

_Below = tuple[tuple[Layer, ...], Mapping[str, str]]


class Remembered:
    """The last requests; forgotten when the settings or the environment are others. What looks at files must be made each time."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._known: tuple[_Below, dict[tuple[tuple[str, object], ...], SandboxRequest]] | None = None

    def request(
        self, said: Mapping[str, object], settings: Settings, environment: Mapping[str, str], make: Callable[[], SandboxRequest]
    ) -> SandboxRequest:
        """What `make` makes of the words and numbers in `said`, with these settings and this environment; raises what `make` raises."""
        below: _Below = (settings.layers, environment)
        known = self._known
        if known is None or known[0] != below:
            known = self._known = ((settings.layers, dict(environment)), {})
        made = known[1]
        key = tuple(sorted(said.items()))
        found = made.get(key)
        if found is None:
            found = make()
            if len(made) >= self._most:
                made.clear()
            made[key] = found
        return found
