"""Keys of calls: a repeat is answered to who asked, and to nobody else whose key happens to be the same."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import cast

import pytest

from agentkernel.abc import Caller, Host
from agentkernel.daemon.calls import CALLERS, REMEMBERED, Calls
from agentkernel.daemon.desk import Desk
from agentkernel.errors import Refused

KEY = "0123456789abcdef" * 2
FIRST = Caller(principal="ann", scopes=frozenset({"full"}), remote=True, via="first")
OTHERS = {
    "another token": replace(FIRST, via="second"),
    "another scope": replace(FIRST, scopes=frozenset({"sandbox:box"})),
    "a user of the machine": replace(FIRST, remote=False),
    "another user": replace(FIRST, principal="bob"),
}


class Counting:
    """What of the engine is asked for here: it remembers who asked, and refuses who only looks."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Caller]] = []

    async def unpublish(self, caller: Caller, name: str, port: int) -> None:
        """Notes it."""
        if "read-only" in caller.scopes:
            raise Refused("no")
        self.asked.append(("unpublish", caller))

    async def remove(self, caller: Caller, name: str, *, force: bool = False) -> None:
        """Notes it."""
        self.asked.append(("remove", caller))


def unpublish(key: str = KEY) -> bytes:
    return json.dumps({"op": "unpublish", "name": "box", "port": 80, "key": key}).encode()


@pytest.fixture
def host() -> Counting:
    return Counting()


@pytest.fixture
def calls(host: Counting) -> Calls:
    return Calls(Desk(cast("Host", host), print))


async def test_a_repeat_by_the_same_caller_is_done_once(calls: Calls, host: Counting) -> None:
    for _ in range(2):
        assert await calls.answer(replace(FIRST), unpublish()) == b"null"
    assert host.asked == [("unpublish", FIRST)]


@pytest.mark.parametrize("kind", OTHERS)
async def test_the_same_key_of_somebody_else_is_another_key(calls: Calls, host: Counting, kind: str) -> None:
    await calls.answer(FIRST, unpublish())
    await calls.answer(OTHERS[kind], unpublish())
    assert host.asked == [("unpublish", FIRST), ("unpublish", OTHERS[kind])]


async def test_nobody_pushes_out_what_another_was_answered(calls: Calls, host: Counting) -> None:
    await calls.answer(FIRST, unpublish())
    for number in range(REMEMBERED + 1):
        await calls.answer(OTHERS["another token"], unpublish(f"k{number}"))
    await calls.answer(FIRST, unpublish())
    assert sum(caller == FIRST for _, caller in host.asked) == 1
    await calls.answer(OTHERS["another token"], unpublish("k0"))  # its own oldest one is forgotten
    assert len(host.asked) == REMEMBERED + 3


async def test_so_many_callers_are_remembered_and_no_more(calls: Calls, host: Counting) -> None:
    for number in range(CALLERS + 1):
        await calls.answer(replace(FIRST, via=f"t{number}"), unpublish())
    for number in (1, 0):
        await calls.answer(replace(FIRST, via=f"t{number}"), unpublish())
    assert [caller.via for _, caller in host.asked[CALLERS + 1 :]] == ["t0"]


async def test_a_key_opens_nothing_to_who_may_not_ask(calls: Calls) -> None:
    await calls.answer(FIRST, unpublish())
    with pytest.raises(Refused):
        await calls.answer(replace(FIRST, scopes=frozenset({"read-only"})), unpublish())


def test_what_breaks_in_the_daemon_is_told_to_its_log_alone() -> None:
    lines: list[str] = []
    error = Desk(cast("Host", Counting()), lines.append).fault("CALL", OSError(2, "no such file", "/home/ann/.secret"))
    found = re.search(r"\(fault ([0-9a-f]{8})\)", error.message)
    assert found is not None and "/home" not in error.message + error.hint
    assert len(lines) == 1 and lines[0].startswith(f"fault {found[1]}: CALL failed: FileNotFoundError") and "/home/ann/.secret" in lines[0]


async def test_a_key_of_one_operation_answers_no_other(calls: Calls, host: Counting) -> None:
    await calls.answer(FIRST, unpublish())
    await calls.answer(FIRST, json.dumps({"op": "remove", "name": "box", "key": KEY}).encode())
    assert [what for what, _ in host.asked] == ["unpublish", "remove"]
