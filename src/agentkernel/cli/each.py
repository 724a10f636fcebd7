"""Verbs that do one thing to each of several: what fails for one is said, and the others get their turn."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from agentkernel.cli.context import Context
from agentkernel.cli.failure import error_record, print_failure
from agentkernel.cli.output import say
from agentkernel.cli.show import print_json
from agentkernel.errors import AgentKernelError, DaemonUnavailable, ServerUnavailable, Unauthorized
from agentkernel.model.record import SandboxInfo
from agentkernel.text.records import sandbox_record

_FOR_ALL = (DaemonUnavailable, ServerUnavailable, Unauthorized)  # what fails so for one fails so for every other


class Tally:
    """What was done and what failed, told at once to people and at the end as one JSON document."""

    def __init__(self, context: Context, *, as_json: bool) -> None:
        self._context, self._as_json = context, as_json
        self._done: list[object] = []
        self._failed: list[tuple[str, AgentKernelError]] = []

    @contextmanager
    def attempt(self, name: str) -> Iterator[None]:
        """What is done to one of them; an error of it is said, and no more than that."""
        try:
            yield
        except AgentKernelError as error:
            say("error", error.message, error.hint, self._context.environment)
            self._failed.append((name, error))

    def did(self, text: str, record: object) -> None:
        """One of them is done."""
        self._done.append(record)
        if not self._as_json:
            sys.stdout.write(f"{text}\n")

    @property
    def is_hopeless(self) -> bool:
        """Whether the others would fail for the same reason."""
        return bool(self._failed) and isinstance(self._failed[-1][1], _FOR_ALL)

    def finish(self) -> int:
        """Returns the exit status, that of the first that failed. JSON is an array of what was done, after a failure the error and both."""
        first = self._failed[0][1] if self._failed else None
        if self._as_json and first is None:
            print_json(self._done)
        elif self._as_json and first is not None:
            failed = [{"name": name, "error": error_record(error)} for name, error in self._failed]
            print_failure(first, done=self._done, failed=failed)
        return 0 if first is None else first.exit_status


def for_each(names: Sequence[str], act: Callable[[str], SandboxInfo | None], context: Context, *, as_json: bool) -> int:
    """Acts on each sandbox and prints its name, or all that came of it as JSON; returns the exit status of the first that failed."""
    tally = Tally(context, as_json=as_json)
    for name in names:
        with tally.attempt(name):
            info = act(name)
            tally.did(name if info is None else info.name, {"name": name} if info is None else sandbox_record(info))
        if tally.is_hopeless:
            break
    return tally.finish()
