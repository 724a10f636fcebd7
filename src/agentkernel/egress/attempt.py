"""One attempt of a sandbox's to reach something, and how it ends: exactly one decision is told of it, unless it changes later."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from typing import Final

from agentkernel.model.network import Decision, Verdict
from agentkernel.policy.egress import Told

_MAX_HOST_CHARACTERS: Final = 253


class RefusedError(Exception):
    """It does not go on: `verdict` is DENIED by a rule or limit, or FAILED to reach what is allowed. The text is one sentence."""

    def __init__(
        self,
        reason: str,
        *,
        rule: str = "",
        verdict: Verdict = Verdict.DENIED,
        number: int = errno.EACCES,
        code: str = "",
        hint: str = "",
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.rule = rule
        self.verdict = verdict
        self.number = number  # the errno that says it best
        self.code = code  # what a program is told that can be told; empty: by the verdict
        self.hint = hint  # what to ask for; empty: to allow it
        self.told = Told(rule, reason)  # what a program hears
        self.is_guarded = False  # a program is not to hear what its name leads to: it hears less than the host's logs

    def guarded(self, told: Told | None) -> RefusedError:
        """The same, of which a program hears other words; None: the same words."""
        if told is not None:
            self.told, self.is_guarded = told, True
        return self

    @property
    def is_denial(self) -> bool:
        """Whether asking for more could help."""
        return self.verdict is Verdict.DENIED


def failed(reason: str, *, rule: str = "", number: int = errno.EHOSTUNREACH, told_rule: str | None = None) -> RefusedError:
    """Allowed, and could not be reached. `told_rule`: which rule the program hears of, if another one."""
    told = None if told_rule is None else Told(told_rule, reason)
    return RefusedError(reason, rule=rule, verdict=Verdict.FAILED, number=number).guarded(told)


class Attempt:
    """Where to, as the sandbox named it, and by which protocol; tells what became of it."""

    def __init__(self, tell: Callable[[Decision], None], protocol: str, host: str, port: int) -> None:
        self.host = host
        self.port = port
        self.address = ""
        self.rule = ""
        self._tell = tell
        self._protocol = protocol
        self._at = time.time()
        self._told: Verdict | None = None

    def allow(self) -> None:
        """It is connected; does nothing where something was told already."""
        if self._told is None:
            self._say(Verdict.ALLOWED, self.rule, "")

    def refuse(self, refused: RefusedError) -> None:
        """It is denied or failed; told also where it was allowed before."""
        self._say(refused.verdict, refused.rule or self.rule, refused.reason)

    def _say(self, verdict: Verdict, rule: str, reason: str) -> None:
        if self._told is not verdict:
            self._told = verdict
            self._tell(
                Decision(
                    at=self._at,
                    verdict=verdict,
                    protocol=self._protocol,
                    host=shown(self.host),
                    port=self.port,
                    address=self.address,
                    rule=rule,
                    reason=reason,
                )
            )


def shown(host: str) -> str:
    """A host as logs show it: printable ASCII, not too long."""
    return "".join(each if " " < each < "\x7f" else "?" for each in host[:_MAX_HOST_CHARACTERS])
