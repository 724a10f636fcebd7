"""What programs give: one form for the kernel, and InvalidInput for everything that cannot have it."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from agentkernel.channel.gather import whole_of
from agentkernel.config.options import command_of, statuses_of
from agentkernel.errors import InvalidInput
from agentkernel.sdk import given


@pytest.mark.parametrize(
    ("words", "argv"),
    [
        (("ls", "-l"), (b"ls", b"-l")),
        ((["ls", "-l"],), (b"ls", b"-l")),
        ((("ls", b"\xff", Path("/x")),), (b"ls", b"\xff", b"/x")),
        ((b"ls",), (b"ls",)),
        ((Path("/bin/ls"),), (b"/bin/ls",)),
    ],
)
def test_a_command_is_words_or_one_list_of_them(words: tuple[object, ...], argv: tuple[bytes, ...]) -> None:
    assert command_of(words, {}, stdin=False).argv == argv


@pytest.mark.parametrize("words", [(), ([],), (None,), (5,), ("echo", 5), ("echo", ["a"]), (["a"], "b"), ([["a"]],), ({"ls": "x"},)])
def test_nothing_else_is_a_command(words: tuple[object, ...]) -> None:
    with pytest.raises(InvalidInput):
        command_of(words, {}, stdin=False)


@pytest.mark.parametrize("environment", [{"A": 1}, {1: "A"}, {"A": None}, ["A=1"], "A=1"])
def test_an_environment_is_of_strings(environment: object) -> None:
    with pytest.raises(InvalidInput, match="environment"):
        command_of(("ls",), {"environment": environment}, stdin=False)


def _pieces() -> Iterator[bytes]:
    yield b"x"


async def _coming() -> AsyncIterator[bytes]:
    yield b"x"


def test_input_is_all_there_or_comes_in_pieces() -> None:
    assert [whole_of(each) for each in ("é", b"x", bytearray(b"x"), memoryview(b"x"))] == ["é".encode(), b"x", b"x", b"x"]
    assert [whole_of(each) for each in (_pieces(), _coming(), [b"x"])] == [None, None, None]
    for wrong in (5, None, object()):
        with pytest.raises(InvalidInput, match="input"):
            whole_of(wrong)


@pytest.mark.parametrize(
    ("read", "right", "wrong"),
    [
        (given.number, {5: 5, signal.SIGTERM: 15, -1: -1}, (True, 1.0, "5", None)),
        (given.moment, {5: 5.0, 1.5: 1.5}, (True, "5", None)),
        (given.text, {"a": "a", "": ""}, (b"a", 5, None)),
        (given.texts, {("a", "b"): ("a", "b"), (): ()}, ("ab", b"ab", None, (1,))),
        (given.data, {"é": "é".encode(), b"x": b"x"}, (5, None, ["a"])),
    ],
)
def test_a_value_has_its_kind_or_is_refused_by_name(
    read: Callable[[str, object], object], right: dict[object, object], wrong: tuple[object, ...]
) -> None:
    assert [read("it", value) for value in right] == list(right.values())
    for value in wrong:
        with pytest.raises(InvalidInput, match="it wants"):
            read("it", value)


def test_a_path_is_text_bytes_or_a_path() -> None:
    assert [given.path(each) for each in ("/a", b"/\xff", Path("/a"))] == ["/a", os.fsdecode(b"/\xff"), "/a"]
    for wrong in (5, None, ["/a"]):
        with pytest.raises(InvalidInput):
            given.path(wrong)


async def test_a_file_is_written_of_bytes_and_never_of_text() -> None:
    assert [given.contents(each) for each in (b"x", bytearray(b"x"), memoryview(b"x"))] == [b"x"] * 3
    coming = given.contents(_coming())
    assert not isinstance(coming, bytes) and [piece async for piece in coming] == [b"x"]
    for wrong in ("text", None, 5):
        with pytest.raises(InvalidInput, match="a file is written of bytes"):
            given.contents(wrong)

    async def texts() -> AsyncIterator[str]:
        yield "text"

    coming = given.contents(texts())
    assert not isinstance(coming, bytes)
    with pytest.raises(InvalidInput, match="pieces that are str"):
        await anext(coming)


def test_one_status_is_no_list_of_them() -> None:
    with pytest.raises(InvalidInput, match="wants a list"):
        statuses_of("running")
