"""Named steps at which a test makes this process fail: what a crash there leaves must be found and settled by the next start.

AGENTKERNEL_FAILPOINTS holds rules, separated by commas: `NAME[@N]=ACTION`. With `@N` only the Nth call (from 1) acts, else every call.

    kill            SIGKILL for this process
    exit            ends this process at once with status 70, without cleaning up
    error:EIO       raises OSError with that errno
    stop            SIGSTOP for this process: it stands still there until somebody sends SIGCONT
    pause:0.5       blocks this process for so many seconds (its event loop too), as SIGSTOP and SIGCONT would

The variable is read once, when this module is imported. Without it a call costs one look at a global.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from agentkernel.errors import InvalidInput

ENVIRONMENT_NAME: Final = "AGENTKERNEL_FAILPOINTS"
EXIT_STATUS: Final = 70


@dataclass(slots=True)
class _Rule:
    """What happens at one name."""

    act: Callable[[str], None]
    only_call: int  # 0: every call
    calls: int = 0

    def reached(self, name: str) -> None:
        self.calls += 1
        if self.only_call in (0, self.calls):
            self.act(name)


def failpoint(name: str) -> None:
    """Marks a step, as `<part>.<operation>.<step>`; does nothing unless a rule names it."""
    if _rules:
        for rule in _rules.get(name, ()):
            rule.reached(name)


def parse(text: str) -> dict[str, list[_Rule]]:
    """Reads the rules, by name; raises InvalidInput for one that is none."""
    rules: dict[str, list[_Rule]] = {}
    for part in filter(None, map(str.strip, text.split(","))):
        place, _, action = part.partition("=")
        name, _, number = place.partition("@")
        if not name or (number and not number.isdecimal()):
            raise InvalidInput(f"{ENVIRONMENT_NAME}: {part!r} is not NAME[@N]=ACTION")
        rules.setdefault(name, []).append(_Rule(act=_action(action), only_call=int(number or 0)))
    return rules


def _action(text: str) -> Callable[[str], None]:
    kind, _, value = text.partition(":")
    if text == "kill":
        return lambda _: os.kill(os.getpid(), signal.SIGKILL)
    if text == "stop":
        return lambda _: os.kill(os.getpid(), signal.SIGSTOP)
    if text == "exit":
        return lambda _: os._exit(EXIT_STATUS)
    if kind == "error" and isinstance(number := getattr(errno, value, None), int):
        return lambda name: _raise(number, name)
    if kind == "pause" and value.replace(".", "", 1).isdecimal():
        return lambda _: time.sleep(float(value))
    raise InvalidInput(f"{ENVIRONMENT_NAME}: no action {text!r}", hint="kill, exit, stop, error:ERRNO or pause:SECONDS")


def _raise(number: int, name: str) -> None:
    raise OSError(number, f"{os.strerror(number)} (failpoint {name})")


_rules: Final = parse(os.environ.get(ENVIRONMENT_NAME, ""))
